"""The requests, in PostgreSQL: what was asked, who works on it, what came of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, Literal, LiteralString, cast

from psycopg.errors import UniqueViolation
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool
from pydantic import TypeAdapter
from typing_extensions import TypedDict

State = Literal["running", "cancelling", "asking", "finished", "failed", "cancelled"]
_TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS service_requests (
        id TEXT PRIMARY KEY, thread TEXT NOT NULL, question TEXT NOT NULL, state TEXT NOT NULL, result JSONB,
        owner TEXT, attempts INTEGER NOT NULL DEFAULT 0, in_order INTEGER NOT NULL DEFAULT 0,
        seen_at TIMESTAMPTZ NOT NULL DEFAULT now(), created_at TIMESTAMPTZ NOT NULL DEFAULT now()
    )""",
    # LangGraph locks no threads: this does.
    """CREATE UNIQUE INDEX IF NOT EXISTS service_one_request_a_thread ON service_requests (thread)
       WHERE state IN ('running', 'cancelling', 'asking')""",
    "CREATE INDEX IF NOT EXISTS service_requests_running ON service_requests (seen_at) WHERE state = 'running'",
)
_JSON: Final[TypeAdapter[Any]] = TypeAdapter(Any)
_LEFT_ALONE: Final = "seen_at < now() - make_interval(secs => %(lease)s)"


class Request(TypedDict):
    """One request.

    Attributes:
        id: Whoever sends it again under this name gets what came of it, and nothing is done twice.
        thread: The conversation.
        question: What was asked.
        state: `asking` waits for a person; `cancelling`: the process that works on it has not heard of it yet.
        result: The answer and how it was selected, the questions, or the error; none while it is running.
        attempts: How often work on it began.
        in_order: How often it ended so that nothing is wrong: with a result, or left for another process.
    """

    id: str
    thread: str
    question: str
    state: State
    result: dict[str, Any] | None
    attempts: int
    in_order: int


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

    async def begin(self, id: str, thread: str, question: str) -> Request | None:
        """Enter a request as this process's; None where there is one of that name.

        Raises:
            ThreadBusyError: The conversation has another one.
        """
        entered = """INSERT INTO service_requests (id, thread, question, state, owner)
            VALUES (%(id)s, %(thread)s, %(question)s, 'running', %(owner)s)
            ON CONFLICT (id) DO NOTHING RETURNING *"""
        try:
            return next(iter(await self._rows(entered, id=id, thread=thread, question=question)), None)
        except UniqueViolation:
            if await self.find(id) is not None:  # sent twice at the same moment
                return None
            raise ThreadBusyError(thread) from None

    async def find(self, id: str) -> Request | None:
        """The request of that name."""
        return next(iter(await self._rows("SELECT * FROM service_requests WHERE id = %(id)s", id=id)), None)

    async def take(self, limit: int) -> list[Request]:
        """Take over requests that nobody works on any more: of a process that died, or was stopped."""
        taken = f"""UPDATE service_requests SET owner = %(owner)s, seen_at = now() WHERE id IN (
            SELECT id FROM service_requests WHERE state = 'running' AND {_LEFT_ALONE}
            ORDER BY created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED) RETURNING *"""
        ended = f"UPDATE service_requests SET state = 'cancelled' WHERE state = 'cancelling' AND {_LEFT_ALONE}"
        await self._rows(ended)
        return await self._rows(taken, limit=limit)

    async def answer(self, id: str, questions: list[Any]) -> Request | None:
        """Take a request that waits for a person; None where it does not, or asks something else (by now)."""
        taken = """UPDATE service_requests SET state = 'running', owner = %(owner)s, seen_at = now()
            WHERE id = %(id)s AND state = 'asking' AND result->'questions' = %(questions)s RETURNING *"""
        return next(iter(await self._rows(taken, id=id, questions=Jsonb(questions))), None)

    async def attempt(self, id: str) -> Request | None:
        """Work on a request begins; None where it is not this process's (any more), or was withdrawn."""
        begun = """UPDATE service_requests SET attempts = attempts + 1, seen_at = now()
            WHERE id = %(id)s AND owner = %(owner)s AND state = 'running' RETURNING *"""
        return next(iter(await self._rows(begun, id=id)), None)

    async def settle(self, id: str, state: State, result: dict[str, Any]) -> bool:
        """Record what came of a request; False where it was taken over or withdrawn."""
        settled = """UPDATE service_requests
            SET state = %(state)s, result = %(result)s, seen_at = now(), in_order = in_order + 1
            WHERE id = %(id)s AND owner = %(owner)s AND state = 'running' RETURNING id"""
        storable = Jsonb(without_nul(result), dumps=_dumps)
        return bool(await self._rows(settled, id=id, state=state, result=storable))

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

    async def keep(self, ids: Collection[str]) -> dict[str, State]:
        """Say that this process works on them; gives the states of those that are still its own."""
        kept = """UPDATE service_requests SET seen_at = now()
            WHERE id = ANY(%(ids)s) AND owner = %(owner)s AND state IN ('running', 'cancelling') RETURNING id, state"""
        return {row["id"]: row["state"] for row in await self._rows(kept, ids=list(ids))}

    async def release(self, begun: Mapping[str, bool]) -> None:
        """Leave requests to whoever looks next: by their ids, whether work on them had begun."""
        released = """UPDATE service_requests
            SET seen_at = 'epoch', in_order = in_order + (id = ANY(%(begun)s))::int
            WHERE id = ANY(%(ids)s) AND owner = %(owner)s AND state = 'running'"""
        await self._rows(released, ids=list(begun), begun=[id for id, had_begun in begun.items() if had_begun])

    async def tidy(self, unanswered_days: float, keep_days: float) -> None:
        """Give up requests that a person left unanswered for so long, and forget what ended so long ago."""
        given_up = """UPDATE service_requests SET state = 'failed', result = %(result)s, seen_at = now()
            WHERE state = 'asking' AND seen_at < now() - make_interval(secs => 86400 * %(days)s)"""
        unanswered = Jsonb({"error": f"nobody answered within {unanswered_days:g} days"})
        await self._rows(given_up, result=unanswered, days=unanswered_days)
        forgotten = """DELETE FROM service_requests WHERE state IN ('finished', 'failed', 'cancelled')
            AND seen_at < now() - make_interval(secs => 86400 * %(days)s)"""
        await self._rows(forgotten, days=keep_days)

    async def _rows(self, statement: LiteralString, **values: Any) -> list[Any]:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(statement, {"owner": self._owner, "lease": self._lease, **values})
            return await cursor.fetchall() if cursor.description else []


def without_nul(value: Any) -> Any:
    """A JSON value with what PostgreSQL cannot store replaced: NUL, and halves of characters."""
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    if isinstance(value, Mapping):
        mapping = cast("Mapping[Any, Any]", value)
        return {without_nul(key): without_nul(each) for key, each in mapping.items()}
    if isinstance(value, (list, tuple)):
        return [without_nul(each) for each in cast("list[Any]", value)]
    return value


def _dumps(value: Any) -> bytes:
    return _JSON.dump_json(value)  # numbers that JSON does not have become null
