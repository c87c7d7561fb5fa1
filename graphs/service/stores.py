"""PostgreSQL: the connections that all requests share, and what keeps checkpoints on them."""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from entcent_agents.errors import ConfigurationError

_SETUP_LOCK: Final = 0x656E_7463_656E_7402  # any number that other applications are unlikely to lock
Pool = AsyncConnectionPool[Any]
OUTAGE: Final = (psycopg.OperationalError, psycopg.InterfaceError)
"""What calls end in while the database is away."""


class PooledSaver(AsyncPostgresSaver):
    """Works on several connections at once: LangGraph's own takes turns, even where it is given a pool.

    Rollouts that wait for each other's checkpoints do not ask the model together, and share no requests.
    """

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self.lock: Any = asyncio.Semaphore(pool.max_size)


@asynccontextmanager
async def connections(database: str, most: int, timeout_seconds: float) -> AsyncGenerator[Pool]:
    """A pool as the savers, the ledger and the tables need it.

    Args:
        database: Connection string.
        most: Connections at most.
        timeout_seconds: How long one is waited for.

    Raises:
        ConfigurationError: There is no database.
    """
    settings = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    pool = Pool(
        database,
        min_size=1,
        max_size=most,
        timeout=timeout_seconds,
        reconnect_timeout=timeout_seconds,  # then anew: its pauses double, to minutes
        kwargs=settings,
        check=_check,
        open=False,
    )
    try:
        await pool.open(wait=True, timeout=timeout_seconds)
    except PoolTimeout:
        await pool.close()
        raise ConfigurationError(f"ENTCENT_DATABASE: nothing answers there within {timeout_seconds:g} s") from None
    try:
        yield pool
    finally:
        await pool.close()


async def _check(connection: psycopg.AsyncConnection[Any]) -> None:
    """After a restart of the database all connections are dead: nothing comes from an idle one but its end."""
    idle = select.poll()
    idle.register(connection.fileno(), select.POLLIN)
    if idle.poll(0):  # a question to the system; one to the database at each use took more than a tenth of the CPU
        await Pool.check_connection(connection)


@asynccontextmanager
async def setting_up(pool: Pool) -> AsyncGenerator[None]:
    """One process at a time makes tables: two that start together would both find them missing."""
    async with pool.connection() as connection:
        # Nobody waits inside a statement: an index that another one makes would wait for it.
        while not await _locked(connection):  # noqa: ASYNC110 - it is another process that is waited for
            await asyncio.sleep(0.1)
        try:
            yield
        finally:
            await connection.execute("SELECT pg_advisory_unlock(%s)", (_SETUP_LOCK,))


async def _locked(connection: Any) -> bool:
    row: Any = await (await connection.execute("SELECT pg_try_advisory_lock(%s) AS got", (_SETUP_LOCK,))).fetchone()
    return bool(row and row["got"])
