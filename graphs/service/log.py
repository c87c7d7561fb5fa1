"""The requests, in PostgreSQL: what was asked, who works on it, what came of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, Literal, LiteralString

from psycopg.errors import UniqueViolation
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool
from typing_extensions import TypedDict

State = Literal["running", "cancelling", "asking", "finished", "failed", "cancelled"]
_TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS service_requests (
        id TEXT PRIMARY KEY, thread TEXT NOT NULL, question TEXT NOT NULL, state TEXT NOT NULL, result JSONB,
        owner TEXT, attempts INTEGER NOT NULL DEFAULT 1,
        seen_at TIMESTAMPTZ NOT NULL DEFAULT now(), created_at TIMESTAMPTZ NOT NULL DEFAULT now()
    )""",
    # LangGraph locks no threads: this does.
    """CREATE UNIQUE INDEX IF NOT EXISTS service_one_request_a_thread ON service_requests (thread)
       WHERE state IN ('running', 'cancelling', 'asking')""",
    "CREATE INDEX IF NOT EXISTS service_requests_running ON service_requests (seen_at) WHERE state = 'running'",
)
_LEFT_ALONE: Final = "seen_at < now() - make_interval(secs => %(lease)s)"


class Request(TypedDict):
    """One request.

    Attributes:
        id: Whoever sends it again under this name gets what came of it, and nothing is done twice.
        thread: The conversation.
        question: What was asked.
        state: `asking` waits for a person; `cancelling`: the process that works on it has not heard of it yet.
        result: The answer and how it was selected, the questions, or the error; none while it is running.
        attempts: How many processes worked on it.
    """

    id: str
    thread: str
    question: str
    state: State
    result: dict[str, Any] | None
    attempts: int


class ThreadBusyError(Exception):
    """Another request of the conversation is under way, or waits for an answer."""


class RequestLog:
    """The table.

    Args:
        pool: Connections that commit by themselves, and give rows as dictionaries.
        owner: This process.
        lease_seconds: Whoever did not say for so long that it works on a request has lost it.
    """

    def __init__(self, pool: AsyncConnectionPool[Any], owner: str, lease_seconds: float) -> None:
        self._pool, self._owner, self._lease = pool, owner, lease_seconds

    async def setup(self) -> None:
        """Make the table where it is not there."""
        for statement in _TABLES:
            await self._rows(statement)

    async def begin(self, id: str, thread: str, question: str) -> bool:
        """Enter a request as this process's; False where there is one of that name.

        Raises:
            ThreadBusyError: The conversation has another one.
        """
        entered = """INSERT INTO service_requests (id, thread, question, state, owner)
            VALUES (%(id)s, %(thread)s, %(question)s, 'running', %(owner)s) ON CONFLICT (id) DO NOTHING RETURNING id"""
        try:
            return bool(await self._rows(entered, id=id, thread=thread, question=question))
        except UniqueViolation:
            raise ThreadBusyError(thread) from None

    async def find(self, id: str) -> Request | None:
        """The request of that name."""
        found = await self._rows("SELECT * FROM service_requests WHERE id = %(id)s", id=id)
        return found[0] if found else None

    async def take(self, limit: int) -> list[Request]:
        """Take over requests that nobody works on any more: of a process that died, or was stopped."""
        taken = f"""UPDATE service_requests SET owner = %(owner)s, seen_at = now(), attempts = attempts + 1
            WHERE id IN (
            SELECT id FROM service_requests WHERE state = 'running' AND {_LEFT_ALONE}
            ORDER BY created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED) RETURNING *"""
        ended = f"UPDATE service_requests SET state = 'cancelled' WHERE state = 'cancelling' AND {_LEFT_ALONE}"
        await self._rows(ended)
        return await self._rows(taken, limit=limit)

    async def answer(self, id: str) -> Request | None:
        """Take a request that waits for a person; None where it does not (any more)."""
        taken = """UPDATE service_requests SET state = 'running', owner = %(owner)s, seen_at = now()
            WHERE id = %(id)s AND state = 'asking' RETURNING *"""
        found = await self._rows(taken, id=id)
        return found[0] if found else None

    async def settle(self, id: str, state: State, result: dict[str, Any]) -> None:
        """Record what came of a request, unless it was taken over or withdrawn."""
        settled = """UPDATE service_requests SET state = %(state)s, result = %(result)s, seen_at = now()
            WHERE id = %(id)s AND owner = %(owner)s AND state = 'running'"""
        await self._rows(settled, id=id, state=state, result=Jsonb(result))

    async def withdraw(self, id: str) -> None:
        """Record that a request is not to be worked on any more; its thread is free once nobody does."""
        withdrawn = """UPDATE service_requests SET result = NULL, seen_at = now(),
                state = CASE WHEN state <> 'asking' AND owner <> %(owner)s THEN 'cancelling' ELSE 'cancelled' END
            WHERE id = %(id)s AND state IN ('running', 'cancelling', 'asking')"""
        await self._rows(withdrawn, id=id)

    async def end(self, id: str) -> None:
        """Record that this process has ended work on a request that was withdrawn elsewhere."""
        ended = """UPDATE service_requests SET state = 'cancelled'
            WHERE id = %(id)s AND owner = %(owner)s AND state = 'cancelling'"""
        await self._rows(ended, id=id)

    async def keep(self, ids: Collection[str]) -> set[str]:
        """Say that this process works on them; gives those that are still its own, and not withdrawn."""
        kept = """UPDATE service_requests SET seen_at = now()
            WHERE id = ANY(%(ids)s) AND owner = %(owner)s AND state = 'running' RETURNING id"""
        return {row["id"] for row in await self._rows(kept, ids=list(ids))}

    async def release(self, ids: Collection[str]) -> None:
        """Let others take them over at once."""
        released = "UPDATE service_requests SET seen_at = 'epoch' WHERE id = ANY(%(ids)s) AND owner = %(owner)s"
        await self._rows(released, ids=list(ids))

    async def _rows(self, statement: LiteralString, **values: Any) -> list[Any]:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(statement, {"owner": self._owner, "lease": self._lease, **values})
            return await cursor.fetchall() if cursor.description else []
