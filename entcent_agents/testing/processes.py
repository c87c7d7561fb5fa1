"""The other processes of the conformance suite: they fork, commit, race, and are killed."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entcent_agents.environments import Environment, Fork, commit
from entcent_agents.errors import EnvironmentConflictError
from entcent_agents.testing.expectations import expect_true

if TYPE_CHECKING:
    from entcent_agents.testing.conformance import EnvironmentConformance

_CHILD = "from entcent_agents.testing.processes import child; child()"
_CHILD_SECONDS = 60.0


def last_words(suite: EnvironmentConformance, folder: Path, action: str, *arguments: str) -> str:
    """What a child said that ended, or killed itself, when it had done its work."""
    with _started(suite, folder, action, *arguments) as process:
        said, faults = process.communicate(timeout=_CHILD_SECONDS)
    expect_true(process.returncode in (0, -signal.SIGKILL), f"the process that was to {action} failed: {faults}")
    return said.strip()


@contextmanager
def race_of_processes(suite: EnvironmentConformance, folder: Path) -> Generator[Callable[[str], list[str]]]:
    """Two writers in processes of their own: what each is told when both commit at once."""
    with _started(suite, folder, "race", "0") as first, _started(suite, folder, "race", "1") as second:

        def race(word: str) -> list[str]:
            told: list[str] = []
            for said in (word, "go"):
                for process in (first, second):
                    _tell(process, said)
                told = [_line(process) for process in (first, second)]
            return told

        yield race


@contextmanager
def race_of_threads(suite: EnvironmentConformance, environment: Environment) -> Generator[Callable[[str], list[str]]]:
    """Two writers in threads of this process: what each is told when both commit at once."""

    def race(word: str) -> list[str]:
        told = ["", ""]
        forks = [environment.fork(), environment.fork()]
        start = threading.Barrier(2)

        def write(number: int) -> None:
            suite.add(forks[number], f"{word}{number}")
            start.wait()
            told[number] = _committed_or_told(forks[number])

        threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return told

    yield race


@contextmanager
def _started(
    suite: EnvironmentConformance, folder: Path, action: str, *arguments: str
) -> Generator[subprocess.Popen[str]]:
    kind = type(suite)
    command = [sys.executable, "-c", _CHILD, kind.__module__, kind.__qualname__, action, str(folder), *arguments]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def child() -> None:
    """What a child process does: `module class action folder *arguments` on its command line."""
    module, name, action, folder, *arguments = sys.argv[1:]
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    _ACTIONS[action](found(), Path(folder), *arguments)


def _fork_and_die(suite: EnvironmentConformance, folder: Path) -> None:
    environment = suite.open(folder)
    kept, lost = environment.fork(), environment.fork()
    suite.add(kept, "kept")
    suite.add(lost, "lost")
    kept.keep()
    _say(kept.reference)
    _say(lost.reference)
    os.kill(os.getpid(), signal.SIGKILL)


def _commit_and_die(suite: EnvironmentConformance, folder: Path, steps: str) -> None:
    """Commit, and die after so many steps, or after the last."""
    fork = suite.open(folder).fork()
    suite.add(fork, "one")
    suite.add(fork, "two")
    fork.keep()
    _say(fork.reference)
    left = int(steps)

    def observe(step: str) -> None:
        nonlocal left
        _say(step)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    commit([fork], observe=observe)
    _say("committed")
    os.kill(os.getpid(), signal.SIGKILL)


def _race(suite: EnvironmentConformance, folder: Path, number: str) -> None:
    environment = suite.open(folder)
    while word := sys.stdin.readline().strip():
        fork = environment.fork()
        suite.add(fork, word + number)
        _say("ready")
        sys.stdin.readline()
        _say(_committed_or_told(fork))


_ACTIONS: dict[str, Callable[..., None]] = {
    "fork_and_die": _fork_and_die,
    "commit_and_die": _commit_and_die,
    "race": _race,
}


def _committed_or_told(fork: Fork) -> str:
    try:
        commit([fork])
    except EnvironmentConflictError:
        fork.discard()
        return "conflict"
    return "committed"


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert process.stderr is not None
    if line := process.stdout.readline().strip():
        return line
    raise AssertionError(f"a process that was to race ended: {process.stderr.read()}")
