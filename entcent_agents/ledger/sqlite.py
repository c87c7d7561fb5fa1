"""A ledger in a SQLite file, for all processes of one machine."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from entcent_agents.errors import ConfigurationError, LedgerError
from entcent_agents.ledger.calls import Position
from entcent_agents.ledger.decision import Step
from entcent_agents.ledger.layout import LAYOUT_VERSION, check_layout
from entcent_agents.ledger.record import EffectRecord

T = TypeVar("T")

_LAYOUT: Final = (
    "CREATE TABLE IF NOT EXISTS entcent_ledger_layout (version INTEGER NOT NULL)",
    """CREATE TABLE IF NOT EXISTS entcent_effects (
        rollout TEXT NOT NULL, turn INTEGER NOT NULL, ordinal INTEGER NOT NULL, digest TEXT NOT NULL,
        request TEXT NOT NULL, settled INTEGER NOT NULL, created_at REAL NOT NULL, changed_at REAL NOT NULL,
        record TEXT NOT NULL,
        PRIMARY KEY (rollout, turn, ordinal, digest)
    )""",
    "CREATE INDEX IF NOT EXISTS entcent_effects_of_request ON entcent_effects (request, settled)",
    "CREATE INDEX IF NOT EXISTS entcent_effects_by_age ON entcent_effects (settled, changed_at)",
)
_PUT: Final = "INSERT OR REPLACE INTO entcent_effects VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_AT_POSITION: Final = "FROM entcent_effects WHERE rollout = ? AND turn = ? AND ordinal = ?"


class SqliteLedger:
    """Durable on one machine: what was answered survives a killed process and a power cut.

    Every change is one transaction, written through to the disk before it is answered (write-ahead log where the file
    system has it, `synchronous=EXTRA`). The file must lie on a local disk: SQLite's locks do not hold over networks.
    It may share a database with others; its tables are `entcent_effects` and `entcent_ledger_layout`.

    Args:
        path: The database file; made on first use, in a directory that exists.
        busy_seconds: How long to wait for other processes that write to the database.

    Raises:
        ConfigurationError: On a database in memory.

    Example:
        >>> import asyncio
        >>> from entcent_agents import SqliteLedger
        >>> async def open_calls() -> int:
        ...     ledger = SqliteLedger("effects.db")
        ...     found = await ledger.unsettled()  # calls of which nobody knows yet whether they happened
        ...     await ledger.aclose()
        ...     return len(found)
        >>> asyncio.run(open_calls())
        0
    """

    def __init__(self, path: Path | str, *, busy_seconds: float = 30.0) -> None:
        if str(path) in {"", ":memory:"}:
            raise ConfigurationError("a SQLite ledger in memory would not outlive a crash: give it a file")
        self._path = Path(path).absolute()
        self._busy_seconds = busy_seconds
        # A thread of its own: blocking tools fill the loop's default threads, and leases must be renewed all the same.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="entcent-ledger")
        self._open: sqlite3.Connection | None = None

    async def transact(self, position: Position, step: Step[T]) -> T:
        """Run one step on the records of a position."""
        return await self._run(lambda connection: _transact(connection, position, step))

    async def unsettled(self, request: str | None = None) -> list[EffectRecord]:
        """Records that somebody works on, or has to decide about, oldest first."""

        def read(connection: sqlite3.Connection) -> list[EffectRecord]:
            rows = connection.execute(
                "SELECT record FROM entcent_effects WHERE NOT settled AND (?1 IS NULL OR request = ?1) "
                "ORDER BY created_at, rollout, turn, ordinal, digest",
                (request,),
            )
            return [EffectRecord.from_json(text) for (text,) in rows]

        return await self._run(read)

    async def forget(self, request: str) -> int:
        """Remove what is settled of a request, and count what stays."""

        def remove(connection: sqlite3.Connection) -> int:
            connection.execute("DELETE FROM entcent_effects WHERE request = ? AND settled", (request,))
            left = connection.execute("SELECT count(*) FROM entcent_effects WHERE request = ?", (request,))
            return int(left.fetchone()[0])

        return await self._run(remove)

    async def sweep(self, older_than_seconds: float) -> int:
        """Remove what is settled and has not changed for so long, and count it."""

        def remove(connection: sqlite3.Connection) -> int:
            limit = time.time() - older_than_seconds
            return connection.execute("DELETE FROM entcent_effects WHERE settled AND changed_at < ?", (limit,)).rowcount

        return await self._run(remove)

    async def aclose(self) -> None:
        """Close the connection; the next use opens another."""
        await asyncio.wrap_future(self._thread.submit(self._close))

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.wrap_future(self._thread.submit(self._in_transaction, work))

    def _in_transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            self._open = self._open or self._connect()
            with _transaction(self._open):
                return work(self._open)
        except sqlite3.Error as error:
            self._close()
            raise LedgerError(f"the effect ledger {self._path} failed: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = EXTRA")  # FULL, and the directory too where there is no log
            connection.execute("PRAGMA fullfsync = ON")  # on macOS a plain flush stops at the drive's cache
            with _transaction(connection):
                for statement in _LAYOUT:
                    connection.execute(statement)
                found = connection.execute("SELECT version FROM entcent_ledger_layout").fetchall()
                if not found:
                    connection.execute("INSERT INTO entcent_ledger_layout VALUES (?)", (LAYOUT_VERSION,))
                check_layout(str(self._path), [version for (version,) in found])
        except BaseException:
            connection.close()
            raise
        return connection

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def _transact(connection: sqlite3.Connection, position: Position, step: Step[T]) -> T:
    where = (position.rollout, position.turn, position.ordinal)
    rows = connection.execute(f"SELECT record {_AT_POSITION} ORDER BY digest", where)
    change = step([EffectRecord.from_json(text) for (text,) in rows], time.time())
    if change.put:
        connection.execute(
            "INSERT OR REPLACE INTO entcent_effects VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", _row(change.put)
        )
    if change.remove:
        connection.execute(f"DELETE {_AT_POSITION} AND digest = ?", (*where, change.remove.digest))
    return change.answer


def _row(record: EffectRecord) -> tuple[Any, ...]:
    where = record.position
    times = (record.created_at, record.changed_at)
    key = (where.rollout, where.turn, where.ordinal, record.digest)
    return (*key, record.request, record.settled, *times, record.to_json())


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Generator[None]:
    """Alone among the writers from its first read on."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.execute("COMMIT")
