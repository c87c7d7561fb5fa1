"""What every test may use: scripted chat servers, one PostgreSQL; and no connection outlives its test."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import pytest

from entcent_agents.blocking import run_sync
from entcent_agents.chat.learnt import forget_servers
from entcent_agents.chat.model import aclose_clients
from tests.chat_server import ChatServer
from tests.ledger.postgres_server import postgres, why_none
from tests.passing_time import Clock

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in the background so, and the children of tests would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture
async def clock() -> AsyncIterator[Clock]:
    """The clock of the test, which it may put forward."""
    with pytest.MonkeyPatch.context() as patch:
        yield Clock(patch)


@pytest.fixture
async def flying(clock: Clock) -> Clock:
    """The same, and nobody waits."""
    clock.fly()
    return clock


@pytest.fixture
async def serve_hurried(serve: Callable[..., ChatServer], clock: Clock) -> AsyncIterator[Callable[..., ChatServer]]:
    """As `serve`; while such a server has fallen silent the time runs fast, and so time-outs can be long."""
    servers: list[ChatServer] = []

    def start(*args: object, **kwargs: object) -> ChatServer:
        servers.append(serve(*args, **kwargs))
        return servers[-1]

    hurrying = asyncio.create_task(clock.hurry(lambda: any(server.silent for server in servers)))
    yield start
    hurrying.cancel()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The connection string of a server that lives as long as the tests."""
    if reason := why_none():
        pytest.skip(reason)
    with postgres() as conninfo:
        yield conninfo


@pytest.fixture
def database(postgres_server: str) -> Iterator[str]:
    """A database of its own for one test."""
    import psycopg

    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS of_a_test WITH (FORCE)")
        connection.execute("CREATE DATABASE of_a_test")
        yield postgres_server.replace("dbname=postgres", "dbname=of_a_test")
        connection.execute("DROP DATABASE of_a_test WITH (FORCE)")
