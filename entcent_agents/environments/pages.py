"""SQLite databases as images of pages: copying, telling apart and replacing them.

The real database file is only ever read through SQLite: a plain `open` and `close` of it would drop the POSIX locks
that other connections of this process hold on it (see "How To Corrupt An SQLite Database File", section 2.2).
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from entcent_agents.environments.staging import Staging
from entcent_agents.errors import EnvironmentConflictError, EnvironmentFault, EnvironmentUnusableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from entcent_agents.environments.protocol import Sealed

LOCK_SECONDS = 5.0  # how long to wait for other connections to the same database
_PAGES_A_STEP = 256
# Header fields that differ between equal databases: change counter, schema cookie, valid-for and version.
_VOLATILE = ((24, 28), (40, 44), (92, 100))


def open_database(path: Path) -> sqlite3.Connection:
    """A plain connection to an existing database, transactions left to the caller.

    It may write, because only such a connection can roll back what a killed process left half written; one that may
    not would be refused every read until somebody else has done it.
    """
    return sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=LOCK_SECONDS, isolation_level=None)


def copy_database(source: sqlite3.Connection, path: Path) -> None:
    """Copy a database, as one consistent snapshot, into a new file with a rollback journal.

    Raises:
        EnvironmentUnusableError: The source stays locked.
    """

    def refuse_waiting(status: int, _remaining: int, _total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):  # SQLite has waited; Python would wait forever
            raise EnvironmentUnusableError(f"the database stayed locked for {LOCK_SECONDS:g} s: close its writers")

    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as copy:
        copy.execute("PRAGMA synchronous = OFF")
        source.backup(copy, progress=refuse_waiting)
        copy.execute("PRAGMA journal_mode = DELETE")


def file_digest(path: Path) -> str:
    """SHA-256 of a staged database file without a journal, volatile header fields left out."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        header = bytearray(file.read(100))
        for start, end in _VOLATILE:
            header[start:end] = bytes(end - start)
        total.update(header)
        while chunk := file.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()


def content_digest(source: sqlite3.Connection, staging: Path) -> str:
    """Digest of what a connection sees, by way of a temporary copy in the staging folder."""
    with tempfile.TemporaryDirectory(dir=staging, prefix="image-") as folder:
        image = Path(folder, "image")
        copy_database(source, image)
        return file_digest(image)


def state(sealed: Sealed) -> Literal["before", "after", "other"]:
    """Where the target stands: as it was when forked, as it will be, or changed by somebody else."""
    if _applied(sealed).exists():
        return "after"
    target = Path(sealed.target)
    if not target.exists():
        return "other"
    with contextlib.closing(open_database(target)) as real:
        seen = content_digest(real, Staging(target).path)
    return "before" if seen == sealed.base else "after" if seen == sealed.mark else "other"


def replace(sealed: Sealed, then: Callable[[], None]) -> None:
    """Check the target against its base, call `then` while nobody else can write, and write the staged database.

    Either the target's whole content is replaced, in one SQLite transaction, or (where `then` raises) nothing is.

    Raises:
        EnvironmentConflictError: The target is not what was forked, or somebody keeps it locked; nothing was done.
    """
    target = Path(sealed.target)
    try:
        with (
            contextlib.closing(open_database(target)) as real,
            contextlib.closing(open_database(Path(sealed.staged))) as staged,
        ):
            if real.execute("PRAGMA journal_mode").fetchone() == ("wal",):
                _replace_under_write_lock(sealed, real, staged, then)
            else:
                _replace_under_exclusive_lock(sealed, real, staged, then)
    except sqlite3.Error as error:
        raise EnvironmentConflictError(f"{target} cannot be written ({error}): close its other users") from error
    _applied(sealed).touch()


def _replace_under_exclusive_lock(
    sealed: Sealed, real: sqlite3.Connection, staged: sqlite3.Connection, then: Callable[[], None]
) -> None:
    # In this locking mode a connection keeps the file's lock when its transaction ends, until it is closed.
    real.execute("PRAGMA locking_mode = EXCLUSIVE")
    real.execute("BEGIN EXCLUSIVE")
    real.execute("COMMIT")
    _check_base(sealed, real)
    then()
    staged.backup(real)


def _replace_under_write_lock(
    sealed: Sealed, real: sqlite3.Connection, staged: sqlite3.Connection, then: Callable[[], None]
) -> None:
    # With a write-ahead log no connection can have the file to itself while others merely have it open. But the first
    # step of a backup takes the write lock and the last one commits: what must happen in between goes there.
    with contextlib.closing(open_database(Path(sealed.target))) as witness:
        version = _data_version(witness)
        _check_base(sealed, witness)
        called = False

        def step(status: int, _remaining: int, _total: int) -> None:
            nonlocal called
            if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise EnvironmentConflictError(f"{sealed.target} stayed locked: close its writers and commit again")
            if not called:
                called = True
                if _data_version(witness) != version:
                    raise _conflict(sealed)
                then()

        pages = int(staged.execute("PRAGMA page_count").fetchone()[0])
        if pages < 2:  # a database without a table: its first step is its last
            then()
            called = True
        staged.backup(real, pages=max(1, min(_PAGES_A_STEP, pages - 1)), progress=step)


def _check_base(sealed: Sealed, real: sqlite3.Connection) -> None:
    if content_digest(real, Staging(Path(sealed.target)).path) != sealed.base:
        raise _conflict(sealed)


def _conflict(sealed: Sealed) -> EnvironmentFault:
    return EnvironmentConflictError(
        f"{sealed.target} changed since it was forked: nothing was committed; run again on the database as it is now"
    )


def _data_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def _applied(sealed: Sealed) -> Path:
    return Path(sealed.fork) / "applied"
