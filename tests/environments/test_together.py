"""A journal, a directory and a database in one commit, killed with SIGKILL after each of its steps."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from entcent_agents.environments import DirectoryEnvironment, JournalEnvironment, SqliteEnvironment, commit, fork_all
from tests.environments.shelves import Shelf

ROOT = Path(__file__).resolve().parents[2]
STEPS = {
    "sealed": False,
    "pointed": False,
    "published": True,
    "applied journal": True,
    "applied directory": True,
    "applied sqlite": True,
    "removed": True,
}
WRITES = [("a", 1), ("b", 2), ("a", 3)]


def make_world(folder: Path) -> None:
    (folder / "files").mkdir()
    Shelf.make(folder / "shelf.db")
    with contextlib.closing(sqlite3.connect(folder / "app.db")) as connection:
        connection.execute("CREATE TABLE t (a)")


def open_journal(folder: Path) -> JournalEnvironment:
    return JournalEnvironment(Shelf(folder / "shelf.db"), folder / "shelf")


def open_directory(folder: Path) -> DirectoryEnvironment:
    return DirectoryEnvironment(folder / "files")


def open_database(folder: Path) -> SqliteEnvironment:
    return SqliteEnvironment(folder / "app.db")


OPENERS: list[Callable[[Path], Any]] = [open_journal, open_directory, open_database]


def seen(folder: Path) -> tuple[bool, bool]:
    """Whether the files of a commit are there, and the writes of its journal; each wholly or not at all."""
    with contextlib.closing(sqlite3.connect(folder / "app.db")) as connection:
        rows = connection.execute("SELECT a FROM t").fetchall()
    files = [path.name for path in (folder / "files").iterdir()]
    log = Shelf(folder / "shelf.db").log()
    assert (rows, files) in (([], []), ([(1,)], ["new"]))
    assert log in ([], WRITES)
    return bool(rows), bool(log)


@pytest.mark.parametrize("first", OPENERS)
@pytest.mark.parametrize("step", STEPS)
def test_whatever_is_opened_first_all_of_a_decided_commit_comes_true_and_none_of_another(
    tmp_path: Path, step: str, first: Callable[[Path], Any]
) -> None:
    make_world(tmp_path)
    command = [sys.executable, "-m", "tests.environments.test_together", str(tmp_path), step]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL
    first(tmp_path)
    assert seen(tmp_path)[0] == STEPS[step]
    for opener in OPENERS:
        opener(tmp_path)
        assert seen(tmp_path)[0] == STEPS[step]
    assert seen(tmp_path) == (STEPS[step], STEPS[step])
    assert not list(tmp_path.glob(".entcent-*"))


def commit_and_be_killed(folder: Path, last: str) -> None:
    forks: dict[str, Any] = fork_all([opener(folder) for opener in OPENERS])
    for key, value in WRITES:
        forks["journal"].write(key, value)
    forks["workspace"].resolve("new").touch()
    with forks["database"].connect() as connection:
        connection.execute("INSERT INTO t VALUES (1)")

    def observe(step: str) -> None:
        if step == last:
            os.kill(os.getpid(), signal.SIGKILL)

    commit(list(forks.values()), observe=observe)


if __name__ == "__main__":
    commit_and_be_killed(Path(sys.argv[1]), sys.argv[2])
