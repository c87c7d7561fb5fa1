"""Requests under way at each endpoint, counted over all event loops and threads of the process, and their turn to go.

What is decided is in `adaptive.py`; here are the queue and the permits. A request waits until fewer are under way than
both the endpoint's limit and its own model's `max_connections`, and while the server's `Retry-After` runs; first come,
first served. Permits come back however their request ends, also one that was only dropped.

Loops may be blocked by synchronous calls, or stop, with permits in their hands, and a request may be made while an
answer is being streamed. So nothing waits for ever: where nothing has moved for `STALL_SECONDS`, one more goes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from entcent_agents.chat.adaptive import AdaptiveLimit, Kind
from entcent_agents.chat.learnt import memory

_log = logging.getLogger(__name__)

HOLD_SECONDS: Final = 120.0
"""Longest `Retry-After` that is waited for. After a longer one the SDK does not ask again, and others are to be told so
by the server at once too."""
STALL_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 2.0
"""How often who waits looks for permits that were dropped, for a stall and for loops that died."""
KEPT: Final = 256
"""Endpoints remembered: they outlive their clients, whose loops may be short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency:
    """How things stand at one endpoint.

    Attributes:
        address: Of the server, without what may be secret in it.
        limit: Most requests at once, as found out; None where none was found (each model's `max_connections` holds).
        under_way: Requests sent whose answers are not over.
        waiting: Requests that wait for their turn.
        held_seconds: How long the server asked to be left alone, from now.
        reason: Why the limit was last lowered: "refused", "silent" (timed out), "slow", or "" for never.
    """

    address: str
    limit: int | None
    under_way: int
    waiting: int
    held_seconds: float
    reason: str


class Permit:
    """A request's leave to be sent; exactly one of its methods counts, the first."""

    def __init__(self, endpoint: Endpoint, number: int, loop: int) -> None:
        self._endpoint: Endpoint | None = endpoint
        self._number, self._loop = number, loop

    def __del__(self) -> None:
        if self._endpoint:  # without a lock: the collector may run inside it
            self._endpoint.dropped.append(self._loop)

    def answered(self, kind: Kind, seconds: float) -> None:
        """The answer is over; the first byte of its body came so many seconds after the request was sent."""
        self._end(lambda limit, left, now: limit.answered(self._number, left, kind, seconds, now))

    def refused(self, retry_after_seconds: float | None = None) -> None:
        """The server does not take it, and says when to come back, or nothing."""
        self._end(lambda limit, left, now: limit.refused(self._number, left), retry_after_seconds or 0.0)

    def silent(self) -> None:
        """It timed out."""
        self._end(lambda limit, left, now: limit.silent(self._number, left))

    def close(self) -> None:
        """It ended in a way that tells nothing of the server's load."""
        self._end(lambda limit, left, now: None)

    def _end(self, tell: Callable[[AdaptiveLimit, int, float], None], held_seconds: float = 0.0) -> None:
        endpoint, self._endpoint = self._endpoint, None
        if endpoint:
            endpoint.take_back(self._loop, tell, held_seconds)


