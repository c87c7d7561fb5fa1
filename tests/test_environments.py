from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from entcent_agents import environments
from entcent_agents.environments import (
    DirectoryEnvironment,
    Environment,
    Fork,
    SqliteEnvironment,
    SqliteFork,
    current_environment,
    discard_all,
    fork_all,
    use_environments,
)
from entcent_agents.errors import (
    ConfigurationError,
    EnvironmentConflictError,
    EnvironmentFault,
    EnvironmentUnusableError,
    PathEscapeError,
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    run(path, "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)", "INSERT INTO notes VALUES (1, 'old')")
    return path


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("one\ntwo\n")
    (folder / "deep" / "b.txt").write_text("b\n")
    return folder


def run(path: Path, *statements: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return [row for statement in statements for row in connection.execute(statement).fetchall()]


def write(fork: SqliteFork, statement: str) -> None:
    with fork.connect() as connection:
        connection.execute(statement)


def read(fork: SqliteFork, statement: str) -> list[tuple[object, ...]]:
    with fork.connect(read_only=True) as connection:
        return connection.execute(statement).fetchall()


def leftovers(path: Path) -> list[Path]:
    return list(path.parent.glob(".entcent-*"))


def test_public_names_are_sorted() -> None:
    assert environments.__all__ == sorted(environments.__all__)
    assert all(hasattr(environments, name) for name in environments.__all__)


def test_importing_environments_loads_no_framework() -> None:
    check = "import sys, entcent_agents.environments; sys.exit(any(m.startswith('lang') for m in sys.modules))"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)


def test_database_forks_see_neither_each_other_nor_touch_the_real_one(database: Path) -> None:
    environment = SqliteEnvironment(database)
    first, second = environment.fork(), environment.fork()
    write(first, "UPDATE notes SET text = 'first'")
    write(second, "DELETE FROM notes")
    assert read(first, "SELECT text FROM notes") == [("first",)]
    assert read(second, "SELECT text FROM notes") == []
    assert run(database, "SELECT text FROM notes") == [("old",)]
    for fork in (first, second):
        fork.discard()


def test_directory_forks_see_neither_each_other_nor_touch_the_real_one(workspace: Path) -> None:
    environment = DirectoryEnvironment(workspace)
    first, second = environment.fork(), environment.fork()
    first.resolve("a.txt").write_text("first")
    second.resolve("a.txt").unlink()
    assert first.resolve("a.txt").read_text() == "first"
    assert (workspace / "a.txt").read_text() == "one\ntwo\n"
    assert workspace not in first.path.parents
    discard_all({"1": first, "2": second})


def test_discard_leaves_nothing_and_may_be_repeated(database: Path, workspace: Path) -> None:
    forks = fork_all([SqliteEnvironment(database), DirectoryEnvironment(workspace)])
    assert leftovers(database)
    forks["workspace"].path.joinpath("deep").chmod(0o500)
    for _ in range(2):
        discard_all(forks)
    assert not leftovers(database)
    assert sorted(path.name for path in database.parent.iterdir()) == ["app.db", "files"]


def test_a_discarded_fork_says_so(database: Path, workspace: Path) -> None:
    forks = fork_all([SqliteEnvironment(database), DirectoryEnvironment(workspace)])
    discard_all(forks)
    for fork in forks.values():
        with pytest.raises(EnvironmentUnusableError, match="was discarded or committed"):
            fork.diff()
    with pytest.raises(EnvironmentUnusableError, match="was discarded"), forks["database"].connect():  # type: ignore[attr-defined]
        pass


def test_many_threads_fork_and_discard_at_once(database: Path, workspace: Path) -> None:
    opened = [SqliteEnvironment(database), DirectoryEnvironment(workspace)]
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                discard_all(fork_all(opened))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert not leftovers(database)


def test_a_fork_includes_what_is_only_in_the_write_ahead_log(tmp_path: Path) -> None:
    path = tmp_path / "wal.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE t (a)")
        writer.execute("INSERT INTO t VALUES (1)")
        assert Path(f"{path}-wal").stat().st_size
        fork = SqliteEnvironment(path).fork()
        assert read(fork, "SELECT a FROM t") == [(1,)]
        fork.discard()


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize(
    "statement",
    [
        "ATTACH '{real}' AS real",
        "ATTACH 'file:{real}?mode=rw' AS real",
        "VACUUM INTO '{other}'",
        "SELECT load_extension('{other}')",
        "PRAGMA journal_mode = WAL",
        "PRAGMA writable_schema = 1",
        "PRAGMA temp_store_directory = '/'",
        "PRAGMA query_only = 0",
    ],
)
def test_what_reaches_outside_the_fork_is_refused(database: Path, statement: str, read_only: bool) -> None:
    fork = SqliteEnvironment(database).fork()
    other = database.with_name("other.db")
    with (
        pytest.raises(sqlite3.DatabaseError, match=r"not authorized|authorization denied"),
        fork.connect(read_only=read_only) as connection,
    ):
        if connection.in_transaction:
            connection.execute("COMMIT")  # so that the transaction is not what refuses it
        connection.execute(statement.format(real=database, other=other))
    assert not other.exists()
    fork.discard()


