"""What must happen even while everything is being cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from entcent_agents.environments import Fork

T = TypeVar("T")


async def to_the_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await what must not stop half-way: a cancellation takes effect after it, however often it comes."""
    task = asyncio.ensure_future(coroutine)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    return task.result()


async def discard(forks: Iterable[Fork]) -> None:
    """Forget forks, off the event loop."""
    for fork in tuple(forks):
        await to_the_end(asyncio.to_thread(fork.discard))
