"""A SQLite database as an environment."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

from entcent_agents.environments import pages
from entcent_agents.environments.durable import sync_path
from entcent_agents.environments.forks import StagedEnvironment, StagedFork, new_folder, reopened_folder, write_base
from entcent_agents.environments.protocol import Change, Mechanism, Sealed
from entcent_agents.environments.rows import database_changes
from entcent_agents.errors import EnvironmentConflictError, EnvironmentUnusableError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

STATEMENT_SECONDS = 10.0
_INSTRUCTIONS_A_CHECK = 10_000  # virtual-machine instructions of SQLite between two looks at the clock

# What reaches outside the fork. `VACUUM`, with `INTO` or without, is an ATTACH to the authorizer.
_OUTSIDE = frozenset({sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH})
_READABLE_PRAGMAS = frozenset(
    "application_id collation_list data_version encoding foreign_key_check foreign_key_list foreign_keys "
    "freelist_count function_list index_info index_list index_xinfo integrity_check page_count page_size quick_check "
    "schema_version table_info table_list table_xinfo user_version".split()
)
_PRAGMAS_WITH_SUBJECT = frozenset(
    name for name in _READABLE_PRAGMAS if name.endswith(("_info", "_xinfo", "_list", "check"))
)
_WRITABLE_PRAGMAS = frozenset({"application_id", "defer_foreign_keys", "user_version"})


class SqliteFork(StagedFork["SqliteEnvironment"]):
    """A rollout's own copy of a database. Tools talk to it through `connect`."""

    @contextlib.contextmanager
    def connect(
        self, *, read_only: bool = False, statement_seconds: float = STATEMENT_SECONDS
    ) -> Generator[sqlite3.Connection, None, None]:
        """A connection to the fork for one tool call; rolled back on an error, else committed (in the fork).

        Attaching other databases, `VACUUM`, loading extensions and the PRAGMAs that do more than look are refused as
        "not authorized". Foreign keys are enforced.

        Args:
            read_only: Refuse every statement that writes.
            statement_seconds: How long the statements may take, counted from here; then they are interrupted.

        Raises:
            EnvironmentUnusableError: The fork was discarded or committed.
        """
        self._require()
        connection = pages.open_database(self.path)
        with contextlib.closing(connection):
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = OFF")  # sealing makes it durable
            if read_only:
                connection.execute("PRAGMA query_only = ON")
            connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
            connection.set_authorizer(_authorizer(frozenset() if read_only else _WRITABLE_PRAGMAS))
            deadline = time.monotonic() + statement_seconds
            connection.set_progress_handler(lambda: time.monotonic() > deadline, _INSTRUCTIONS_A_CHECK)
            if read_only:
                yield connection
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                if connection.in_transaction:
                    connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def diff(self) -> tuple[Change, ...]:
        """Rows of every table that differs, and the SQL of everything else that does.

        Raises:
            EnvironmentConflictError: The database changed since the fork, so that there is nothing to compare with.
            EnvironmentUnusableError: The fork was discarded or committed.
        """
        self._require()
        target = self._environment.path
        with (
            self._staging.lock(shared=True),
            contextlib.closing(pages.open_database(target)) as real,
            contextlib.closing(pages.open_database(self.path)) as staged,
        ):
            if pages.content_digest(real, self._staging.path) != self._base():
                raise EnvironmentConflictError(
                    f"{target} changed since it was forked: take the difference before another fork is committed"
                )
            staged.execute("ATTACH ? AS base", (f"{target.as_uri()}?mode=ro",))
            return database_changes(self._environment.name, staged)

    def seal(self) -> Sealed | None:
        """Make the copy durable and say how to apply it; None where it changed nothing. For `commit` alone.

        Raises:
            EnvironmentUnusableError: The fork was discarded or committed, or a tool is writing to it.
        """
        self._require()
        self._flush()
        mark, base = pages.file_digest(self.path), self._base()
        if mark == base:
            return None
        return Sealed(
            kind="sqlite",
            target=str(self._environment.path),
            fork=str(self._folder),
            staged=str(self.path),
            base=base,
            mark=mark,
            kept=self._kept(),
        )

    def _copy(self, path: Path) -> None:
        with self._without_writers():
            _copy_database(self.path, path)

    def _flush(self) -> None:
        with self._without_writers("PRAGMA journal_mode = DELETE"):  # a tool that opens it by its path may set another
            pass
        sync_path(self.path)
        sync_path(self.path.parent)

    @contextlib.contextmanager
    def _without_writers(self, *before: str) -> Generator[None, None, None]:
        """Hold the write lock, after these statements. Readers may stay; what a dead process half wrote is undone."""
        with contextlib.closing(pages.open_database(self.path)) as staged:
            try:
                for statement in (*before, "BEGIN IMMEDIATE"):
                    staged.execute(statement)
            except sqlite3.Error as error:
                raise EnvironmentUnusableError(f"{self.path} is still in use ({error}): wait for its tools") from error
            yield