def test_reading_connections_cannot_write(database: Path) -> None:
    fork = SqliteEnvironment(database).fork()
    for statement in ("DELETE FROM notes", "DROP TABLE notes", "CREATE TABLE x (a)"):
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            read(fork, statement)
    assert read(fork, "SELECT count(*) FROM notes") == [(1,)]
    assert read(fork, "SELECT name FROM pragma_table_info('notes')") == [("id",), ("text",)]
    fork.discard()


def test_full_text_tables_work_in_a_fork(tmp_path: Path) -> None:
    path = tmp_path / "fts.db"
    run(path, "CREATE VIRTUAL TABLE words USING fts5(text)", "INSERT INTO words VALUES ('hello world')")
    fork = SqliteEnvironment(path).fork()
    write(fork, "INSERT INTO words VALUES ('hello again')")
    assert read(fork, "SELECT count(*) FROM words WHERE words MATCH 'hello'") == [(2,)]
    (change,) = fork.diff()  # the tables of the index say nothing to a person
    assert (change.subject, change.text) == ("words", " text\n+hello again")
    fork.discard()


def test_a_statement_is_stopped_after_its_seconds(database: Path) -> None:
    fork = SqliteEnvironment(database).fork()
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with (
        pytest.raises(sqlite3.OperationalError, match="interrupted"),
        fork.connect(read_only=True, statement_seconds=0.1) as connection,
    ):
        connection.execute(endless).fetchall()
    fork.discard()


def test_an_error_in_a_block_undoes_all_of_it(database: Path) -> None:
    fork = SqliteEnvironment(database).fork()
    with pytest.raises(ZeroDivisionError), fork.connect() as connection:
        connection.execute("DELETE FROM notes")
        raise ZeroDivisionError
    assert read(fork, "SELECT count(*) FROM notes") == [(1,)]
    fork.discard()


def test_database_difference_shows_rows_and_definitions(database: Path) -> None:
    fork = SqliteEnvironment(database).fork()
    assert fork.diff() == ()
    write(fork, "UPDATE notes SET text = 'new'")
    write(fork, "CREATE TABLE extra (a)")
    write(fork, "CREATE INDEX by_text ON notes (text)")
    changes = {change.subject: change for change in fork.diff()}
    assert list(changes) == ["by_text", "extra", "notes"]
    assert changes["notes"].what == "changed"
    assert changes["notes"].text == " id | text\n-1 | old\n+1 | new"
    assert (changes["extra"].kind, changes["extra"].what, changes["extra"].text) == (
        "table",
        "created",
        "+CREATE TABLE extra (a)",
    )
    assert changes["by_text"].kind == "index"
    fork.discard()


def test_database_difference_counts_equal_rows_and_says_how_many_it_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "bag.db"
    run(path, "CREATE TABLE bag (a)", "INSERT INTO bag VALUES (1)")
    fork = SqliteEnvironment(path).fork()
    write(fork, "INSERT INTO bag VALUES (1)")
    assert fork.diff()[0].text == " a\n-1\n+1"
    write(fork, "DELETE FROM bag")
    with fork.connect() as connection:
        connection.executemany("INSERT INTO bag VALUES (?)", [(number,) for number in range(2, 102)])
    lines = fork.diff()[0].text.splitlines()
    assert len(lines) == 61
    assert lines[-1] == "… 42 more"  # a header, one row gone and a hundred come, sixty shown
    fork.discard()


