"""Long work on the event loop, cut into short steps: one step at a time, whoever's it is, and others in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from entcent_agents.chat.loops import of_loop


@asynccontextmanager
async def turn() -> AsyncGenerator[None]:
    """Do one step inside: eight responses that arrive together then hold the loop up no longer than one of them."""
    async with of_loop(asyncio.Lock, asyncio.Lock):
        yield
        await asyncio.sleep(0)
