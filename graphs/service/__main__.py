"""`python -m graphs.service`: serves, until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from types import FrameType
from typing import Any, Final

import uvicorn
from pydantic import ValidationError

from entcent_agents.errors import ConfigurationError
from graphs.service.app import make_app, model_of
from graphs.service.settings import ServiceSettings
from graphs.service.stores import connections

_NOT_STARTED: Final = 3


class _Server(uvicorn.Server):
    """Tells the desk as soon as it is told itself: what comes by then is for another process."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        app: Any = self.config.app
        if self.started:
            app.state.loop.call_soon_threadsafe(app.state.desk.stop)
        super().handle_exit(sig, frame)


def main() -> None:
    """Serve; exit code 2 and a line for each setting that cannot be."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = ServiceSettings()  # pyright: ignore[reportCallIssue] - from the environment
        model_of(settings)
        asyncio.run(_reach(settings))
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(["ENTCENT", *map(str, problem["loc"])]).upper()
            sys.stderr.write(f"error: {name}: {problem['msg']}\n")
        sys.exit(2)
    except ConfigurationError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    server = _Server(
        uvicorn.Config(
            make_app(settings),
            host=settings.host,
            port=settings.port,
            log_config=None,
            timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
        )
    )
    server.run()
    if not server.started:
        sys.exit(_NOT_STARTED)


async def _reach(settings: ServiceSettings) -> None:
    """Find out now whether it is there, and not in the middle of the start."""
    async with connections(settings.database, 1, settings.database_seconds):
        pass


if __name__ == "__main__":
    main()
