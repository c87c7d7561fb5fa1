"""Recorded generations, read from files: responses of servers, batch output, this library's own records."""

from __future__ import annotations

from entcent_agents.recordings.keeping import Records
from entcent_agents.recordings.reading import Recordings, read_recordings
from entcent_agents.recordings.records import BadLine, GroupBy, Recorded
from entcent_agents.recordings.rollouts import recorded_line

__all__ = ["BadLine", "GroupBy", "Recorded", "Recordings", "Records", "read_recordings", "recorded_line"]