class SqliteEnvironment(StagedEnvironment):
    """A SQLite database that rollouts fork. Opening it finishes an interrupted commit and sweeps stale forks.

    Args:
        path: The database file; it must exist, in a directory that can be written.
        name: What tools call it.

    Raises:
        EnvironmentUnusableError: No such file, not a SQLite database, or its directory cannot be written.
        EnvironmentConflictError: Somebody changed a target of an interrupted commit; a person has to decide.

    Example:
        >>> import sqlite3
        >>> from contextlib import closing
        >>> from entcent_agents import SqliteEnvironment
        >>> with closing(sqlite3.connect("shop.db")) as real:
        ...     made = real.execute("CREATE TABLE stock (item TEXT)")
        >>> fork = SqliteEnvironment("shop.db").fork()
        >>> with fork.connect() as copy:
        ...     added = copy.execute("INSERT INTO stock VALUES ('bolts')")
        >>> [(change.subject, change.what) for change in fork.diff()]
        [('stock', 'changed')]
        >>> fork.discard()
    """

    mechanism: Mechanism = pages

    def __init__(self, path: Path | str, name: str = "database") -> None:
        self.name = name
        self.path: Path = Path(path).resolve()
        if not self.path.is_file():
            raise EnvironmentUnusableError(_missing(self.path))
        if not (os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK)):
            raise EnvironmentUnusableError(f"{self.path} cannot be written: make it and its directory writable")
        self.recover()
        _check_is_database(self.path)

    def fork(self) -> SqliteFork:
        """A consistent snapshot of the database, for one rollout.

        Raises:
            EnvironmentUnusableError: The database is gone, or stays locked.
        """
        with new_folder(self.path) as folder:
            fork = SqliteFork(self, folder)
            _copy_database(self.path, fork.path)
            write_base(folder, pages.file_digest(fork.path))
            return fork

    def reopen(self, reference: str) -> SqliteFork:
        """The fork that another process (or this one) made, by its reference.

        Raises:
            EnvironmentUnusableError: There is no such fork: it was discarded or committed.
        """
        return SqliteFork(self, reopened_folder(self.path, reference))


def _copy_database(source: Path, path: Path) -> None:
    try:
        with contextlib.closing(pages.open_database(source)) as connection:
            pages.copy_database(connection, path)
    except sqlite3.Error as error:
        raise EnvironmentUnusableError(f"{source} cannot be copied ({error}): check the file and the disk") from error


def _authorizer(writable: frozenset[str]) -> Callable[[int, str | None, str | None, str | None, str | None], int]:
    """Decides on each thing a statement does, while it is compiled; PRAGMAs in `writable` may be set."""

    def decide(code: int, first: str | None, second: str | None, _schema: str | None, _inside: str | None) -> int:
        if code in _OUTSIDE:
            return sqlite3.SQLITE_DENY
        if code == sqlite3.SQLITE_FUNCTION and (second or "").lower() == "load_extension":
            return sqlite3.SQLITE_DENY
        if code == sqlite3.SQLITE_PRAGMA:
            name = (first or "").lower()
            looks = name in _READABLE_PRAGMAS and (second is None or name in _PRAGMAS_WITH_SUBJECT)
            return sqlite3.SQLITE_OK if looks or name in writable else sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    return decide


def _missing(path: Path) -> str:
    if path.is_dir():
        return f"{path} is a directory: pass a SQLite database file, or use DirectoryEnvironment"
    if not path.parent.is_dir():
        return f"{path.parent} does not exist: create it, and the database in it"
    return f"{path} does not exist: create the database first, with  sqlite3 {path.name} VACUUM  or the sqlite3 module"


def _check_is_database(path: Path) -> None:
    try:
        with contextlib.closing(pages.open_database(path)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError as error:
        raise EnvironmentUnusableError(f"{path} cannot be opened ({error}): check its permissions and users") from error
    except sqlite3.DatabaseError as error:
        with path.open("rb") as file:
            start = file.read(16)
        raise EnvironmentUnusableError(
            f"{path.name} is not a SQLite database (its first bytes are {start!r}): "
            "pass a file made by sqlite3, or create one at a new path"
        ) from error
