"""What must happen even while everything is being cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, stop_after_delay, stop_all, wait_fixed

from entcent_agents.blocking import CLEAN_UP_SECONDS
from entcent_agents.environments import Fork

T = TypeVar("T")

_LOGGER: Final = logging.getLogger(__name__)
_PAUSE_SECONDS: Final = 0.1
_TRIES: Final = 10
"""At least: on a machine that stood still, the time for the first may be all that there was."""
_LONGEST_PAUSE_SECONDS: Final = 3600.0
_THREADS: Final = ThreadPoolExecutor(8, "entcent-forks")


async def to_the_end(
    work: Coroutine[Any, Any, T] | asyncio.Task[T], on_cancel: Callable[[], object] = lambda: None
) -> T:
    """Await what must not stop half-way: a cancellation takes effect after it, however often it comes.

    Args:
        work: What is awaited.
        on_cancel: Called each time that a cancellation comes.
    """
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
            on_cancel()
    if cancelled:
        raise asyncio.CancelledError
    return task.result()


async def cancellable(work: Coroutine[Any, Any, T]) -> T:
    """Await what may swallow a cancellation, as `asyncio.wait_for` of Python 3.11 does where its result has just come.

    It is cancelled anew whenever it has not ended some seconds after; what it gives then does not count any more.
    """
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task], timeout=CLEAN_UP_SECONDS if cancelled else None)
        except asyncio.CancelledError:
            cancelled = True
        if cancelled:
            task.cancel()
    if cancelled:
        if not task.cancelled():
            task.exception()  # asked for, so that nobody is warned
        raise asyncio.CancelledError
    return task.result()


async def in_a_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Run what blocks in a thread of our own: those of the loop may all wait for a call that needs this first."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, partial(function, *arguments))


async def soon_to_the_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await what should not stop half-way: a cancellation, however often it comes, leaves it some seconds to end."""
    task = asyncio.ensure_future(coroutine)
    clock = asyncio.get_running_loop().time
    deadline: float | None = None
    while not task.done():
        try:
            await asyncio.wait([task], timeout=None if deadline is None else max(deadline - clock(), 0))
        except asyncio.CancelledError:
            deadline = deadline or clock() + CLEAN_UP_SECONDS
        if deadline is not None and clock() >= deadline:
            task.cancel()
            deadline = clock() + CLEAN_UP_SECONDS
    if deadline is not None:
        raise asyncio.CancelledError
    return task.result()


class Lingering:
    """What rollouts that were cut off still do: nobody waits for it, and it is not lost. By the rollouts' threads."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def keep(self, thread_id: str, task: asyncio.Task[None]) -> None:
        """Keep a task until it ends."""
        self._tasks[thread_id] = task
        task.add_done_callback(lambda ended: self._ended(thread_id, ended))

    def knows(self, thread_id: str) -> bool:
        """Whether the rollout still does anything."""
        return thread_id in self._tasks

    def then(self, thread_id: str, clean_up: Callable[[], Awaitable[None]]) -> bool:
        """Clean up once the rollout has ended, if it still does anything; whether that is so."""
        before = self._tasks.get(thread_id)
        if before is None:
            return False

        async def afterwards() -> None:
            try:
                await asyncio.wait([before])
            finally:  # the loop may end first
                await clean_up()

        self.keep(thread_id, asyncio.create_task(afterwards()))
        return True

    async def end(self, thread_ids: Iterable[str]) -> None:
        """Wait until none of these rollouts does anything any more."""
        for thread_id in thread_ids:
            while task := self._tasks.get(thread_id):
                await asyncio.wait([task])
                await asyncio.sleep(0)  # for what is done to be struck out

    def _ended(self, thread_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(thread_id) is task:
            del self._tasks[thread_id]
        if not task.cancelled() and (error := task.exception()):
            _LOGGER.error("rollout %s was cut off and not cleaned up", thread_id, exc_info=error)


async def discard(forks: Iterable[Fork], haunted: Callable[[], bool] = lambda: False) -> None:
    """Forget forks, off the event loop.

    A tool's thread cannot be cancelled. While it still writes into a fork the removal may fail, and is tried again for
    a while. What is left then, or written anew later, goes when nobody writes there any more; where the loop or the
    process ends before, when the environment is opened the next time. It is no reason to fail.

    Args:
        forks: What nobody will commit.
        haunted: Whether such threads may still run.
    """
    await to_the_end(_discard_all(tuple(forks), haunted))


async def _discard_all(forks: Sequence[Fork], haunted: Callable[[], bool]) -> None:
    left = [fork for fork in forks if not await _discard(fork)]
    if left or (forks and haunted()):
        _look_again(forks, lambda: bool(left) or haunted(), _PAUSE_SECONDS)


def _look_again(forks: Sequence[Fork], haunted: Callable[[], bool], pause_seconds: float) -> None:
    """Remove what was written since, at growing intervals until nobody can write any more; no task waits for that."""

    def look() -> None:
        again = haunted()  # asked before the removal: what is written between the two has to be seen
        for fork in forks:
            _THREADS.submit(fork.discard)  # does nothing where nothing is, and may fail where somebody writes
        if again and pause_seconds < _LONGEST_PAUSE_SECONDS:
            _look_again(forks, haunted, 2 * pause_seconds)

    asyncio.get_running_loop().call_later(pause_seconds, look)


async def _discard(fork: Fork) -> bool:
    """Whether it could be removed."""
    patiently = AsyncRetrying(
        stop=stop_all(stop_after_delay(CLEAN_UP_SECONDS), stop_after_attempt(_TRIES)),
        wait=wait_fixed(_PAUSE_SECONDS),
        retry=retry_if_exception_type(OSError),
        reraise=True,
    )
    try:
        await patiently(in_a_thread, fork.discard)
    except OSError:
        _LOGGER.warning("the fork %s is still written to and was not removed yet", fork.reference, exc_info=True)
        return False
    return True
