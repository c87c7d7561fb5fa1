"""`python -m evals`: run suites, store rollouts, score them under every selector."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from entcent_agents.errors import EntcentError
from evals.cli.app import app


def main() -> None:
    """Run the command line; what goes wrong on purpose is one line and exit code 2."""
    try:
        app()
    except EntcentError as error:
        said = " ".join(str(error).split())
        Console(stderr=True, highlight=False).print(Text.assemble(("error: ", "bold red"), said), soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
