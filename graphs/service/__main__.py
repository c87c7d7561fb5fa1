"""`python -m graphs.service`: serves, until it is told to end."""

from __future__ import annotations

import logging
import sys

import uvicorn
from pydantic import ValidationError

from graphs.service.app import make_app
from graphs.service.settings import ServiceSettings


def main() -> None:
    """Serve; exit code 2 and a line for each setting that cannot be."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = ServiceSettings()  # pyright: ignore[reportCallIssue] - from the environment
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(["ENTCENT", *map(str, problem["loc"])]).upper()
            sys.stderr.write(f"error: {name}: {problem['msg']}\n")
        sys.exit(2)
    uvicorn.run(
        make_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        timeout_graceful_shutdown=int(settings.drain_seconds),
    )


if __name__ == "__main__":
    main()