def test_directory_difference_is_unified_and_sees_content_alone(workspace: Path) -> None:
    fork = DirectoryEnvironment(workspace).fork()
    fork.resolve("a.txt").write_text("one\nTWO\n")
    fork.resolve("deep/b.txt").write_text("b\n")  # the same again
    fork.resolve("new").mkdir()
    fork.resolve("new/c.bin").write_bytes(b"\xff\x00")
    changes = fork.diff()
    assert [(change.subject, change.what, change.kind) for change in changes] == [
        ("a.txt", "changed", "file"),
        ("new/c.bin", "created", "file"),
    ]
    assert changes[0].text == "--- a/a.txt\n+++ b/a.txt\n@@ -1,2 +1,2 @@\n one\n-two\n+TWO"
    assert changes[1].text == "(binary file: none → 2 bytes)"
    fork.discard()


def test_difference_is_refused_once_the_real_world_moved_on(database: Path, workspace: Path) -> None:
    forks = fork_all([SqliteEnvironment(database), DirectoryEnvironment(workspace)])
    run(database, "DELETE FROM notes")
    (workspace / "a.txt").write_text("elsewhere")
    for fork in forks.values():
        with pytest.raises(EnvironmentConflictError, match="changed since it was forked"):
            fork.diff()
    discard_all(forks)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../app.db", "deep/../../app.db", "deep/../a.txt", "out/passwd", "loop", "a\0b"]
)
def test_paths_that_lead_out_of_the_workspace_are_refused(workspace: Path, path: str) -> None:
    (workspace / "out").symlink_to("/etc")
    (workspace / "loop").symlink_to("loop")
    fork = DirectoryEnvironment(workspace).fork()
    with pytest.raises(PathEscapeError):
        fork.resolve(path)
    fork.discard()


def test_absolute_links_into_the_real_workspace_are_refused(workspace: Path) -> None:
    (workspace / "link.txt").symlink_to(workspace / "a.txt")
    (workspace / "near.txt").symlink_to("a.txt")
    fork = DirectoryEnvironment(workspace).fork()
    with pytest.raises(PathEscapeError, match="link out of"):
        fork.resolve("link.txt")
    fork.resolve("near.txt").write_text("through the fork's own link")
    assert fork.resolve("a.txt").read_text() == "through the fork's own link"
    assert (workspace / "a.txt").read_text() == "one\ntwo\n"
    fork.discard()


def test_forks_keep_links_and_permissions(workspace: Path) -> None:
    (workspace / "near.txt").symlink_to("a.txt")
    (workspace / "a.txt").chmod(0o750)
    fork = DirectoryEnvironment(workspace).fork()
    assert fork.path.joinpath("near.txt").is_symlink()
    assert fork.path.joinpath("a.txt").stat().st_mode & 0o777 == 0o750
    fork.discard()


def test_unusable_databases_say_what_to_do(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("Dear diary, today I wrote a long note, and then another one. " * 20)
    cases = {
        text: r"notes.txt is not a SQLite database \(its first bytes are b'Dear diary, toda'\): pass a file",
        tmp_path / "missing.db": "does not exist: create the database first",
        tmp_path / "no" / "missing.db": "no does not exist: create it",
        tmp_path: "is a directory",
    }
    for path, message in cases.items():
        with pytest.raises(EnvironmentUnusableError, match=message) as caught:
            SqliteEnvironment(path)
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]


def test_unusable_directories_say_what_to_do(tmp_path: Path, database: Path) -> None:
    cases = {
        tmp_path / "missing": "does not exist: create it with",
        tmp_path / "no" / "missing": "no does not exist: create it",
        database: "is not a directory",
        Path("/proc"): "mount point|make / writable",
    }
    for path, message in cases.items():
        with pytest.raises(EnvironmentUnusableError, match=message):
            DirectoryEnvironment(path)


def test_a_pipe_in_a_workspace_is_refused_instead_of_read(workspace: Path) -> None:
    os.mkfifo(workspace / "pipe")
    with pytest.raises(EnvironmentUnusableError, match="neither a file"):
        DirectoryEnvironment(workspace).fork()
    assert not leftovers(workspace)


