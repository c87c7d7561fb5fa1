"""Events of LangGraph's `custom` stream: how a rollout is doing, without a word of what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

State = Literal["waiting", "thinking", "tool", "finished", "held", "unfinished", "failed"]
EVENT: Final = "entcent.rollout"
"""The `type` of a rollout's events in LangGraph's `custom` stream."""
COMMIT_EVENT: Final = "entcent.commit"
"""The `type` of the event that comes just before the winner is committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One rollout, at one moment.

    Attributes:
        rollout: Its index.
        round: The number of its round, from 1.
        state: What it is doing.
        turns: Model generations begun in this round.
        tokens: Generated in this round so far.
        tool: The tool that runs, if one does.
    """

    rollout: int
    round: int
    state: State = "waiting"
    turns: int = 0
    tokens: int = 0
    tool: str | None = None
