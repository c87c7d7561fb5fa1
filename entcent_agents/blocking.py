"""One background event loop for callers without one: every public `sync` form runs its async twin there.

A loop per call would leave HTTP clients that are cached per process (ChatOpenAI's, for one) on a closed loop at the
second call; one long-lived loop does not.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from typing import Any, Final, TypeVar, cast

T = TypeVar("T")

CLEAN_UP_SECONDS: Final = 10.0
"""How long an interrupted call waits at most for what it cancelled."""

_THREAD: Final = "entcent-event-loop"
_WORKER: Final = "entcent-worker"
"""Threads in which the loops run blocking code. What such code asks for synchronously runs on a loop of its own:
waiting for the loop whose threads it occupies could be waiting for itself."""
_WORKERS: Final = 64


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from synchronous code, with the caller's context variables.

    An interrupt (Ctrl-C) cancels the coroutine, waits for its clean-up and is raised again.

    Raises:
        RuntimeError: On a call from inside the background loop, which would wait for itself.
    """
    if threading.current_thread().name == _THREAD:
        coroutine.close()
        raise RuntimeError("a synchronous call from inside the library's own event loop: call the async form instead")
    nested = threading.current_thread().name.startswith(_WORKER)
    loop = (_nested if nested else _background).loop()
    ended: concurrent.futures.Future[asyncio.Task[T]] = concurrent.futures.Future()
    tasks: list[asyncio.Task[T]] = []

    def start() -> None:  # runs in a copy of the caller's context, which the task inherits
        tasks.append(loop.create_task(coroutine))
        tasks[0].add_done_callback(ended.set_result)

    def stop() -> None:
        if tasks:
            tasks[0].cancel()
        else:  # interrupted before it began
            coroutine.close()
            ended.cancel()

    try:
        loop.call_soon_threadsafe(start)
        task = ended.result()
    except BaseException:
        loop.call_soon_threadsafe(stop)
        concurrent.futures.wait([ended], CLEAN_UP_SECONDS)
        raise
    return task.result()


def iterate_sync(items: AsyncIterator[T]) -> Iterator[T]:
    """Iterate from synchronous code, each step as `run_sync` runs it; an iteration given up is closed.

    Raises:
        RuntimeError: On a step from inside the background loop.
    """

    async def step() -> T:
        return await anext(items)

    async def close() -> None:
        if isinstance(items, AsyncGenerator):
            await cast(AsyncGenerator[T], items).aclose()

    try:
        while True:
            try:
                item = run_sync(step())
            except StopAsyncIteration:
                return
            yield item
    finally:
        run_sync(close())


class _Background:
    """The loop and its thread, started at first use."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(_WORKERS, self._prefix))
                threading.Thread(target=self._loop.run_forever, name=_THREAD, daemon=True).start()
            return self._loop


_background = _Background(_WORKER)
_nested = _Background("entcent-nested")