def test_a_locked_database_cannot_be_forked(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = SqliteEnvironment(database)
    monkeypatch.setattr("entcent_agents.environments.pages.LOCK_SECONDS", 0.1)
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(EnvironmentUnusableError, match="locked"):
            environment.fork()
    assert not leftovers(database)


def forked_by_a_dead_process(database: Path, *, keep: bool) -> str:
    script = (
        "import sys; from entcent_agents.environments import SqliteEnvironment\n"
        "fork = SqliteEnvironment(sys.argv[1]).fork()\n"
        "with fork.connect() as c: c.execute(\"UPDATE notes SET text = 'theirs'\")\n"
        f"{'fork.keep()' if keep else ''}\n"
        "print(fork.reference)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(database)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_opening_sweeps_forks_of_dead_processes_alone(database: Path) -> None:
    mine = SqliteEnvironment(database).fork()
    theirs = forked_by_a_dead_process(database, keep=False)
    assert Path(theirs).exists()
    environment = SqliteEnvironment(database)
    assert not Path(theirs).exists()
    assert read(mine, "SELECT text FROM notes") == [("old",)]
    with pytest.raises(EnvironmentUnusableError, match="discarded or committed"):
        environment.reopen(theirs)
    mine.discard()
    assert not leftovers(database)


def test_a_kept_fork_can_be_reopened_and_committed_by_another_process_once(database: Path) -> None:
    reference = forked_by_a_dead_process(database, keep=True)
    environment = SqliteEnvironment(database)
    assert not environment.committed(reference)
    environments.commit([environment.reopen(reference)])
    assert run(database, "SELECT text FROM notes") == [("theirs",)]
    assert SqliteEnvironment(database).committed(reference)
    with pytest.raises(EnvironmentUnusableError, match="committed"):
        environment.reopen(reference)


def test_kept_forks_and_receipts_are_swept_after_a_week(database: Path) -> None:
    reference = forked_by_a_dead_process(database, keep=True)
    os.utime(Path(reference) / "kept", (0, 0))
    SqliteEnvironment(database)
    assert not leftovers(database)


def test_a_reference_to_elsewhere_is_refused(database: Path) -> None:
    with pytest.raises(EnvironmentUnusableError, match="not a fork of"):
        SqliteEnvironment(database).reopen("/etc")


def test_current_environment_is_the_rollouts_own(database: Path, workspace: Path) -> None:
    forks = fork_all([SqliteEnvironment(database), DirectoryEnvironment(workspace)])
    with pytest.raises(ConfigurationError, match="inside a rollout only"):
        current_environment()
    with use_environments(forks):
        assert current_environment("workspace") is forks["workspace"]
        with pytest.raises(ConfigurationError, match=r"2 environments \(database, workspace\): name"):
            current_environment()
        with pytest.raises(ConfigurationError, match="no environment 'mail'"):
            current_environment("mail")
        with use_environments({"database": forks["database"]}):
            assert current_environment() is forks["database"]
        assert current_environment("workspace") is forks["workspace"]
    discard_all(forks)


async def test_concurrent_rollouts_see_their_own_forks_in_threads(database: Path) -> None:
    environment = SqliteEnvironment(database)

    async def rollout() -> bool:
        fork = environment.fork()
        with use_environments({"database": fork}):
            await asyncio.sleep(0)
            seen = await asyncio.to_thread(current_environment, "database")
        fork.discard()
        return seen is fork

    assert await asyncio.gather(*(rollout() for _ in range(4))) == [True] * 4


def test_fork_all_leaves_nothing_behind_where_one_fails(database: Path, workspace: Path) -> None:
    good, gone = SqliteEnvironment(database), DirectoryEnvironment(workspace)
    workspace.rename(workspace.with_name("moved"))
    with pytest.raises(EnvironmentFault):
        fork_all([good, gone])
    with pytest.raises(ConfigurationError, match="two environments are called 'database'"):
        fork_all([good, SqliteEnvironment(database)])
    assert not leftovers(database)


def test_both_kinds_keep_the_protocol(database: Path, workspace: Path) -> None:
    opened: list[Environment] = [SqliteEnvironment(database), DirectoryEnvironment(workspace)]
    forks = fork_all(opened)
    assert all(isinstance(fork, Fork) for fork in forks.values())
    assert [fork.environment for fork in forks.values()] == opened
    discard_all(forks)
