"""A tool that runs commands where the files of a workspace are. Nothing confines it: have a person approve."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from langchain_core.tools import BaseTool

from entcent_agents.effects import EXTERNAL
from entcent_agents.environments import DirectoryEnvironment, DirectoryFork
from tools.binding import bound_tools, fork_of
from tools.workspace import ENVIRONMENT

COMMAND_SECONDS = 120.0
OUTPUT_BYTES = 10_000
WRITTEN_BYTES = 100_000_000
"""Most that a command may print: it goes to a file, whose end is shown."""
_LOOK_SECONDS = 0.02


def command_tools(environment: DirectoryEnvironment | None = None) -> list[BaseTool]:
    """The tool `run_command`, in a copy of the environment "workspace": what a command writes there is not kept.

    It is EXTERNAL, since a command may reach anything on the machine: rollouts are held before it, and the selected
    one makes it once.

    Args:
        environment: The directory, for an agent that runs alone: see `bound_tools`.
    """
    return bound_tools({run_command: EXTERNAL}, ENVIRONMENT, environment)


def run_command(command: str) -> str:
    """Run a shell command in a copy of the workspace, such as its tests. What it writes there is not kept.

    Args:
        command: For the shell; the working directory is the root of the workspace.
    """
    aside = fork_of(ENVIRONMENT, DirectoryFork).fork()
    try:
        return _said(command, aside.path)
    finally:
        aside.discard()


def _said(command: str, folder: Path) -> str:
    with tempfile.TemporaryFile() as output:  # a pipe would be held open by what the command leaves running
        process = subprocess.Popen(
            command,
            shell=True,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        ended = _ended(process, output)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with what it started
        process.wait()
        return f"{_end_of(output)}\n[{ended}]".lstrip()


def _ended(process: subprocess.Popen[bytes], output: IO[bytes]) -> str:
    """How it ended, or why it is not waited for any longer."""
    until = time.monotonic() + COMMAND_SECONDS
    while time.monotonic() < until:
        with suppress(subprocess.TimeoutExpired):
            return f"exit code {process.wait(_LOOK_SECONDS)}"
        if os.fstat(output.fileno()).st_size > WRITTEN_BYTES:
            return f"stopped: it printed more than {WRITTEN_BYTES // 1_000_000} MB"
    return f"stopped after {COMMAND_SECONDS:g} seconds"


def _end_of(output: IO[bytes]) -> str:
    """The end, where tests and compilers say what matters."""
    cut = max(0, output.seek(0, os.SEEK_END) - OUTPUT_BYTES)
    output.seek(cut)
    text = output.read().decode(errors="replace").rstrip()
    return f"… {cut:,} bytes before\n{text}" if cut else text
