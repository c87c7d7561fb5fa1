"""What reading gives: candidates, and lines that could not be read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from entcent_agents.trajectory import Rollout

MAX_LINE_BYTES: Final = 1 << 28

GroupBy = Literal["id", "file"]
Reward = float | tuple[float | None, ...] | None
"""Of a line: one for all its candidates, or one each."""
Reader = Callable[[bytes, str, "re.Pattern[str] | None"], list[Rollout]]
"""From one JSON object, an identifier for its candidates and where answers are, to the candidates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One candidate for one task.

    Attributes:
        task: What it is a candidate for.
        rollout: What was generated; its index is its order within the task, its thread id is unique in the reading.
        reward: How good it was, where the file says so.
        source: Where it was read, `FILE:LINE`.
    """

    task: str
    rollout: Rollout
    reward: float | None
    source: str


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that could not be read.

    Attributes:
        source: `FILE:LINE`.
        reason: What is wrong with it and what was expected, in one line.
    """

    source: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingOptions:
    """How to read.

    Attributes:
        skip_bad: Whether to go on without lines that cannot be read.
        answer: Where in a text its answer is; without it the whole text is the answer.
        group_by: Candidates of one task have the same id, or are in the same file.
        task_pattern: Where in an id the task is.
        max_line_bytes: Longer lines, and longer documents of many lines, are bad.
    """

    skip_bad: bool = False
    answer: re.Pattern[str] | None = None
    group_by: GroupBy = "id"
    task_pattern: re.Pattern[str] | None = None
    max_line_bytes: int = MAX_LINE_BYTES
