"""The application: what lives as long as the service does."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import psycopg
from fastapi import FastAPI
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from entcent_agents.chat.model import aclose_clients
from entcent_agents.errors import ConfigurationError, LedgerError
from graphs.service.agent import Agents
from graphs.service.desk import Desk
from graphs.service.log import RequestLog
from graphs.service.metrics import Metrics
from graphs.service.routes import add_refusals, router
from graphs.service.settings import ServiceSettings
from graphs.service.shop import open_shop
from graphs.serving import model_from_environment

_LOGGER: Final = logging.getLogger(__name__)
_START_SECONDS: Final = 10.0
_SWEEP_SECONDS: Final = 3600.0


def make_app(settings: ServiceSettings) -> FastAPI:
    """The application."""
    app = FastAPI(title="Shop assistant", lifespan=_lifespan)
    app.state.settings = settings
    app.include_router(router)
    add_refusals(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Opens what requests share; at the end waits for what is under way, and leaves the rest to another process."""
    settings: ServiceSettings = app.state.settings
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(_connections(settings))
        model = model_from_environment(
            temperature=settings.temperature,
            max_tokens=settings.turn_tokens,
            max_connections=settings.max_connections,
        )
        stack.push_async_callback(aclose_clients)
        metrics = Metrics()
        stack.enter_context(metrics.listening())
        log = RequestLog(pool, f"{socket.gethostname()}:{os.getpid()}", settings.lease_seconds)
        await log.setup()
        agents = await Agents.of(settings, model, await open_shop(pool), pool)
        desk = Desk(agents, log, metrics, settings)
        stack.push_async_callback(desk.close, settings.drain_seconds)
        for loop in (desk.watch(), _sweeping(agents)):
            stack.callback(asyncio.create_task(loop).cancel)
        app.state.desk, app.state.log, app.state.metrics = desk, log, metrics
        app.state.pool, app.state.model = pool, model
        yield


async def _sweeping(agents: Agents) -> None:
    while True:
        try:
            await agents.sweep()
        except (psycopg.Error, LedgerError) as error:
            _LOGGER.warning("nothing was swept: %s", error)
        await asyncio.sleep(_SWEEP_SECONDS)


@asynccontextmanager
async def _connections(settings: ServiceSettings) -> AsyncGenerator[AsyncConnectionPool[Any]]:
    """A pool as the savers, the ledger and the tables need it.

    Raises:
        ConfigurationError: There is no database.
    """
    pool = AsyncConnectionPool[Any](
        settings.database,
        min_size=1,
        max_size=settings.database_connections,
        kwargs={"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row},
        open=False,
    )
    try:
        await pool.open(wait=True, timeout=_START_SECONDS)
    except PoolTimeout:
        await pool.close()
        raise ConfigurationError(
            f"no database answers at ENTCENT_DATABASE within {_START_SECONDS:.0f} s: {settings.database}"
        ) from None
    try:
        yield pool
    finally:
        await pool.close()
