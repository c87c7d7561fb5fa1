"""One background event loop for callers without one: every public `sync` form runs its async twin there.

A loop per call would leave HTTP clients that are cached per process (ChatOpenAI's, for one) on a closed loop at the
second call; one long-lived loop does not.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from synchronous code, with the caller's context variables.

    An interrupt (Ctrl-C) cancels the coroutine, waits for its clean-up and is raised again.
    """
    loop = _background_loop()
    if threading.current_thread().name == _THREAD:
        raise RuntimeError("a synchronous call from inside the library's own event loop: call the async form instead")
    future = asyncio.run_coroutine_threadsafe(_settled(coroutine), loop)
    try:
        return future.result()
    except BaseException:
        if not future.done():
            future.cancel()
            threading.Event().wait(0)  # let the loop thread take the cancellation
            _drain(loop)
        raise


_THREAD = "entcent-event-loop"


async def _settled(coroutine: Coroutine[Any, Any, T]) -> T:
    return await coroutine


def _drain(loop: asyncio.AbstractEventLoop) -> None:
    """Wait, for a second at most, until cancelled tasks have cleaned up."""
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0.05), loop).result(1.0)


@cache
def _background_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name=_THREAD, daemon=True).start()
    return loop