class _Waiter:
    """A request that waits on its own loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ceiling: int) -> None:
        self.loop, self.ceiling = loop, ceiling
        self.permit: asyncio.Future[Permit] = loop.create_future()

    def give(self, permit: Permit) -> None:
        if self.permit.cancelled():
            permit.close()
        else:
            self.permit.set_result(permit)


class Endpoint:
    """One address and key.

    Args:
        address: As it may be shown.
        now: The clock, in seconds; that of the event loops.
    """

    def __init__(self, address: str, now: Callable[[], float] = time.monotonic) -> None:
        self.dropped: deque[int] = deque()
        """Loops of permits that nobody ended."""
        self._address, self._now = address, now
        self._lock = threading.Lock()
        self._limit = AdaptiveLimit()
        self._told: float = math.inf
        self._waiting: OrderedDict[_Waiter, None] = OrderedDict()
        self._under_way: Counter[int] = Counter()
        self._held_until = self._moved_at = now()

    async def permit(self, ceiling: int) -> Permit:
        """Wait for a turn.

        Args:
            ceiling: Most requests at once, whatever the limit.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            if not self._waiting and self._is_room(ceiling):
                return self._granted(loop)
            waiter = _Waiter(loop, ceiling)
            self._waiting[waiter] = None
            self._admit()  # whoever is first may be on a loop that is gone
        try:
            while not waiter.permit.done():
                await asyncio.wait([waiter.permit], timeout=self._pause())
                with self._lock:
                    self._admit()
            return waiter.permit.result()
        except BaseException:
            self._withdraw(waiter)
            raise

    def state(self) -> Concurrency:
        """How things stand."""
        with self._lock:
            self._collect()
            return Concurrency(
                address=self._address,
                limit=None if math.isinf(self._limit.limit) else int(self._limit.limit),
                under_way=self._under_way.total(),
                waiting=len(self._waiting),
                held_seconds=max(0.0, self._held_until - self._now()),
                reason=self._limit.reason,
            )

    def take_back(self, loop: int, tell: Callable[[AdaptiveLimit, int, float], None], held_seconds: float) -> None:
        """A permit of that loop is over; see `Permit`."""
        with self._lock:
            now = self._moved_at = self._now()
            self._leave(loop)
            tell(self._limit, self._under_way.total(), now)
            if held_seconds <= HOLD_SECONDS:
                self._held_until = max(self._held_until, now + held_seconds)
            self._admit()
            limit = self._limit.limit
            if changed := _much(self._told, limit):
                self._told = limit
        if changed:
            _log.info("%s: at most %d requests at once (%s)", self._address, limit, self._limit.reason)

    def _is_room(self, ceiling: int) -> bool:
        self._collect()
        return self._under_way.total() < min(ceiling, self._limit.limit) and self._now() >= self._held_until

    def _granted(self, loop: asyncio.AbstractEventLoop) -> Permit:
        self._under_way[id(loop)] += 1
        self._moved_at = self._now()
        return Permit(self, self._limit.sent(), id(loop))

    def _admit(self) -> None:
        """Let go who may."""
        while waiter := self._next():
            del self._waiting[waiter]
            permit = self._granted(waiter.loop)
            try:
                waiter.loop.call_soon_threadsafe(waiter.give, permit)
            except RuntimeError:  # its loop is closed: the permit is dropped
                del permit

    def _next(self) -> _Waiter | None:
        first = next(iter(self._waiting), None)
        if first is None or self._is_room(first.ceiling):
            return first
        if self._now() - max(self._moved_at, self._held_until) < STALL_SECONDS:
            return None
        under_way = self._under_way.total()
        # A ceiling is the user's word: it gives way only for a loop that waits for nothing but others, blocked perhaps.
        free = (each for each in self._waiting if under_way < each.ceiling or id(each.loop) not in self._under_way)
        return next(free, None)

    def _pause(self) -> float:
        held = self._held_until - self._now()
        return held if 0.0 < held < _LOOK_SECONDS else _LOOK_SECONDS

    def _withdraw(self, waiter: _Waiter) -> None:
        if not waiter.permit.cancel() and not waiter.permit.cancelled():
            waiter.permit.result().close()
        with self._lock:
            self._waiting.pop(waiter, None)
            self._admit()

    def _collect(self) -> None:
        while self.dropped:
            self._leave(self.dropped.popleft())

    def _leave(self, loop: int) -> None:
        self._under_way[loop] -= 1
        if not self._under_way[loop]:
            del self._under_way[loop]


def _much(told: float, limit: float) -> bool:
    """Whether a limit is a half or the double of the one last told."""
    return not told / 2 < limit < 2 * told if math.isfinite(told) else math.isfinite(limit)


_endpoints: dict[Any, Endpoint] = memory()
_table = threading.Lock()


def endpoint(address: str, key: str, shown: str) -> Endpoint:
    """The process's one endpoint of an address and key.

    Args:
        address: Of the API.
        key: What stands for the API key, and is no secret.
        shown: The address as it may be shown.
    """
    with _table:
        found = _endpoints.pop((address, key), None) or Endpoint(shown)
        _endpoints[address, key] = found
        if len(_endpoints) > KEPT:
            del _endpoints[next(iter(_endpoints))]
        return found


def concurrency() -> list[Concurrency]:
    """How things stand at each endpoint that was asked lately; for a health page."""
    with _table:
        known = list(_endpoints.values())
    return [each.state() for each in known]
