"""The application: what lives as long as the service does."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final
from uuid import uuid4

from fastapi import FastAPI
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from entcent_agents.chat.model import ChatLogprobs, aclose_clients
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
from graphs.serving import make_model

_LOGGER: Final = logging.getLogger(__name__)
_SWEEP_SECONDS: Final = 3600.0
_UNANSWERED_DAYS: Final = 6.0
"""Less than the week after which rollouts that wait are swept."""
_MAX_BODY_BYTES: Final = 256 * 1024


def make_app(settings: ServiceSettings) -> FastAPI:
    """The application."""
    app = FastAPI(title="Shop assistant", lifespan=_lifespan)
    app.state.settings = settings
    app.include_router(router)
    add_refusals(app)
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=_MAX_BODY_BYTES)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Opens what requests share; at the end waits for what is under way, and leaves the rest to another process."""
    settings: ServiceSettings = app.state.settings
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            connections(settings.database, settings.database_connections, settings.database_seconds)
        )
        # Who works on what has to be said in time, however busy rollouts keep the other connections.
        own = await stack.enter_async_context(connections(settings.database, 4, settings.database_seconds))
        model = model_of(settings)
        stack.push_async_callback(aclose_clients)
        metrics = Metrics()
        stack.enter_context(metrics.listening())
        log = RequestLog(own, f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex}", settings.lease_seconds)
        saver = PooledSaver(pool)
        async with setting_up(pool):
            await log.setup()
            await saver.setup()
            tools = await open_shop(pool)
        ledger = PostgresLedger(pool.connection)
        desk = Desk(make_agent(settings, model, tools, saver, ledger), log, metrics, settings)
        for loop in (
            desk.watch(),
            _sweeping(log, saver, ledger, settings),
        ):  # to the end: requests that are drained have leases
            stack.callback(asyncio.create_task(loop).cancel)
        stack.push_async_callback(desk.close, settings.drain_seconds)
        app.state.loop = asyncio.get_running_loop()
        app.state.desk, app.state.log, app.state.metrics = desk, log, metrics
        app.state.pool, app.state.model = own, model
        yield


def model_of(settings: ServiceSettings) -> ChatLogprobs:
    """The model.

    Raises:
        ValueError: What it is set up with cannot be.
    """
    return make_model(
        settings.model,
        settings.api_key,
        settings.tool_calling,
        temperature=settings.temperature,
        max_tokens=settings.turn_tokens,
        max_connections=settings.max_connections,
    )


async def _sweeping(log: RequestLog, saver: PooledSaver, ledger: PostgresLedger, settings: ServiceSettings) -> None:
    """By the hour: give up what nobody answers, forget what ended long ago, and remove what dead requests left."""
    while True:
        try:
            await log.tidy(_UNANSWERED_DAYS, settings.keep_days)
            await sweep(saver, ledger)
        except Exception:
            _LOGGER.exception("nothing is swept this time")
        await asyncio.sleep(_SWEEP_SECONDS)
