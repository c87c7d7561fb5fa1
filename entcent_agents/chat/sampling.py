"""Coalescing: identical concurrent calls of one pool become one request with `n` choices.

The prompt is then sent, billed and read by the model once. Seeds are given after coalescing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

from entcent_agents.chat.completion import Completion

TokenListener = Callable[[int], None]
"""Called with the number of tokens that just arrived for one turn."""

Outcome = Completion | Exception
"""What became of one choice."""

Send = Callable[[int, int | None, Sequence[TokenListener]], Awaitable[Sequence[Outcome]]]
"""Sends one request: (choices, seed, one listener a choice) → as many outcomes."""

QUIET_SECONDS: Final = 0.02
"""A group is sent when no further call has joined it for this long."""

token_listener: ContextVar[TokenListener | None] = ContextVar("token_listener", default=None)
rollout_index: ContextVar[int] = ContextVar("rollout_index", default=0)
"""Which rollout asks: choices of a shared request go to their rollouts in this order."""


_Slot = tuple[asyncio.AbstractEventLoop, str, str]


@dataclass(frozen=True, slots=True)
class _Call:
    index: int
    own_seed: int | None
    waiter: asyncio.Future[Completion]
    listener: TokenListener


@dataclass(slots=True)
class _Group:
    send: Send
    calls: list[_Call] = field(default_factory=list[_Call])
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None


class Calls:
    """Model calls under way that are ended together, on whatever event loops they run.

    Threads cannot be cancelled. What synchronous nodes and tools ask for would go on after their rollouts ended.

    Args:
        parent: The calls that these are among: they end with those.
    """

    def __init__(self, parent: Calls | None = None) -> None:
        self._parent = parent
        self._under_way: set[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = set()
        self._closed = False

    def among(self, others: Calls | None) -> bool:
        """Whether they are those others, or some of them."""
        return self is others or (self._parent is not None and self._parent.among(others))

    @contextmanager
    def known(self) -> Generator[None]:
        """Make what the current task asks for inside known to `close`, of the calls that these are among too.

        Raises:
            asyncio.CancelledError: They were ended already.
        """
        if self._closed:
            raise asyncio.CancelledError
        call = (asyncio.get_running_loop(), asyncio.current_task())
        self._under_way.add(call)
        try:
            with self._parent.known() if self._parent else nullcontext():
                yield
        finally:
            self._under_way.discard(call)

    def close(self) -> None:
        """Cancel what is under way, and whatever is asked later."""
        self._closed = True
        for loop, task in tuple(self._under_way):
            if task and not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)


class SamplingPool:
    """The model calls of one request's rollouts.

    Args:
        seed: The user's seed; None leaves sampling to the server.
        plain_first: Whether what the first rollout asks, others beside it or not, has the model's own seed, as a call
            outside rollouts has.
    """

    def __init__(self, seed: int | None = None, *, plain_first: bool = False) -> None:
        self._seed = seed
        self._plain_first = plain_first
        # By loop too: synchronous nodes call from the background loop, and futures do not cross loops.
        self._open: dict[_Slot, _Group] = {}
        self._occurrences: Counter[str] = Counter()
        self.calls: Calls = Calls()

    async def sample(self, caller: str, prompt: str, send: Send, own_seed: int | None = None) -> Completion:
        """One completion; equal calls that arrive together share a request.

        Args:
            caller: Digest of who asks whom, and how: the address, the key and the limits.
            prompt: Digest of the body; seeds follow from it, wherever it is sent.
            send: How to send it; called once for the group.
            own_seed: The model's own, see `plain_first`.

        Raises:
            Exception: What became of this choice, or of the whole request, where it failed.
        """
        loop = asyncio.get_running_loop()
        slot = (loop, caller, prompt)
        group = self._open.setdefault(slot, _Group(send))
        waiter: asyncio.Future[Completion] = loop.create_future()
        group.calls.append(_Call(rollout_index.get(), own_seed, waiter, token_listener.get() or _deaf))
        if group.timer:
            group.timer.cancel()
        group.timer = loop.call_later(QUIET_SECONDS, self._flush, slot)
        try:
            return await waiter
        finally:
            if all(other.waiter.done() for other in group.calls):
                self._abandon(slot, group)

    def seed_of(self, prompt: str, own_seed: int | None) -> int | None:
        """The seed of a request that the current rollout makes by itself; None leaves sampling to the server."""
        return self._seed_for(prompt, rollout_index.get(), own_seed)

    def _seed_for(self, prompt: str, first: int, own_seed: int | None) -> int | None:
        """The seed of the next request of this prompt, by the first of the rollouts that ask."""
        if self._plain_first and first == 0:
            return own_seed
        occurrence = self._occurrences[prompt]
        self._occurrences[prompt] += 1
        if self._seed is None:
            return None
        digest = blake2b(f"{self._seed}:{prompt}:{occurrence}".encode(), digest_size=4).digest()
        return int.from_bytes(digest) >> 1

    def _abandon(self, slot: _Slot, group: _Group) -> None:
        """Nobody waits any more: an unsent group is dropped, one under way is cancelled."""
        if self._open.get(slot) is group:
            del self._open[slot]
        if group.timer:
            group.timer.cancel()
        if group.task and not group.task.done():
            group.task.cancel()

    def _flush(self, slot: _Slot) -> None:
        group = self._open.pop(slot)
        waiting = [call for call in group.calls if not call.waiter.done()]  # the rest gave up meanwhile
        if not waiting:  # all in this very moment, and none has come to say so
            return
        group.calls = sorted(waiting, key=lambda call: call.index)
        loop, _, prompt = slot
        first = group.calls[0]
        seed = self._seed_for(prompt, first.index, first.own_seed)
        group.task = loop.create_task(self._run(group, seed))

    @staticmethod
    async def _run(group: _Group, seed: int | None) -> None:
        waiters = [call.waiter for call in group.calls]
        try:
            outcomes = await group.send(len(waiters), seed, [call.listener for call in group.calls])
            pairs = list(zip(waiters, outcomes, strict=True))
        except asyncio.CancelledError:
            for waiter in waiters:
                waiter.cancel()
            raise
        except Exception as error:  # delivered to every waiter
            pairs = [(waiter, error) for waiter in waiters]
        for waiter, outcome in pairs:
            if waiter.done():
                continue
            if isinstance(outcome, Exception):
                waiter.set_exception(outcome)
            else:
                waiter.set_result(outcome)


_pool: ContextVar[SamplingPool | None] = ContextVar("sampling_pool", default=None)


def current_pool() -> SamplingPool | None:
    """The pool whose rollouts are running here, or None."""
    return _pool.get()


@contextmanager
def use_pool(pool: SamplingPool) -> Generator[SamplingPool]:
    """Coalesce the calls made inside, in tasks started inside included; an error or cancellation closes the pool."""
    token = _pool.set(pool)
    try:
        yield pool
    except BaseException:
        pool.calls.close()
        raise
    finally:
        _pool.reset(token)


_own_calls: ContextVar[Calls | None] = ContextVar("own_calls", default=None)


@contextmanager
def own_calls() -> Generator[Calls]:
    """Let model calls made inside, in threads started inside included, end with it where it fails or is cancelled."""
    calls = Calls(_own_calls.get())
    token = _own_calls.set(calls)
    try:
        yield calls
    except BaseException:
        calls.close()
        raise
    finally:
        _own_calls.reset(token)


def current_calls() -> Calls | None:
    """The calls that those made here belong to, or None."""
    return _own_calls.get()


@contextmanager
def known_calls() -> Generator[None]:
    """Make what the current task asks for inside known to all that may end it.

    Raises:
        asyncio.CancelledError: It was ended already.
    """
    pool = _pool.get()
    with ExitStack() as stack:
        for calls in (pool and pool.calls, _own_calls.get()):
            if calls:
                stack.enter_context(calls.known())
        yield


_plain: ContextVar[bool] = ContextVar("plain_sampling", default=False)


def is_plain() -> bool:
    """Whether calls are made here without asking for log-probabilities."""
    return _plain.get()


@contextmanager
def plain_sampling() -> Generator[None]:
    """Make the calls inside as any chat model does: each by itself, and without log-probabilities.

    For servers that refuse them, where one answer that nothing is compared with is better than none.
    """
    plain, pool = _plain.set(True), _pool.set(None)
    try:
        yield
    finally:
        _pool.reset(pool)
        _plain.reset(plain)


_one_attempt: ContextVar[bool] = ContextVar("one_attempt", default=False)


def makes_one_attempt() -> bool:
    """Whether a failed request is left to whoever asked, and not repeated here."""
    return _one_attempt.get()


@contextmanager
def one_attempt(wanted: bool = True) -> Generator[None]:
    """Repeat no request inside, if that is wanted: one that failed may be billed, and budgets reserve for one."""
    token = _one_attempt.set(wanted)
    try:
        yield
    finally:
        _one_attempt.reset(token)


def _deaf(tokens: int) -> None:
    """Nobody listens."""
