"""The command `entcent`."""

from __future__ import annotations

import sys
import time
from typing import Final

STARTED: Final = time.perf_counter()
"""When the command began, for the time to the first token."""


def main() -> None:
    """Run the command line; what goes wrong on purpose is one line and exit code 2."""
    from rich.console import Console

    from entcent_agents.cli.app import app
    from entcent_agents.errors import EntcentError

    errors = Console(stderr=True, highlight=False)
    try:
        app()
    except EntcentError as error:
        errors.print(f"[bold red]error:[/] {_escaped(str(error))}", soft_wrap=True)
        sys.exit(2)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape("\n".join(" ".join(line.split()) for line in text.splitlines()))
