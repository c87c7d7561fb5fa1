"""The application: what lives as long as the service does."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import psycopg
from fastapi import FastAPI

from entcent_agents.chat.model import aclose_clients
from entcent_agents.errors import LedgerError
from entcent_agents.ledger import PostgresLedger
from entcent_agents.nodes import sweep
from graphs.service.agent import make_agent
from graphs.service.desk import Desk
from graphs.service.log import RequestLog
from graphs.service.metrics import Metrics
from graphs.service.routes import add_refusals, router
from graphs.service.settings import ServiceSettings
from graphs.service.shop import open_shop
from graphs.service.stores import PooledSaver, connections, setting_up
from graphs.serving import model_from_environment

_LOGGER: Final = logging.getLogger(__name__)
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
        pool = await stack.enter_async_context(connections(settings.database, settings.database_connections))
        model = model_from_environment(
            temperature=settings.temperature,
            max_tokens=settings.turn_tokens,
            max_connections=settings.max_connections,
        )
        stack.push_async_callback(aclose_clients)
        metrics = Metrics()
        stack.enter_context(metrics.listening())
        log = RequestLog(pool, f"{socket.gethostname()}:{os.getpid()}", settings.lease_seconds)
        saver = PooledSaver(pool)
        async with setting_up(pool):
            await log.setup()
            await saver.setup()
            tools = await open_shop(pool)
        ledger = PostgresLedger(pool.connection)
        desk = Desk(make_agent(settings, model, tools, saver, ledger), log, metrics, settings)
        for loop in (desk.watch(), _sweeping(saver, ledger)):  # to the end: requests that are drained have leases
            stack.callback(asyncio.create_task(loop).cancel)
        stack.push_async_callback(desk.close, settings.drain_seconds)
        app.state.desk, app.state.log, app.state.metrics = desk, log, metrics
        app.state.pool, app.state.model = pool, model
        yield


async def _sweeping(saver: PooledSaver, ledger: PostgresLedger) -> None:
    """By the hour: remove what requests left a week ago that nobody went on with."""
    while True:
        try:
            await sweep(saver, ledger)
        except (psycopg.Error, LedgerError) as error:
            _LOGGER.warning("nothing was swept: %s", error)
        await asyncio.sleep(_SWEEP_SECONDS)
