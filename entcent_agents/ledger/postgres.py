"""A ledger in PostgreSQL, for processes on any number of machines."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from entcent_agents.errors import LedgerError, MissingExtraError
from entcent_agents.ledger.calls import Position
from entcent_agents.ledger.decision import Step
from entcent_agents.ledger.layout import LAYOUT_VERSION, check_layout
from entcent_agents.ledger.record import EffectRecord

if TYPE_CHECKING:
    from psycopg import AsyncConnection, AsyncCursor

    Connect: TypeAlias = Callable[[], AbstractAsyncContextManager[AsyncConnection[Any]]]
    Cursor: TypeAlias = AsyncCursor[tuple[Any, ...]]

T = TypeVar("T")

_SETUP_LOCK: Final = 0x656E_7463_656E_7401  # any number that other applications are unlikely to lock
_LAYOUT: Final = (
    "CREATE TABLE IF NOT EXISTS entcent_ledger_layout (version INTEGER NOT NULL)",
    """CREATE TABLE IF NOT EXISTS entcent_effects (
        rollout TEXT NOT NULL, turn INTEGER NOT NULL, ordinal INTEGER NOT NULL, digest TEXT NOT NULL,
        request TEXT NOT NULL, settled BOOLEAN NOT NULL,
        created_at DOUBLE PRECISION NOT NULL, changed_at DOUBLE PRECISION NOT NULL,
        record TEXT NOT NULL,
        PRIMARY KEY (rollout, turn, ordinal, digest)
    )""",
    "CREATE INDEX IF NOT EXISTS entcent_effects_of_request ON entcent_effects (request, settled)",
    "CREATE INDEX IF NOT EXISTS entcent_effects_by_age ON entcent_effects (settled, changed_at)",
)
_NOW: Final = "extract(epoch FROM clock_timestamp())::float8"


class PostgresLedger:
    """Durable where the server is, and shared by all that reach it.

    Every change is one transaction that the server has flushed to its disk before it answers, whatever
    `synchronous_commit` the database prefers. Steps on one position take turns by an advisory lock of the transaction,
    so that poolers in transaction mode are fine. Times are the server's. The tables, `entcent_effects` and
    `entcent_ledger_layout`, are made on first use in the first schema of the search path, if they are not there.

    Args:
        database: A connection string, from which each operation opens a connection of its own; or what gives
            connections, such as the method `connection` of a `psycopg_pool.AsyncConnectionPool`. The ledger never
            closes what was given to it.

    Raises:
        MissingExtraError: Without psycopg 3.
    """

    def __init__(self, database: str | Connect) -> None:
        try:
            import psycopg
        except ImportError:
            raise MissingExtraError("psycopg", "postgres") from None
        self._connect: Connect = _opening(database) if isinstance(database, str) else database
        self._error = psycopg.Error
        self._laid_out = False

    async def transact(self, position: Position, step: Step[T]) -> T:
        """Run one step on the records of a position."""
        where = (position.rollout, position.turn, position.ordinal)
        async with self._transaction() as cursor:
            await cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_lock_of(position),))
            # A statement of its own: what the holder of the lock wrote is seen by statements that begin after it.
            await cursor.execute(
                "SELECT record FROM entcent_effects WHERE rollout = %s AND turn = %s AND ordinal = %s ORDER BY digest",
                where,
            )
            records = [EffectRecord.from_json(text) for (text,) in await cursor.fetchall()]
            change = step(records, await _first(cursor, f"SELECT {_NOW}"))
            if change.put:
                await _put(cursor, change.put)
            if change.remove:
                await cursor.execute(
                    "DELETE FROM entcent_effects WHERE rollout = %s AND turn = %s AND ordinal = %s AND digest = %s",
                    (*where, change.remove.digest),
                )
        return change.answer

    async def unsettled(self, request: str | None = None) -> list[EffectRecord]:
        """Records that somebody works on, or has to decide about, oldest first."""
        async with self._transaction() as cursor:
            await cursor.execute(
                "SELECT record FROM entcent_effects WHERE NOT settled AND (%(request)s::text IS NULL "
                "OR request = %(request)s) ORDER BY created_at, rollout, turn, ordinal, digest",
                {"request": request},
            )
            return [EffectRecord.from_json(text) for (text,) in await cursor.fetchall()]

    async def forget(self, request: str) -> int:
        """Remove what is settled of a request, and count what stays."""
        async with self._transaction() as cursor:
            await cursor.execute("DELETE FROM entcent_effects WHERE request = %s AND settled", (request,))
            return await _first(cursor, "SELECT count(*) FROM entcent_effects WHERE request = %s", request)

    async def sweep(self, older_than_seconds: float) -> int:
        """Remove what is settled and has not changed for so long, and count it."""
        async with self._transaction() as cursor:
            await cursor.execute(
                f"DELETE FROM entcent_effects WHERE settled AND changed_at < {_NOW} - %s", (older_than_seconds,)
            )
            return cursor.rowcount

    async def aclose(self) -> None:
        """Nothing is held open between operations."""

    @asynccontextmanager
    async def _transaction(self) -> AsyncGenerator[Cursor]:
        from psycopg.rows import tuple_row

        try:
            async with self._connect() as connection:
                if not self._laid_out:
                    async with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
                        await _lay_out(cursor)
                    self._laid_out = True
                async with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
                    # A stricter level would read from before the lock was granted.
                    await cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
                    await cursor.execute(
                        "SELECT set_config('synchronous_commit', 'on', true) "
                        "WHERE current_setting('synchronous_commit') IN ('off', 'local')"
                    )
                    yield cursor
        except self._error as error:
            said = " ".join(str(error).split())
            raise LedgerError(f"the effect ledger in PostgreSQL failed: {type(error).__name__}: {said}") from error


def _opening(conninfo: str) -> Connect:
    @asynccontextmanager
    async def connection() -> AsyncGenerator[AsyncConnection[Any]]:
        from psycopg import AsyncConnection

        # Not prepared: behind a pooler the next transaction may meet another server process.
        opened = await AsyncConnection.connect(conninfo, autocommit=True, prepare_threshold=None)
        async with opened:
            yield opened

    return connection


async def _lay_out(cursor: Cursor) -> None:
    """Make the tables where they are missing: an account that may not make any can use those that are there."""
    if await _first(cursor, "SELECT to_regclass('entcent_effects') IS NULL"):
        await cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_SETUP_LOCK,))
        for statement in _LAYOUT:
            await cursor.execute(statement)
        if await _first(cursor, "SELECT count(*) = 0 FROM entcent_ledger_layout"):
            await cursor.execute("INSERT INTO entcent_ledger_layout VALUES (%s)", (LAYOUT_VERSION,))
    await cursor.execute("SELECT version FROM entcent_ledger_layout")
    check_layout("in PostgreSQL", [version for (version,) in await cursor.fetchall()])


async def _put(cursor: Cursor, record: EffectRecord) -> None:
    where = record.position
    key = (where.rollout, where.turn, where.ordinal, record.digest)
    times = (record.created_at, record.changed_at)
    await cursor.execute(
        "INSERT INTO entcent_effects "
        "(rollout, turn, ordinal, digest, request, settled, created_at, changed_at, record) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (rollout, turn, ordinal, digest) DO UPDATE SET "
        "settled = excluded.settled, changed_at = excluded.changed_at, record = excluded.record",
        (*key, record.request, record.settled, *times, record.to_json()),
    )


async def _first(cursor: Cursor, query: Any, *parameters: Any) -> Any:
    await cursor.execute(query, parameters or None)
    row = await cursor.fetchone()
    return row[0] if row else None


def _lock_of(position: Position) -> int:
    """A number of 64 bits, signed; a chance collision makes two positions wait for each other, no more."""
    text = f"entcent effects\0{position.rollout}\0{position.turn}\0{position.ordinal}"
    return int.from_bytes(sha256(text.encode()).digest()[:8], signed=True)
