"""Processes that are forked from one which has their modules loaded: a start takes milliseconds and not seconds."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
PRELOADED = [
    "tests.evals.lives",
    "tests.ledger.children",
    "tests.rollouts.lives",
    "tests.rollouts.chaos",
    "entcent_agents.prebuilt",
    "entcent_agents.nodes",
    "entcent_agents.chat.model",
    "entcent_agents.scoring",
    "langchain_openai",
    "langgraph.checkpoint.sqlite.aio",
    "psycopg",
    "rich.live",
    "rich.table",
    "sqlite3",
    "typer",
]
FORKS.set_forkserver_preload(PRELOADED)


def forked(
    program: Callable[..., object],
    *given: Any,
    arguments: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
    folder: Path,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a function as `subprocess.run` runs a program, with what it says captured.

    Modules that it imports and that are in `PRELOADED` are loaded already; what they do when they are imported, such as
    to warn or to read the environment, is not seen.

    Args:
        program: A function of a module, called with `given`.
        given: Its arguments.
        arguments: What it finds in `sys.argv`.
        environment: The whole of its environment variables; None: as they are here.
        folder: Where it runs.
        timeout: Seconds it may take.
    """
    with tempfile.TemporaryDirectory() as name:
        said = [Path(name, "out"), Path(name, "err")]
        variables = {**(os.environ if environment is None else environment)}
        process = FORKS.Process(target=_play, args=(program, given, arguments, variables, folder, said))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(str(program), timeout or 0, *(path.read_bytes() for path in said))
        out, err = (path.read_text() for path in said)
        return subprocess.CompletedProcess([*arguments], process.exitcode or 0, out, err)


def run_text(text: str) -> None:
    """Run the text of a program, in which warnings are errors."""
    warnings.simplefilter("error")
    program = sys.modules["__main__"] = ModuleType("__main__")
    exec(text, vars(program))


def _play(
    program: Callable[..., object],
    given: tuple[Any, ...],
    arguments: tuple[str, ...],
    variables: dict[str, str],
    folder: Path,
    said: list[Path],
) -> None:
    for number, path in enumerate(said, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.argv[:] = ["-c", *arguments]
    program(*given)
