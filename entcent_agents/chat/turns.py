"""Long work on the event loop, cut into short steps: one step at a time, whoever's it is, and others in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


@asynccontextmanager
async def turn() -> AsyncGenerator[None]:
    """Do one step inside: eight responses that arrive together then hold the loop up no longer than one of them."""
    async with _locks.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
        yield
        await asyncio.sleep(0)
