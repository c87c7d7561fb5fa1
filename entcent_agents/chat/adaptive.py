"""How many requests one server is sent at once, decided from what became of earlier ones. Pure: no clock, no network.

Additive increase, multiplicative decrease, as TCP does it, with three kinds of signs:

- A refusal (429, 503, 529) shows where the edge is: whatever else was under way then is all the server took. The limit
  comes down to that, and once a round trip a tenth further, so that not every window of answers ends in a refusal.
- Silence (a time-out) shows only that it was too much: half.
- Slowness: most answers of a while took eight times as long as the quickest like them. Servers that batch take
  several times as long per answer when they are full, and give much more in sum; so a small multiple says nothing.
  Like is compared with like (`Kind`): with the length of prompt and answer, time to the first byte varies by more than
  any load makes it, and where an answer is not streamed its first byte comes when the last token is there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

AFTER_REFUSAL: Final = 0.9
AFTER_SILENCE: Final = 0.5
GROWTH: Final = 1 / 16
"""Of the limit, a round trip; one at least. In proportion, so that a large limit comes back before the day is over."""
SLOW: Final = 8.0
SLOW_SECONDS: Final = 1.0
"""Below it nothing is slow: what varies there is connections being opened, and our own event loop."""
STEPS: Final = 4
"""After so many the limit is past where it was refused: the server has more room than it had, and steps double."""
FEW_ANSWERS: Final = 8
"""Fewer answers are no reason for a change: some prompts are in the server's cache, and some are not; and a server that
takes one request at a time would refuse every other."""
LATELY_SECONDS: Final = 300.0
"""How long the quickest answer counts, at least; at most twice as long."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What answers are to have in common to be compared; lengths count to a factor of two."""

    asked: str
    choices: int
    streamed: bool
    prompt_bits: int
    answer_bits: int


class AdaptiveLimit:
    """The limit of one server: none, until a request shows that there is one."""

    def __init__(self) -> None:
        self.reason = ""
        self._limit = math.inf
        self._doubles_to = math.inf
        self._sent = self._sent_before_cut = self._grown = 0
        self._trip, self._pace = _Window(math.inf), _Window(FEW_ANSWERS)
        self._quickest = _Quickest()

    @property
    def limit(self) -> float:
        """A whole number from 1, or infinity."""
        return self._limit if math.isinf(self._limit) else round(self._limit)

    def sent(self) -> int:
        """A request is sent; the number under which it is to be reported."""
        self._sent += 1
        return self._sent

    def refused(self, number: int, left: int) -> None:
        """It was refused, while `left` others were under way."""
        before = self._limit
        self._limit = max(1.0, min(before, left))  # a refusal never makes room for another request
        if number > self._sent_before_cut:
            self._cut(AFTER_REFUSAL, before, left, "refused")
        self._trip = self._round_trip()

    def silent(self, number: int, left: int) -> None:
        """No answer came in time."""
        if number > self._sent_before_cut:
            self._cut(AFTER_SILENCE, self._limit, left, "silent")

    def answered(self, number: int, left: int, kind: Kind, seconds: float, now: float) -> None:
        """It was answered, the first byte of the body so many seconds after it was sent."""
        slow = self._quickest.compared(kind, seconds, now)
        if number <= self._sent_before_cut:
            # The server took this one while it turned others away: it is not down, and this is what it takes.
            self._doubles_to = min(self._doubles_to, self._limit)
            self._trip = self._round_trip()
            return
        if self._pace.ends_with(slow and left > 0):
            if 2 * self._pace.hits > self._pace.answers:
                self._cut(AFTER_SILENCE, self._limit, left, "slow")
                return
            self._pace = _Window(max(FEW_ANSWERS, left + 1))
        if self._trip.ends_with(left + 1 >= self.limit):
            if self._trip.hits:
                self._grow()
            self._trip = self._round_trip()

    def _cut(self, factor: float, before: float, left: int, reason: str) -> None:
        """Once a round trip: nothing that was sent before tells of the new limit."""
        self._sent_before_cut = self._sent
        self._grown = 0
        self._doubles_to = before
        self._limit = max(1.0, factor * min(self._limit, left + 1))
        self._trip, self._pace = self._round_trip(), _Window(max(FEW_ANSWERS, left))
        self.reason: str = reason

    def _round_trip(self) -> _Window:
        return _Window(self.limit if self._limit < self._doubles_to else max(FEW_ANSWERS, self.limit))

    def _grow(self) -> None:
        if self._limit < self._doubles_to:  # nothing at all was taken when it was cut: the server was away, not full
            self._limit = min(2 * self._limit, self._doubles_to)
        else:
            step = max(1.0, GROWTH * self._limit) * 2 ** max(0, self._grown - STEPS)
            self._limit += min(step, self._limit)
            self._grown += 1


class _Window:
    """So many answers, and of how many something was true."""

    def __init__(self, size: float) -> None:
        self._size = size
        self.answers = self.hits = 0

    def ends_with(self, hit: bool) -> bool:
        """Take another answer; whether it is the last."""
        self.answers += 1
        self.hits += hit
        return self.answers >= self._size


class _Quickest:
    """The quickest answer of each kind, lately."""

    def __init__(self) -> None:
        self._now: dict[Kind, float] = {}
        self._before: dict[Kind, float] = {}
        self._since = -math.inf

    def compared(self, kind: Kind, seconds: float, now: float) -> bool:
        """Whether an answer was slow."""
        if now - self._since > LATELY_SECONDS:
            self._before, self._now, self._since = self._now, {}, now
        quickest = min(seconds, self._now.get(kind, seconds), self._before.get(kind, seconds))
        self._now[kind] = min(seconds, self._now.get(kind, seconds))
        return seconds > max(SLOW_SECONDS, SLOW * quickest)
