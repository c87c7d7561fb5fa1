"""Coalescing: identical concurrent calls of one pool become one request with `n` choices.

The prompt is then sent, billed and read by the model once. Seeds are given after coalescing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from entcent_agents.chat.completion import Completion

TokenListener = Callable[[int], None]
"""Called with the number of tokens that just arrived for one turn."""

Send = Callable[[int, int | None, list[TokenListener]], Awaitable[list[Completion]]]
"""Sends one request: (choices, seed, one listener a choice) → completions."""

QUIET_SECONDS: Final = 0.005
"""A group is sent when no further call has joined it for this long."""

token_listener: ContextVar[TokenListener | None] = ContextVar("token_listener", default=None)


@dataclass(slots=True)
class _Group:
    send: Send
    waiters: list[asyncio.Future[Completion]] = field(default_factory=list["asyncio.Future[Completion]"])
    listeners: list[TokenListener] = field(default_factory=list[TokenListener])
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None


class SamplingPool:
    """The model calls of one request's rollouts.

    Args:
        seed: The user's seed; None leaves sampling to the server.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._seed = seed
        self._open: dict[str, _Group] = {}
        self._occurrences: Counter[str] = Counter()

    async def sample(self, key: str, send: Send) -> Completion:
        """One completion; calls with an equal key that arrive together share a request.

        Args:
            key: Digest of everything that makes two calls the same call: caller, address, body.
            send: How to send it; called once for the group.
        """
        loop = asyncio.get_running_loop()
        group = self._open.setdefault(key, _Group(send))
        waiter: asyncio.Future[Completion] = loop.create_future()
        group.waiters.append(waiter)
        group.listeners.append(token_listener.get() or _deaf)
        if group.timer:
            group.timer.cancel()
        group.timer = loop.call_later(QUIET_SECONDS, self._flush, key)
        try:
            return await waiter
        finally:
            if all(other.done() for other in group.waiters):
                self._abandon(key, group)

    def _abandon(self, key: str, group: _Group) -> None:
        """Nobody waits any more: an unsent group is dropped, one under way is cancelled."""
        if self._open.get(key) is group:
            del self._open[key]
        if group.timer:
            group.timer.cancel()
        if group.task and not group.task.done():
            group.task.cancel()

    def _flush(self, key: str) -> None:
        group = self._open.pop(key)
        seed = self._next_seed(key)
        group.task = asyncio.get_running_loop().create_task(self._run(group, seed))

    def _next_seed(self, key: str) -> int | None:
        occurrence = self._occurrences[key]
        self._occurrences[key] += 1
        if self._seed is None:
            return None
        digest = blake2b(f"{self._seed}:{key}:{occurrence}".encode(), digest_size=4).digest()
        return int.from_bytes(digest) >> 1

    @staticmethod
    async def _run(group: _Group, seed: int | None) -> None:
        try:
            completions = await group.send(len(group.waiters), seed, group.listeners)
        except asyncio.CancelledError:
            for waiter in group.waiters:
                waiter.cancel()
            raise
        except Exception as error:  # delivered to every waiter
            for waiter in group.waiters:
                if not waiter.done():
                    waiter.set_exception(error)
            return
        for waiter, completion in zip(group.waiters, completions, strict=True):
            if not waiter.done():
                waiter.set_result(completion)


_pool: ContextVar[SamplingPool | None] = ContextVar("sampling_pool", default=None)


def current_pool() -> SamplingPool | None:
    """The pool whose rollouts are running here, or None."""
    return _pool.get()


@contextmanager
def use_pool(pool: SamplingPool) -> Iterator[SamplingPool]:
    """Coalesce the calls made inside, in tasks started inside included."""
    token = _pool.set(pool)
    try:
        yield pool
    finally:
        _pool.reset(token)


def _deaf(tokens: int) -> None:
    """Nobody listens."""
