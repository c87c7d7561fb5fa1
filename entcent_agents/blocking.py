"""One background event loop for callers without one: every public `sync` form runs its async twin there.

A loop per call would leave HTTP clients that are cached per process (ChatOpenAI's, for one) on a closed loop at the
second call; one long-lived loop does not.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterator, Coroutine, Generator
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar

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
    call = _Call(coroutine)
    try:
        call.start()
        call.ended.result()
    except BaseException:
        call.stop()
        raise
    return call.result()


def iterate_sync(items: AsyncIterator[T]) -> Generator[T]:
    """Give synchronous code what an asynchronous iterator gives, as it comes; closing the generator cancels it.

    Raises:
        RuntimeError: On a call from inside the background loop, which would wait for itself.
    """
    arrived: SimpleQueue[tuple[T] | None] = SimpleQueue()

    async def pump() -> None:
        async for item in items:
            arrived.put((item,))

    call = _Call(pump())
    call.ended.add_done_callback(lambda _: arrived.put(None))
    try:
        call.start()
        while (item := arrived.get()) is not None:
            yield item[0]
    except BaseException:
        call.stop()
        raise
    call.result()


class _Call(Generic[T]):
    """A coroutine on its way through a background loop.

    Raises:
        RuntimeError: Where it would be waited for inside that loop.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        if _on_a_loop():
            coroutine.close()
            raise RuntimeError("a synchronous call from inside the library's own event loop: call the async form")
        nested = threading.current_thread().name.startswith(_WORKER)
        self._loop = (_nested if nested else _background).loop()
        self._coroutine = coroutine
        self._task: asyncio.Task[T] | None = None
        self.ended: concurrent.futures.Future[asyncio.Task[T]] = concurrent.futures.Future()

    def start(self) -> None:
        self._loop.call_soon_threadsafe(self._begin)

    def result(self) -> T:
        """What the coroutine gave or raised, after its end."""
        return self.ended.result().result()

    def stop(self) -> None:
        """Cancel it and wait for its clean-up.

        A loop does not wait, on which an abandoned iterator may be collected: the clean-up would wait for it in turn.
        """
        self._loop.call_soon_threadsafe(self._cancel)
        if not _on_a_loop():
            concurrent.futures.wait([self.ended], CLEAN_UP_SECONDS)

    def _begin(self) -> None:  # runs in a copy of the caller's context, which the task inherits
        self._task = self._loop.create_task(self._coroutine)
        self._task.add_done_callback(self.ended.set_result)

    def _cancel(self) -> None:
        if self._task:
            self._task.cancel()
        else:  # interrupted before it began
            self._coroutine.close()
            self.ended.cancel()


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


def _on_a_loop() -> bool:
    return threading.current_thread().name == _THREAD


_background = _Background(_WORKER)
_nested = _Background("entcent-nested")
