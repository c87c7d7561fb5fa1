from __future__ import annotations

import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from entcent_agents.environments import (
    DirectoryEnvironment,
    DirectoryFork,
    SqliteEnvironment,
    SqliteFork,
    commit,
    pages,
    tree,
)
from entcent_agents.errors import EnvironmentConflictError, EnvironmentUnusableError

AnyFork = SqliteFork | DirectoryFork

HALF_WRITTEN = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 5")  # pages, so that the file itself is written before the end
connection.execute("BEGIN")
connection.execute("UPDATE filling SET text = 'half'")
connection.execute("INSERT INTO notes VALUES ('half')")
print("written", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(params=["sqlite", "directory"])
def environment(tmp_path: Path, request: pytest.FixtureRequest) -> SqliteEnvironment | DirectoryEnvironment:
    return database(tmp_path) if request.param == "sqlite" else workspace(tmp_path)


def database(folder: Path) -> SqliteEnvironment:
    path = folder / "app.db"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
        connection.execute("CREATE TABLE filling (text TEXT)")
        connection.executemany("INSERT INTO filling VALUES (?)", [("x" * 1000,)] * 500)
    return SqliteEnvironment(path)


def workspace(folder: Path) -> DirectoryEnvironment:
    path = folder / "files"
    (path / "deep").mkdir(parents=True)
    (path / "deep" / "same.txt").write_text("same")
    (path / "gone.txt").write_text("gone")
    (path / "notes.txt").touch()
    return DirectoryEnvironment(path)


def note(fork: AnyFork, text: str) -> None:
    if isinstance(fork, SqliteFork):
        with fork.connect() as connection:
            connection.execute("INSERT INTO notes VALUES (?)", (text,))
    else:
        with fork.resolve("notes.txt").open("a") as file:
            file.write(f"{text}\n")


def notes(place: AnyFork | SqliteEnvironment | DirectoryEnvironment) -> list[str]:
    """The notes in a fork, or in the real world, seen without this library."""
    if place.path.is_dir():
        return (place.path / "notes.txt").read_text().split()
    with contextlib.closing(sqlite3.connect(place.path)) as connection:
        return [text for (text,) in connection.execute("SELECT text FROM notes")]


def leftovers(place: SqliteEnvironment | DirectoryEnvironment) -> list[Path]:
    return list(place.path.parent.glob(".entcent-*"))


@contextlib.contextmanager
def killed_in_a_transaction(path: Path) -> Generator[None, None, None]:
    """Another program is in the middle of a transaction while the block runs, and is killed at its end."""
    with subprocess.Popen(
        [sys.executable, "-c", HALF_WRITTEN, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        try:
            yield
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def test_a_copy_has_what_was_changed_before_it_and_neither_sees_the_other(
    environment: SqliteEnvironment | DirectoryEnvironment,
) -> None:
    fork = environment.fork()
    note(fork, "first")
    copy = fork.fork()
    assert copy.path != fork.path
    assert copy.environment is environment
    note(fork, "second")
    note(copy, "other")
    assert (notes(fork), notes(copy), notes(environment)) == (["first", "second"], ["first", "other"], [])
    fork.discard()
    copy.discard()
    assert not leftovers(environment)


def test_a_copy_has_the_difference_and_the_commit_of_its_original(
    environment: SqliteEnvironment | DirectoryEnvironment,
) -> None:
    fork = environment.fork()
    assert fork.fork().diff() == ()
    note(fork, "first")
    copy = fork.fork().fork()
    assert copy.diff() == fork.diff() != ()
    fork.discard()
    commit([copy])
    assert notes(environment) == ["first"]
    with pytest.raises(EnvironmentUnusableError, match="discarded or committed"):
        copy.fork()


def test_a_copy_conflicts_with_what_came_after_the_first_fork(
    environment: SqliteEnvironment | DirectoryEnvironment,
) -> None:
    fork, other = environment.fork(), environment.fork()
    note(fork, "ours")
    note(other, "theirs")
    commit([other])
    copy = fork.fork()  # the real world is not what it was, and the copy must not take it for its base
    for late in (copy, fork):
        with pytest.raises(EnvironmentConflictError, match="changed since it was forked"):
            late.diff()
        with pytest.raises(EnvironmentConflictError, match="nothing was committed"):
            commit([late])
    assert notes(environment) == ["theirs"]


@pytest.mark.parametrize("winner", ["copy", "original"])
def test_committing_one_makes_the_other_conflict_and_leaves_it_readable(
    environment: SqliteEnvironment | DirectoryEnvironment, winner: str
) -> None:
    fork = environment.fork()
    note(fork, "first")
    copy = fork.fork()
    committed, late = (copy, fork) if winner == "copy" else (fork, copy)
    commit([committed])  # equal to the other in all that it holds
    with pytest.raises(EnvironmentConflictError, match="nothing was committed"):
        commit([late])
    assert notes(late) == notes(environment) == ["first"]
    late.discard()
    assert not leftovers(environment)


@pytest.mark.parametrize("discarded", ["copy", "original"])
def test_discarding_one_leaves_the_other_to_be_committed(
    environment: SqliteEnvironment | DirectoryEnvironment, discarded: str
) -> None:
    fork = environment.fork()
    note(fork, "first")
    copy = fork.fork()
    gone, winner = (copy, fork) if discarded == "copy" else (fork, copy)
    gone.discard()
    note(winner, "second")
    commit([winner])
    assert notes(environment) == ["first", "second"]
    assert not leftovers(environment)


def test_a_discarded_fork_cannot_be_copied_and_the_attempt_leaves_nothing(
    environment: SqliteEnvironment | DirectoryEnvironment,
) -> None:
    fork = environment.fork()
    fork.discard()
    with pytest.raises(EnvironmentUnusableError, match="was discarded or committed"):
        fork.fork()
    assert not leftovers(environment)


def test_a_full_disk_is_said_and_leaves_no_half_copy(environment: SqliteEnvironment | DirectoryEnvironment) -> None:
    fork = environment.fork()
    if isinstance(fork, DirectoryFork):
        fork.resolve("large.bin").write_bytes(bytes(500_000))
    folders = {*fork.path.parent.parent.parent.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(EnvironmentUnusableError, match=r"cannot be copied \(.*(too large|full|I/O error)"):
            fork.fork()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {*fork.path.parent.parent.parent.iterdir()} == folders


def test_a_leftover_reader_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LOCK_SECONDS", 0.1)
    environment = database(tmp_path)
    fork = environment.fork()
    note(fork, "first")
    with contextlib.closing(sqlite3.connect(fork.path)) as reader:
        rows = reader.execute("SELECT * FROM filling")
        rows.fetchone()  # and there are more: the reader holds its lock
        copy = fork.fork()
        fork.keep()
        assert copy.diff() == fork.diff()
        commit([fork])
        assert len(rows.fetchall()) == 499
    copy.discard()
    assert notes(environment) == ["first"]


def test_a_fork_that_is_being_written_is_neither_copied_nor_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "LOCK_SECONDS", 0.1)
    fork = database(tmp_path).fork()
    with fork.connect() as connection:
        connection.execute("INSERT INTO notes VALUES ('first')")
        with pytest.raises(EnvironmentUnusableError, match=r"still in use \(database is locked\): wait for its tools"):
            fork.fork()
        with pytest.raises(EnvironmentUnusableError, match="still in use"):
            fork.keep()
    assert [path.name for path in fork.path.parent.parent.parent.iterdir()] == [Path(fork.reference).name]
    assert notes(fork.fork()) == ["first"]


def test_what_is_only_in_a_forks_own_write_ahead_log_is_copied(tmp_path: Path) -> None:
    environment = database(tmp_path)
    fork = environment.fork()
    with contextlib.closing(sqlite3.connect(fork.path, isolation_level=None)) as tool:  # knows the path alone
        tool.execute("PRAGMA journal_mode = WAL")
        tool.execute("INSERT INTO notes VALUES ('logged')")
        assert Path(f"{fork.path}-wal").stat().st_size
        copy = fork.fork()
    fork.discard()
    commit([copy])
    assert notes(environment) == ["logged"]


@pytest.mark.parametrize("first", ["read", "diff", "fork", "keep", "commit"])
def test_what_a_killed_program_half_wrote_is_undone_by_whoever_comes_first(tmp_path: Path, first: str) -> None:
    environment = database(tmp_path)
    fork = environment.fork()
    note(fork, "whole")
    before = fork.diff()
    with killed_in_a_transaction(fork.path):
        pass
    assert Path(f"{fork.path}-journal").stat().st_size
    if first == "read":
        with fork.connect(read_only=True) as connection:
            assert connection.execute("SELECT text FROM notes").fetchall() == [("whole",)]
    elif first == "fork":
        fork.fork().discard()
    elif first == "keep":
        fork.keep()
    if first != "commit":
        assert fork.diff() == before
    commit([fork])
    assert notes(environment) == ["whole"]


def test_another_programs_transaction_is_waited_for_and_never_copied_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "LOCK_SECONDS", 0.1)
    fork = database(tmp_path).fork()
    with killed_in_a_transaction(fork.path), pytest.raises(EnvironmentUnusableError, match="in use"):
        fork.fork()
    copy = fork.fork()
    assert notes(copy) == []
    with copy.connect(read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM filling WHERE text = 'half'").fetchone() == (0,)


def test_copies_taken_while_threads_write_hold_whole_transactions(tmp_path: Path) -> None:
    fork = database(tmp_path).fork()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            with fork.connect() as connection:
                connection.execute("INSERT INTO notes VALUES ('one')")
                connection.execute("UPDATE filling SET text = (SELECT count(*) FROM notes)")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(20):
            copy = fork.fork()
            with copy.connect(read_only=True) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                seen = {int(text) if len(text) < 9 else 0 for (text,) in connection.execute("SELECT text FROM filling")}
                assert seen == {connection.execute("SELECT count(*) FROM notes").fetchone()[0]}
            copy.discard()
    finally:
        stop.set()
        thread.join()


def test_a_copied_directory_keeps_links_permissions_and_what_is_gone(tmp_path: Path) -> None:
    environment = workspace(tmp_path)
    fork = environment.fork()
    fork.resolve("gone.txt").unlink()
    fork.resolve("link").symlink_to("notes.txt")
    fork.resolve("notes.txt").chmod(0o640)
    fork.resolve("deep").chmod(0o500)
    copy = fork.fork()
    note(copy, "own")
    assert copy.path.joinpath("link").read_text() == "own\n"
    assert notes(fork) == []
    assert copy.path.joinpath("deep").stat().st_mode & 0o777 == 0o500
    fork.discard()
    commit([copy])
    assert sorted(path.name for path in environment.path.iterdir()) == ["deep", "link", "notes.txt"]
    assert environment.path.joinpath("notes.txt").stat().st_mode & 0o777 == 0o640
    assert not leftovers(environment)


@pytest.mark.parametrize("clones", [True, False])
def test_files_of_every_size_are_copied_whole_with_or_without_help_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clones: bool
) -> None:
    if not clones:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    fork = workspace(tmp_path).fork()
    monkeypatch.setattr(tree, "_BYTES_A_CALL", 65_536)
    contents = {"empty": b"", "odd": os.urandom(65_537), "large": os.urandom(3 << 20), "hole": bytes(1 << 20) + b"x"}
    for name, content in contents.items():
        fork.resolve(name).write_bytes(content)
    os.truncate(fork.resolve("large"), 5 << 20)
    copy = fork.fork()
    assert {name: copy.resolve(name).read_bytes() for name in contents} == contents | {
        "large": contents["large"] + bytes(2 << 20)
    }
    copy.resolve("odd").write_bytes(b"other")
    assert fork.resolve("odd").read_bytes() == contents["odd"]


def test_a_directory_that_is_written_all_the_time_is_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork = workspace(tmp_path).fork()
    look = tree.manifest

    def look_and_write(root: Path) -> dict[str, str]:
        seen = look(root)
        note(fork, "again")
        return seen

    with monkeypatch.context() as patch:
        patch.setattr(tree, "manifest", look_and_write)
        with pytest.raises(EnvironmentUnusableError, match="kept changing while it was copied"):
            fork.fork()
    assert notes(fork.fork()) == notes(fork) != []


def test_a_pipe_that_a_tool_made_keeps_a_directory_from_being_copied(tmp_path: Path) -> None:
    fork = workspace(tmp_path).fork()
    os.mkfifo(fork.path / "pipe")
    with pytest.raises(EnvironmentUnusableError, match="neither a file"):
        fork.fork()
    fork.resolve("pipe").unlink()
    note(fork, "first")
    assert notes(fork.fork()) == ["first"]
