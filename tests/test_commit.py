from __future__ import annotations

import contextlib
import errno
import sqlite3
import threading
from pathlib import Path

import pytest

from entcent_agents.environments import (
    DirectoryEnvironment,
    SqliteEnvironment,
    commit,
    discard_all,
    fork_all,
    pages,
    tree,
)
from entcent_agents.environments.staging import Staging
from entcent_agents.errors import ConfigurationError, EnvironmentConflictError, EnvironmentUnusableError

SCHEMA = """
PRAGMA journal_mode = {mode};
CREATE TABLE owners (id INTEGER PRIMARY KEY);
CREATE TABLE pets (id INTEGER PRIMARY KEY, owner INTEGER REFERENCES owners (id) ON DELETE CASCADE, name TEXT);
CREATE TABLE log (text TEXT);
CREATE VIEW named AS SELECT name FROM pets;
CREATE TRIGGER logged AFTER INSERT ON pets BEGIN INSERT INTO log VALUES (new.name); END;
INSERT INTO owners VALUES (1);
"""


class Stopped(BaseException):
    """Stands for the end of the process: nothing may catch it."""


@pytest.fixture(params=["DELETE", "WAL"])
def database(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "app.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMA.format(mode=request.param))
    return path


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir(mode=0o750)
    (folder / "a.txt").write_text("old")
    (folder / "link").symlink_to("a.txt")
    return folder


def run(path: Path, *statements: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return [row for statement in statements for row in connection.execute(statement).fetchall()]


def changed_forks(database: Path, workspace: Path):
    forks = fork_all([SqliteEnvironment(database), DirectoryEnvironment(workspace)])
    with forks["database"].connect() as connection:
        connection.execute("INSERT INTO pets VALUES (1, 1, 'Rex')")
    forks["workspace"].resolve("a.txt").write_text("new")
    return forks


def names_and_text(database: Path, workspace: Path) -> tuple[list[tuple[object, ...]], str]:
    return run(database, "SELECT name FROM pets"), (workspace / "a.txt").read_text()


BEFORE = ([], "old")
AFTER = ([("Rex",)], "new")


def test_commit_makes_forks_real_and_leaves_nothing_else(database: Path, workspace: Path) -> None:
    beside = sorted(path.name for path in database.parent.iterdir())
    commit(list(changed_forks(database, workspace).values()))
    assert names_and_text(database, workspace) == AFTER
    assert sorted(path.name for path in database.parent.iterdir()) == beside


def test_what_the_database_is_made_of_survives(database: Path, workspace: Path) -> None:
    mode = run(database, "PRAGMA journal_mode")
    with contextlib.closing(sqlite3.connect(database)) as standing:
        standing.execute("SELECT * FROM pets").fetchall()
        discard_all({"workspace": (forks := changed_forks(database, workspace))["workspace"]})
        commit([forks["database"]])
        assert standing.execute("SELECT name FROM named").fetchall() == [("Rex",)]  # an open connection sees it
    assert run(database, "SELECT text FROM log") == [("Rex",)]
    run(database, "INSERT INTO pets VALUES (2, 1, 'Tom')")
    assert run(database, "SELECT text FROM log") == [("Rex",), ("Tom",)]
    assert run(database, "PRAGMA foreign_keys = ON", "DELETE FROM owners", "SELECT count(*) FROM pets") == [(0,)]
    assert run(database, "PRAGMA journal_mode") == mode
    assert run(database, "PRAGMA integrity_check") == [("ok",)]


def test_links_and_permissions_survive(workspace: Path) -> None:
    fork = DirectoryEnvironment(workspace).fork()
    fork.resolve("a.txt").write_text("new")
    commit([fork])
    assert (workspace / "link").is_symlink()
    assert (workspace / "link").read_text() == "new"
    assert workspace.stat().st_mode & 0o777 == 0o750


def test_a_second_fork_conflicts_and_changes_nothing(database: Path, workspace: Path) -> None:
    winner, loser = changed_forks(database, workspace), changed_forks(database, workspace)
    commit(list(winner.values()))
    loser["workspace"].resolve("a.txt").write_text("mine")
    for fork in loser.values():
        with pytest.raises(EnvironmentConflictError, match="changed since it was forked: nothing was committed"):
            commit([fork])
    assert names_and_text(database, workspace) == AFTER
    assert loser["database"].diff  # the forks are still there to be looked at, and then discarded
    assert loser["database"].path.exists()
    discard_all(loser)
    assert not list(database.parent.glob(".entcent-*"))


@pytest.mark.parametrize("which", ["database", "workspace"])
def test_one_conflict_holds_back_all(database: Path, workspace: Path, which: str) -> None:
    forks = changed_forks(database, workspace)
    if which == "database":
        run(database, "INSERT INTO owners VALUES (2)")
    else:
        (workspace / "theirs.txt").write_text("x")
    with pytest.raises(EnvironmentConflictError, match="app.db" if which == "database" else "files"):
        commit(list(forks.values()))
    assert names_and_text(database, workspace) == BEFORE
    discard_all(forks)


def test_a_checkpoint_of_the_write_ahead_log_is_no_conflict(database: Path, workspace: Path) -> None:
    forks = changed_forks(database, workspace)
    run(database, "PRAGMA wal_checkpoint(TRUNCATE)")
    commit(list(forks.values()))
    assert names_and_text(database, workspace) == AFTER


def test_a_writer_cannot_come_between_check_and_commit(database: Path, workspace: Path) -> None:
    refused: list[str] = []

    def observe(step: str) -> None:
        if step == "published":
            with contextlib.closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as writer:
                try:
                    writer.execute("INSERT INTO owners VALUES (2)")
                except sqlite3.OperationalError as error:
                    refused.append(str(error))

    commit(list(changed_forks(database, workspace).values()), observe=observe)
    assert refused == ["database is locked"]


def test_a_write_right_after_the_check_is_never_overwritten(
    database: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forks = changed_forks(database, workspace)
    checked = pages.content_digest

    def check_and_write(source: sqlite3.Connection, staging: Path) -> str:
        seen = checked(source, staging)
        with contextlib.closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as writer:
            writer.execute("INSERT INTO owners VALUES (2)")
        return seen

    monkeypatch.setattr(pages, "content_digest", check_and_write)
    if run(database, "PRAGMA journal_mode") == [("wal",)]:  # the write succeeds, and the commit sees it
        with pytest.raises(EnvironmentConflictError, match="changed since it was forked"):
            commit(list(forks.values()))
        assert run(database, "SELECT count(*) FROM owners") == [(2,)]
    else:  # the write is locked out, and here takes the commit down with it
        with pytest.raises(EnvironmentConflictError, match="database is locked"):
            commit(list(forks.values()))
        assert run(database, "SELECT count(*) FROM owners") == [(1,)]
    assert names_and_text(database, workspace) == BEFORE


def test_a_locked_database_refuses_the_commit(database: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entcent_agents.environments.pages.LOCK_SECONDS", 0.1)
    forks = changed_forks(database, workspace)
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(EnvironmentConflictError, match="locked"):
            commit(list(forks.values()))
    assert names_and_text(database, workspace) == BEFORE
    commit(list(forks.values()))
    assert names_and_text(database, workspace) == AFTER


def test_forks_that_changed_nothing_are_discarded_without_a_look(database: Path, workspace: Path) -> None:
    forks = fork_all([SqliteEnvironment(database), DirectoryEnvironment(workspace)])
    inode = workspace.stat().st_ino
    run(database, "INSERT INTO owners VALUES (2)")  # would be a conflict
    steps: list[str] = []
    commit(list(forks.values()), observe=steps.append)
    assert steps == ["sealed"]
    assert workspace.stat().st_ino == inode
    assert run(database, "SELECT count(*) FROM owners") == [(2,)]
    assert not list(database.parent.glob(".entcent-*"))


def test_the_same_fork_cannot_be_committed_twice(database: Path, workspace: Path) -> None:
    forks = changed_forks(database, workspace)
    commit(list(forks.values()))
    with pytest.raises(EnvironmentUnusableError, match="discarded or committed"):
        commit([forks["database"]])
    environment = SqliteEnvironment(database)
    pair = [environment.fork(), environment.fork()]
    with pytest.raises(ConfigurationError, match="two forks of"):
        commit(pair)
    for fork in pair:
        fork.discard()


@pytest.mark.parametrize("opened", ["database", "workspace"])
@pytest.mark.parametrize(
    ("point", "outcome"),
    [
        ("sealed", BEFORE),
        ("pointed", BEFORE),
        ("published", AFTER),
        ("applied directory", AFTER),
        ("applied sqlite", AFTER),
        ("removed", AFTER),
    ],
)
def test_opening_either_target_finishes_both(
    database: Path, workspace: Path, point: str, outcome: object, opened: str
) -> None:
    def observe(step: str) -> None:
        if step == point:
            raise Stopped

    forks = changed_forks(database, workspace)
    with pytest.raises(Stopped):
        commit(list(forks.values()), observe=observe)
    SqliteEnvironment(database) if opened == "database" else DirectoryEnvironment(workspace)
    assert names_and_text(database, workspace) == outcome
    discard_all(forks)
    SqliteEnvironment(database)
    DirectoryEnvironment(workspace)
    assert names_and_text(database, workspace) == outcome
    assert not list(database.parent.glob(".entcent-*"))


def interrupted(database: Path, workspace: Path, point: str = "published"):
    def observe(step: str) -> None:
        if step == point:
            raise Stopped

    forks = changed_forks(database, workspace)
    with pytest.raises(Stopped):
        commit(list(forks.values()), observe=observe)
    return forks


def test_discarding_does_not_take_a_decided_commit_apart(database: Path, workspace: Path) -> None:
    discard_all(interrupted(database, workspace))
    DirectoryEnvironment(workspace)
    assert names_and_text(database, workspace) == AFTER


def test_the_next_commit_finishes_an_interrupted_one_first(database: Path, workspace: Path) -> None:
    fresh = SqliteEnvironment(database).fork()
    with fresh.connect() as connection:
        connection.execute("INSERT INTO owners VALUES (9)")
    interrupted(database, workspace)
    with pytest.raises(EnvironmentConflictError):
        commit([fresh])
    assert names_and_text(database, workspace) == AFTER
    fresh.discard()


def test_somebody_elses_work_after_an_interruption_is_put_to_a_person(database: Path, workspace: Path) -> None:
    interrupted(database, workspace)
    run(database, "INSERT INTO owners VALUES (2)")
    for _ in range(2):
        with pytest.raises(EnvironmentConflictError, match=r"or remove .*commit-.*json to leave it") as caught:
            DirectoryEnvironment(workspace)
    assert names_and_text(database, workspace) == BEFORE
    record = Path(str(caught.value).partition("or remove ")[2].partition(" to leave")[0])
    record.unlink()
    DirectoryEnvironment(workspace)
    assert names_and_text(database, workspace) == BEFORE


def test_several_openers_at_once_finish_it_once(database: Path, workspace: Path) -> None:
    interrupted(database, workspace)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            SqliteEnvironment(database) if number % 2 else DirectoryEnvironment(workspace)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert names_and_text(database, workspace) == AFTER


def test_an_opener_waits_for_a_living_commit(database: Path, workspace: Path) -> None:
    forks = changed_forks(database, workspace)
    opened = threading.Event()

    def open_it() -> None:
        DirectoryEnvironment(workspace)
        opened.set()

    opener = threading.Thread(target=open_it)

    def observe(step: str) -> None:
        if step == "published":
            opener.start()
            assert not opened.wait(0.2)

    commit(list(forks.values()), observe=observe)
    opener.join()
    assert names_and_text(database, workspace) == AFTER


def test_without_the_exchange_two_renames_do(database: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "exchange", lambda _first, _second: False)
    commit(list(changed_forks(database, workspace).values()))
    assert names_and_text(database, workspace) == AFTER
    assert not list(database.parent.glob(".entcent-*"))


def test_a_failure_of_the_second_rename_takes_the_first_back(
    database: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forks = changed_forks(database, workspace)
    rename = Path.rename

    def fail_for_the_staged_tree(path: Path, target: Path) -> Path:
        if path == forks["workspace"].path:
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(tree, "exchange", lambda _first, _second: False)
        patch.setattr(Path, "rename", fail_for_the_staged_tree)
        commit(list(forks.values()))
    assert names_and_text(database, workspace) == BEFORE
    assert not Staging(database).pointer.exists()


def test_a_stop_between_the_two_renames_is_finished(
    database: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forks = changed_forks(database, workspace)

    def stop(_first: Path, second: Path) -> bool:
        second.rename(Path(forks["workspace"].reference) / "previous")
        raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(tree, "exchange", stop)
        commit(list(forks.values()))
    assert not workspace.exists()
    DirectoryEnvironment(workspace)
    assert names_and_text(database, workspace) == AFTER


def test_a_refused_exchange_leaves_all_as_it_was(
    database: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_first: Path, _second: Path) -> bool:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    forks = changed_forks(database, workspace)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="cross-device"):
        patch.setattr(tree, "exchange", refuse)
        commit(list(forks.values()))
    assert names_and_text(database, workspace) == BEFORE
    assert not Staging(database).pointer.exists()
    commit(list(forks.values()))
    assert names_and_text(database, workspace) == AFTER
