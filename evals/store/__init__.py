"""Rollouts with their rewards and compact log-probabilities: SQLite while a run goes on, Parquet afterwards."""

from __future__ import annotations

from evals.store.database import DATABASE, RolloutStore
from evals.store.reading import StoredRun, read_run
from evals.store.record import SCHEMA_VERSION, StoredRollout, TaskKey
from evals.store.resuming import resume
from evals.store.table import TABLE, compact, require_pyarrow

__all__ = [
    "DATABASE",
    "SCHEMA_VERSION",
    "TABLE",
    "RolloutStore",
    "StoredRollout",
    "StoredRun",
    "TaskKey",
    "compact",
    "read_run",
    "require_pyarrow",
    "resume",
]
