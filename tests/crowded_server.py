"""Scripts for servers that take only so many requests at once, or get slow; they count by the clock, as hardware does.

A request that its client gave up goes on being worked at: many servers do not notice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.chat_server import Reply, Request, says


@dataclass
class Crowded:
    """A script for `ChatServer`.

    Attributes:
        room: How many requests it works at side by side.
        seconds: How long one takes then.
        refuses: Whether it answers 429 above, else it gets slow.
        retry_after: What it says with a 429.
        slows: How: the power of the number under way over `room` by which an answer takes longer.
        refused: 429s so far.
        most: Requests under way at once, at most.
        arrived: When each request came.
    """

    room: int
    seconds: float
    refuses: bool = True
    retry_after: str = ""
    slows: float = 1.0
    refused: int = 0
    most: int = 0
    arrived: list[float] = field(default_factory=list)
    _ends: list[float] = field(default_factory=list)

    def __call__(self, request: Request) -> Sequence[Reply]:
        """The reply to the next request; `ChatServer` asks one at a time."""
        now = time.monotonic()
        self.arrived.append(now)
        self._ends = [end for end in self._ends if end > now]
        under_way = len(self._ends) + 1
        if self.refuses and under_way > self.room:
            self.refused += 1
            headers = {"Retry-After": self.retry_after} if self.retry_after else {}
            return [Reply(status=429, error="too many requests", headers=headers)]
        self.most = max(self.most, under_way)
        seconds = self.seconds * max(1.0, under_way / self.room) ** self.slows
        self._ends.append(now + seconds)
        return [says("x", delay_seconds=seconds)]
