"""Forks that outlive their process, which is killed with SIGKILL wherever it happens to be.

Stand-alone, with the figures: `PYTHONPATH=. python tests/test_kept_forks.py`.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from entcent_agents.environments import DirectoryEnvironment, SqliteEnvironment, SqliteFork, commit
from entcent_agents.environments.protocol import Environment, Fork
from entcent_agents.errors import EnvironmentConflictError, EnvironmentUnusableError

ROOT = Path(__file__).resolve().parent.parent
ROWS = 4_000
FILES = 60
KILLS = 8
KINDS = ("sqlite", "directory")
STEPS = {"sealed": False, "pointed": False, "published": True, "removed": True, "never": True}


def make_world(folder: Path, kind: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "directory":
        (folder / "files").mkdir()
        for number in range(FILES):
            (folder / "files" / str(number)).write_text("0\n" * 2000)
        return
    with contextlib.closing(sqlite3.connect(folder / "app.db")) as connection, connection:
        connection.execute("CREATE TABLE things (version INTEGER, filling TEXT)")
        connection.executemany("INSERT INTO things VALUES (0, ?)", [("x" * 1000,)] * ROWS)


def opened(folder: Path) -> Environment:
    files = folder / "files"
    return DirectoryEnvironment(files) if files.exists() else SqliteEnvironment(folder / "app.db")


def raise_version(fork: Fork, in_the_middle: Callable[[], None] = lambda: None) -> None:
    """One write of a tool: every row, or every file, to the next version."""
    if isinstance(fork, SqliteFork):
        with fork.connect() as connection:
            connection.execute("UPDATE things SET version = version + 1 WHERE rowid % 2")
            in_the_middle()
            connection.execute("UPDATE things SET version = version + 1 WHERE NOT rowid % 2")
        return
    for number, file in enumerate(sorted(fork.path.iterdir())):
        if number == FILES // 2:
            in_the_middle()
        file.write_text(f"{int(file.read_text().split()[0]) + 1}\n" * 2000)


def versions(path: Path) -> set[int]:
    """What versions there are in a copy or in the real world, seen without this library."""
    if path.is_dir():
        texts = [file.read_text() for file in path.iterdir()]
        assert len(texts) == FILES
        return {int(line) for text in texts for line in text.split()}
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM things").fetchone() == (ROWS,)
        return {version for (version,) in connection.execute("SELECT DISTINCT version FROM things")}


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def wait_to_be_killed() -> None:
    say("ready")
    sys.stdin.readline()


# What the child processes do.


def write_with_a_copy_aside(folder: Path) -> None:
    fork = opened(folder).fork()
    raise_version(fork)
    fork.keep()
    copy = fork.fork()
    copy.keep()
    say(fork.reference)
    say(copy.reference)
    raise_version(fork, in_the_middle=wait_to_be_killed)


def copy_before_every_write(folder: Path) -> None:
    fork = opened(folder).fork()
    raise_version(fork)
    wait_to_be_killed()
    copies: list[Fork] = []
    while True:
        copies.append(fork.fork())
        copies[-1].keep()
        say(copies[-1].reference)
        if len(copies) > 2:
            copies.pop(0).discard()
        raise_version(fork)


def copy_and_keep_nothing(folder: Path) -> None:
    fork = opened(folder).fork()
    wait_to_be_killed()
    while True:
        say("copying")
        fork.fork().fork()


def commit_a_kept_copy(folder: Path, step: str, changed: str) -> None:
    original = opened(folder).fork()
    if changed == "changed":
        raise_version(original)
    fork = original.fork()
    fork.keep()
    original.discard()
    say(fork.reference)

    def observe(done: str) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    commit([fork], observe=observe)
    os.kill(os.getpid(), signal.SIGKILL)


def keep_again(folder: Path, reference: str) -> None:
    opened(folder).reopen(reference).keep()


ACTIONS = (write_with_a_copy_aside, copy_before_every_write, copy_and_keep_nothing, commit_a_kept_copy, keep_again)


@contextlib.contextmanager
def child(action: Callable[..., None], *arguments: Path | str) -> Generator[subprocess.Popen[str], None, None]:
    command = [sys.executable, __file__, action.__name__, *map(str, arguments)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ) as process:
        try:
            yield process
        finally:
            process.kill()


def killed_when_ready(action: Callable[..., None], *arguments: Path | str) -> list[str]:
    """What the child said before it was killed, once it was ready."""
    with child(action, *arguments) as process:
        said = list(iter(lambda: line_of(process), "ready"))
        process.send_signal(signal.SIGKILL)
    return said


def killed_at_work(action: Callable[..., None], folder: Path, lines: int, then_seconds: float) -> list[str]:
    """What the child said until it was killed, a while after so many lines of it."""
    with child(action, folder) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert line_of(process) == "ready"
        process.stdin.write("go\n")
        process.stdin.flush()
        said = [line_of(process) for _ in range(lines)]
        time.sleep(then_seconds)
        process.send_signal(signal.SIGKILL)
        return said + process.stdout.read().split()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line, "the child ended early"
    return line


def killed_while_committing(folder: Path, step: str, changed: str) -> str:
    """The reference of the fork whose commit killed itself after a step."""
    with child(commit_a_kept_copy, folder, step, changed) as process:
        assert process.wait(timeout=60) == -signal.SIGKILL
        assert process.stdout is not None
        return process.stdout.read().strip()


@pytest.fixture(params=KINDS)
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    make_world(tmp_path, request.param)
    return tmp_path


def forks_left(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.glob(".entcent-*/forks/*"))


def test_a_write_that_a_kill_cut_off_can_be_undone_from_the_copy(world: Path) -> None:
    torn, aside = killed_when_ready(write_with_a_copy_aside, world)
    environment = opened(world)
    assert forks_left(world) == sorted([torn, aside])  # opening swept neither
    cut_off, copy = environment.reopen(torn), environment.reopen(aside)
    assert versions(copy.path) == {1}
    if isinstance(cut_off, SqliteFork):
        assert Path(f"{cut_off.path}-journal").stat().st_size  # the kill did come inside the transaction
        assert cut_off.diff() == copy.diff()  # which SQLite undoes by itself
    else:
        assert versions(cut_off.path) == {1, 2}
    cut_off.discard()
    assert len(copy.diff()) == (1 if isinstance(copy, SqliteFork) else FILES)
    raise_version(copy)
    commit([copy])
    assert versions(environment.path) == {2}
    assert environment.committed(aside)
    assert not environment.committed(torn)


def test_of_two_kept_forks_one_is_committed_and_the_other_conflicts(world: Path) -> None:
    references = killed_when_ready(write_with_a_copy_aside, world)
    environment = opened(world)
    late, winner = (environment.reopen(reference) for reference in references)
    commit([winner])
    opened(world)
    assert forks_left(world) == [late.reference]
    with pytest.raises(EnvironmentConflictError, match="nothing was committed"):
        commit([late])
    late.discard()
    assert versions(environment.path) == {1}
    assert not forks_left(world)


def test_the_last_kept_copy_is_whole_after_a_kill_at_any_moment(world: Path) -> None:
    dice = random.Random(5)
    for _ in range(KILLS):
        before = versions(opened(world).path)
        said = killed_at_work(copy_before_every_write, world, dice.randint(1, 4), dice.random() * 0.05)
        environment = opened(world)
        copy = environment.reopen(said[-1])
        assert versions(copy.path) == {before.pop() + len(said)}
        for other in {*forks_left(world)} - {copy.reference}:
            environment.reopen(other).discard()
        commit([copy])
        assert environment.committed(said[-1])
        assert not forks_left(world)


def test_what_was_not_kept_is_swept_after_a_kill_at_any_moment(world: Path) -> None:
    dice = random.Random(6)
    half_made = 0
    for _ in range(KILLS):
        killed_at_work(copy_and_keep_nothing, world, 1, dice.random() * 0.05)
        assert forks_left(world)
        half_made += any(not Path(fork, "base.json").exists() for fork in forks_left(world))
        opened(world)
        assert not list(world.glob(".entcent-*"))
    assert half_made  # else the kills came at no moment that matters


@pytest.mark.parametrize("step", STEPS)
def test_a_kept_fork_is_known_to_be_committed_whenever_its_process_died(world: Path, step: str) -> None:
    reference = killed_while_committing(world, step, "changed")
    environment = opened(world)
    assert environment.committed(reference) == STEPS[step]
    if STEPS[step]:
        assert not forks_left(world)
        with pytest.raises(EnvironmentUnusableError, match="was discarded or committed"):
            environment.reopen(reference)
    else:
        commit([environment.reopen(reference)])
    assert versions(environment.path) == {1}


def test_a_kept_fork_that_changed_nothing_is_known_to_be_committed_too(world: Path) -> None:
    reference = killed_while_committing(world, "never", "unchanged")
    environment = opened(world)
    assert environment.committed(reference)
    with pytest.raises(EnvironmentUnusableError, match="was discarded or committed"):
        environment.reopen(reference)


def test_a_commit_that_died_before_it_cleaned_up_is_not_reopened_even_unswept(world: Path) -> None:
    environment = opened(world)  # made before the other process dies, so that it has swept nothing
    reference = killed_while_committing(world, "removed", "changed")
    assert Path(reference).exists()
    with pytest.raises(EnvironmentUnusableError, match="was discarded or committed"):
        environment.reopen(reference)


def test_keeping_again_begins_another_week(world: Path) -> None:
    torn, aside = killed_when_ready(write_with_a_copy_aside, world)
    environment = opened(world)
    for reference in (torn, aside):
        environment.reopen(reference)  # owned by this process, so that nothing sweeps it yet
        os.utime(Path(reference) / "kept", (0, 0))
    with child(keep_again, world, aside) as process:
        assert process.wait(timeout=60) == 0
    Path(torn, "owner.json").write_text(Path(aside, "owner.json").read_text())  # the process that has just ended
    opened(world)
    assert forks_left(world) == [aside]


def milliseconds(action: Callable[[], object]) -> str:
    times: list[float] = []
    for _ in range(9):
        start = time.perf_counter()
        action()
        times.append((time.perf_counter() - start) * 1000)
    return f"{statistics.median(times):.1f} ms ({min(times):.1f} to {max(times):.1f})"


def print_costs(kind: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_world(folder, kind)
        environment = opened(folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        fork = environment.fork()
        raise_version(fork)
        forks: list[Fork] = []
        costs = {
            "fork of the environment": milliseconds(lambda: forks.append(environment.fork())),
            "fork of a fork": milliseconds(lambda: forks.append(fork.fork())),
            "keep a fresh fork": milliseconds(lambda: forks.pop().keep()),
            "keep it again": milliseconds(fork.keep),
        }
        sys.stdout.write(f"{kind}, {size:,} bytes: {costs}\n")


if __name__ == "__main__":
    chosen = {action.__name__: action for action in ACTIONS}
    if sys.argv[1:]:
        chosen[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
    else:
        for name in KINDS:
            print_costs(name)
