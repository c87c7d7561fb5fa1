"""What every test may use: scripted chat servers; and no connection outlives its test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import pytest

from entcent_agents.blocking import run_sync
from entcent_agents.chat.learnt import forget_servers
from entcent_agents.chat.model import aclose_clients
from tests.chat_server import ChatServer


@pytest.fixture
def serve() -> Iterator[Callable[..., ChatServer]]:
    """Start scripted servers: `server = serve([says("Hello")])`."""
    with ExitStack() as servers:
        yield lambda *args, **kwargs: servers.enter_context(ChatServer(*args, **kwargs))


@pytest.fixture(autouse=True)
async def closed_clients() -> AsyncIterator[None]:
    """Close the clients of the test's own loop and of the background loop; the next server may have the same port."""
    yield
    forget_servers()
    await aclose_clients()
    run_sync(aclose_clients())
