"""A commit of a database and a workspace together, killed with SIGKILL wherever it happens to be.

Stand-alone, with the figures: `PYTHONPATH=. python tests/test_commit_crash.py`.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from entcent_agents.environments import DirectoryEnvironment, SqliteEnvironment, commit, fork_all

ROOT = Path(__file__).resolve().parent.parent
ROWS = 6_000
FILES = 40
RANDOM_KILLS = 50
IN_TESTS = 10
"""Of each journal mode: they are spread over a commit, and the test after them kills at every step."""
POINTS = {
    "sealed": 0,
    "pointed": 0,
    "published": 1,
    "applied directory": 1,
    "applied sqlite": 1,
    "removed": 1,
}


def make_world(folder: Path, journal_mode: str) -> None:
    (folder / "workspace").mkdir(parents=True)
    for number in range(FILES):
        (folder / "workspace" / f"{number}.txt").write_text("0\n" * 2000)
    with contextlib.closing(sqlite3.connect(folder / "app.db")) as connection, connection:
        connection.execute(f"PRAGMA journal_mode = {journal_mode}")
        connection.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, version INTEGER, filling TEXT)")
        connection.executemany("INSERT INTO things VALUES (?, 0, ?)", [(i, "x" * 1000) for i in range(ROWS)])


def commit_next_version(folder: Path, point: str) -> None:
    """The child: fork both, raise every row and file to the next version, and commit when told to."""
    forks = fork_all([SqliteEnvironment(folder / "app.db"), DirectoryEnvironment(folder / "workspace")])
    with forks["database"].connect() as connection:
        connection.execute("UPDATE things SET version = version + 1")
    for file in forks["workspace"].path.iterdir():
        file.write_text(f"{int(file.read_text().split()[0]) + 1}\n" * 2000)

    def observe(step: str) -> None:
        if step == point:
            os.kill(os.getpid(), signal.SIGKILL)

    os.write(1, b"ready\n")
    sys.stdin.readline()
    commit(list(forks.values()), observe=observe)
    os.write(1, b"done\n")


@contextlib.contextmanager
def child(folder: Path, point: str = "never"):
    arguments = [sys.executable, __file__, "child", str(folder), point]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            process.stdin.write(b"go\n")
            process.stdin.flush()
            yield process
        finally:
            process.kill()


def versions(folder: Path) -> tuple[set[int], set[int]]:
    """What versions there are in the database and in the workspace, seen without this library."""
    with contextlib.closing(sqlite3.connect(folder / "app.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = {version for (version,) in connection.execute("SELECT DISTINCT version FROM things")}
        assert connection.execute("SELECT count(*) FROM things").fetchone() == (ROWS,)
    texts = [file.read_text().split() for file in (folder / "workspace").iterdir()]
    assert len(texts) == FILES
    assert all(len(lines) == 2000 for lines in texts)
    return rows, {int(line) for lines in texts for line in lines}


def recovered_version(folder: Path, *, database_first: bool) -> int:
    """Open one of the two targets, and see that this alone brought both to the same version."""
    openers = [lambda: SqliteEnvironment(folder / "app.db"), lambda: DirectoryEnvironment(folder / "workspace")]
    first, second = openers if database_first else reversed(openers)
    first()
    rows, files = versions(folder)
    assert len(rows) == 1, rows
    assert files == rows
    second()
    assert versions(folder) == (rows, files)
    assert not list(folder.glob(".entcent-*")), list(folder.rglob("*"))
    return rows.pop()


def commit_seconds(folder: Path) -> float:
    with child(folder) as process:
        assert process.stdout is not None
        start = time.monotonic()
        assert process.stdout.readline() == b"done\n"
        return time.monotonic() - start


def kill_at_random(folder: Path, kills: int, seed: int) -> tuple[Counter[str], float]:
    """Kill `kills` commits at moments spread over the first four fifths of what one takes; count how they ended."""
    dice = random.Random(seed)
    seconds = min(commit_seconds(folder) for _ in range(2))
    version = recovered_version(folder, database_first=True)
    ended: Counter[str] = Counter()
    for number in range(kills):
        with child(folder) as process:
            time.sleep((number + dice.random()) / kills * seconds * 0.8)
            process.send_signal(signal.SIGKILL)
            output = process.stdout.read() if process.stdout else b""
        interrupted = any(folder.glob(".entcent-*/pointer.json"))
        now = recovered_version(folder, database_first=number % 2 == 0)
        assert now in {version, version + 1}
        assert b"done" not in output or now == version + 1
        ended["after" if now > version else "before"] += 1
        ended["with a commit under way"] += interrupted
        ended["with the commit returned"] += b"done" in output
        version = now
    return ended, seconds


def test_both_targets_are_wholly_before_or_wholly_after_a_kill_at_any_moment(tmp_path: Path) -> None:
    for journal_mode in ("DELETE", "WAL"):
        make_world(tmp_path / journal_mode, journal_mode)
        ended, seconds = kill_at_random(tmp_path / journal_mode, IN_TESTS, seed=7)
        sys.stdout.write(f"{journal_mode}: {dict(ended)}; a commit takes {seconds * 1000:.0f} ms\n")
        assert ended["before"] + ended["after"] == IN_TESTS
        assert ended["before"]  # else the kills came too late to show anything
        assert ended["with a commit under way"]


def test_a_kill_at_each_step_ends_as_the_record_says(tmp_path: Path) -> None:
    for journal_mode in ("DELETE", "WAL"):
        folder = tmp_path / journal_mode
        make_world(folder, journal_mode)
        version = 0
        for number, (point, step) in enumerate(POINTS.items()):
            with child(folder, point) as process:
                assert process.wait(timeout=60) == -signal.SIGKILL, point
            version += step
            assert recovered_version(folder, database_first=number % 2 == 0) == version, point


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        commit_next_version(Path(sys.argv[2]), sys.argv[3])
    else:
        for mode in ("DELETE", "WAL"):
            with tempfile.TemporaryDirectory() as scratch:
                make_world(Path(scratch, "world"), mode)
                figures, took = kill_at_random(Path(scratch, "world"), RANDOM_KILLS, seed=11)
            sys.stdout.write(f"{mode}: {dict(figures)}; a commit takes {took * 1000:.0f} ms\n")
