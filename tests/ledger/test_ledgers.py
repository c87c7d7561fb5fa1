"""What every ledger must do; then what is particular to SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from entcent_agents.errors import ConfigurationError, LedgerError, LedgerVersionError
from entcent_agents.ledger import (
    EffectLedger,
    ExternalCall,
    MemoryLedger,
    PostgresLedger,
    SqliteLedger,
    State,
    perform,
)
from entcent_agents.ledger.decision import Change, Claim
from entcent_agents.ledger.record import EffectRecord
from tests.ledger.samples import a_call, claiming


async def paid() -> str:
    return "paid"


async def records_of(ledger: EffectLedger, call: ExternalCall) -> list[EffectRecord]:
    return await ledger.transact(call.position, lambda records, now: Change(answer=list(records)))


async def test_a_step_sees_what_earlier_steps_put_at_its_position_in_the_order_of_digests(ledger: EffectLedger):
    calls = [a_call(arguments={"amount": amount}) for amount in range(5)]
    for call in calls:
        await ledger.transact(call.position, claiming(call))
    await ledger.transact(a_call(ordinal=1).position, claiming(a_call(ordinal=1)))
    found = [record.digest for record in await records_of(ledger, calls[0])]
    assert found == sorted(call.digest for call in calls)


async def test_a_record_comes_back_as_it_was_put(ledger: EffectLedger):
    record = replace(
        (await ledger.transact(a_call().position, claiming(a_call()))).record,
        tool='p"ay\n\0\ud83d 😀',
        arguments="\0",
        reason="\ud800",
        error="x" * 100_000,
        changed_at=0.1 + 0.2,
    )
    await ledger.transact(record.position, lambda records, now: Change(answer=None, put=record))
    assert await records_of(ledger, a_call()) == [record]


async def test_a_record_is_removed_alone(ledger: EffectLedger):
    first, second = a_call(), a_call(arguments={"amount": 6})
    for call in (first, second):
        await ledger.transact(call.position, claiming(call))
    before = await records_of(ledger, first)
    await ledger.transact(first.position, lambda records, now: Change(answer=None, remove=before[0]))
    assert await records_of(ledger, first) == before[1:]


async def test_a_step_that_raises_changes_nothing(ledger: EffectLedger):
    await ledger.transact(a_call().position, claiming(a_call()))
    before = await records_of(ledger, a_call())

    def fail(records: Any, now: float) -> Change[None]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await ledger.transact(a_call().position, fail)
    assert await records_of(ledger, a_call()) == before


async def test_the_time_of_a_ledger_is_that_of_the_world(ledger: EffectLedger):
    before = time.time()
    seen = await ledger.transact(a_call().position, lambda records, now: Change(answer=now))
    assert before - 1 <= seen <= time.time() + 1


async def test_of_many_claims_at_once_one_is_given(ledger: EffectLedger):
    claims = await asyncio.gather(*(ledger.transact(a_call().position, claiming(a_call())) for _ in range(40)))
    assert sum(isinstance(each, Claim) for each in claims) == 1


async def test_what_is_unsettled_is_listed_oldest_first(ledger: EffectLedger):
    for ordinal in (2, 0, 1):
        call = a_call(ordinal=ordinal, request="b" if ordinal else "a")
        await ledger.transact(call.position, claiming(call))
    await perform(ledger, a_call(ordinal=5), paid)
    assert [record.position.ordinal for record in await ledger.unsettled()] == [2, 0, 1]
    assert [record.position.ordinal for record in await ledger.unsettled("b")] == [2, 1]
    assert await ledger.unsettled("c") == []


async def test_a_request_is_forgotten_but_for_what_is_unsettled(ledger: EffectLedger):
    for call in (a_call(ordinal=0), a_call(ordinal=1), a_call(request="other")):
        await perform(ledger, call, paid)
    await ledger.transact(a_call(ordinal=2).position, claiming(a_call(ordinal=2)))
    assert await ledger.forget("request") == 1
    assert await records_of(ledger, a_call(ordinal=0)) == []
    assert [record.state for record in await records_of(ledger, a_call(ordinal=2))] == [State.INTENT]
    assert len(await records_of(ledger, a_call(request="other"))) == 1


async def test_a_sweep_takes_what_is_old_and_settled(ledger: EffectLedger):
    def age(records: Any, now: float) -> Change[None]:
        return Change(answer=None, put=replace(records[0], changed_at=now - 1000))

    for ordinal in range(3):
        await perform(ledger, a_call(ordinal=ordinal), paid)
    await ledger.transact(a_call(ordinal=3).position, claiming(a_call(ordinal=3)))
    for ordinal in (1, 3):
        await ledger.transact(a_call(ordinal=ordinal).position, age)
    assert await ledger.sweep(500) == 1
    assert [len(await records_of(ledger, a_call(ordinal=ordinal))) for ordinal in range(4)] == [1, 0, 1, 1]


async def test_a_closed_ledger_may_be_used_again(ledger: EffectLedger):
    await perform(ledger, a_call(), paid)
    await ledger.aclose()
    assert len(await records_of(ledger, a_call())) == 1


async def test_a_ledger_may_be_shared_by_event_loops(ledger: EffectLedger):
    def elsewhere() -> str:
        return type(asyncio.run(perform(ledger, a_call(), paid))).__name__

    outcomes = await asyncio.gather(*(asyncio.to_thread(elsewhere) for _ in range(4)), perform(ledger, a_call(), paid))
    assert len(outcomes) == 5
    assert len(await records_of(ledger, a_call())) == 1


async def test_a_record_of_another_version_is_refused_by_name_and_nothing_is_run(
    ledger: EffectLedger, monkeypatch: pytest.MonkeyPatch
):
    if isinstance(ledger, MemoryLedger):
        pytest.skip("holds no serialised records")
    made: list[str] = []

    async def run() -> None:
        made.append("called")

    with monkeypatch.context() as later:
        later.setattr("entcent_agents.ledger.record.RECORD_VERSION", 2)
        await ledger.transact(a_call().position, claiming(a_call()))
    with pytest.raises(LedgerVersionError, match="an effect record of version 2; this release reads 1"):
        await perform(ledger, a_call(), run)
    with pytest.raises(LedgerVersionError, match="version 2"):
        await ledger.unsettled()
    assert made == []


@pytest.mark.parametrize("text", ["{}", "[]", "nonsense", '{"version": "1"}', '{"version": null}'])
def test_what_is_no_record_is_refused(text: str):
    with pytest.raises(LedgerVersionError, match="this release reads 1"):
        EffectRecord.from_json(text)


def test_a_record_of_version_1_is_read_for_good():
    text = (
        '{"version": 1, "rollout": "r", "turn": 3, "ordinal": 1, "digest": "d", "request": "q", "tool": "pay", '
        '"idempotent": true, "idempotency_key": "k", "state": "done", "attempt": 2, "lease_until": 0.0, '
        '"result": {"text": "[1]", "form": "json"}, "error": null, "reason": null, "answered_by": null, '
        '"arguments": null, "created_at": 1.5, "changed_at": 2.5}'
    )
    record = EffectRecord.from_json(text)
    assert record.result is not None
    assert (record.position.turn, record.state, record.result.value) == (3, State.DONE, [1])
    assert record.to_json() == text


# SQLite


async def test_what_sqlite_answered_is_in_the_file(tmp_path: Path):
    ledger = SqliteLedger(tmp_path / "ledger.db")
    await perform(ledger, a_call(), paid)
    other = SqliteLedger(tmp_path / "ledger.db")  # the first one is still open
    assert [record.state for record in await records_of(other, a_call())] == [State.DONE]
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    await ledger.aclose()
    await other.aclose()


async def test_sqlite_writes_through_to_the_disk(tmp_path: Path):
    ledger = SqliteLedger(tmp_path / "ledger.db")
    await ledger.unsettled()
    assert ledger._open is not None  # pyright: ignore[reportPrivateUsage]
    assert ledger._open.execute("PRAGMA synchronous").fetchone() == (3,)  # pyright: ignore[reportPrivateUsage]
    await ledger.aclose()


async def test_a_sqlite_ledger_shares_a_database_with_others(tmp_path: Path):
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.execute("CREATE TABLE things (name TEXT)")
        connection.execute("PRAGMA user_version = 7")
    ledger = SqliteLedger(tmp_path / "shop.db")
    await perform(ledger, a_call(), paid)
    await ledger.aclose()
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (7,)
        assert connection.execute("SELECT count(*) FROM things").fetchone() == (0,)


async def test_sqlite_tables_of_another_version_are_refused_by_name(tmp_path: Path):
    ledger = SqliteLedger(tmp_path / "ledger.db")
    await ledger.unsettled()
    await ledger.aclose()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection, connection:
        connection.execute("UPDATE entcent_ledger_layout SET version = 2")
    with pytest.raises(LedgerVersionError, match=r"ledger\.db has tables of version 2; this release reads 1"):
        await ledger.unsettled()


async def test_the_event_loop_goes_on_while_sqlite_waits_for_a_lock(tmp_path: Path):
    ledger = SqliteLedger(tmp_path / "ledger.db")
    await ledger.unsettled()
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(perform(ledger, a_call(), paid))
        for _ in range(50):
            await asyncio.sleep(0.01)
        assert not waiting.done()
        other.execute("ROLLBACK")  # a loop that waited for the lock would never come to this
    assert await waiting
    await ledger.aclose()


async def test_a_sqlite_ledger_that_stays_locked_or_cannot_be_made_is_one_clear_error(tmp_path: Path):
    ledger = SqliteLedger(tmp_path / "ledger.db", busy_seconds=0.05)
    await ledger.unsettled()
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match=r"ledger\.db failed: database is locked"):
            await perform(ledger, a_call(), paid)
        other.execute("ROLLBACK")
    assert await perform(ledger, a_call(), paid)
    await ledger.aclose()
    with pytest.raises(LedgerError, match="unable to open"):
        await SqliteLedger(tmp_path / "nowhere" / "ledger.db").unsettled()
    (tmp_path / "text.db").write_text("no database" * 100)
    with pytest.raises(LedgerError, match="not a database"):
        await SqliteLedger(tmp_path / "text.db").unsettled()


def test_a_sqlite_ledger_in_memory_is_refused():
    with pytest.raises(ConfigurationError, match="give it a file"):
        SqliteLedger(":memory:")


# PostgreSQL


async def test_postgres_tables_of_another_version_are_refused_by_name(database: str):
    import psycopg

    await PostgresLedger(database).unsettled()
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE entcent_ledger_layout SET version = 2")
    with pytest.raises(LedgerVersionError, match="in PostgreSQL has tables of version 2; this release reads 1"):
        await PostgresLedger(database).unsettled()


async def test_many_processes_may_lay_out_the_postgres_tables_at_once(database: str):
    await asyncio.gather(*(PostgresLedger(database).unsettled() for _ in range(12)))


async def test_an_account_that_may_make_no_tables_uses_those_that_are_there(database: str):
    import psycopg

    await PostgresLedger(database).unsettled()
    with psycopg.connect(database) as connection:
        connection.execute("DROP ROLE IF EXISTS small")
        connection.execute("CREATE ROLE small LOGIN")
        connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON entcent_effects TO small")
        connection.execute("GRANT SELECT ON entcent_ledger_layout TO small")
        connection.execute("REVOKE CREATE ON SCHEMA public FROM public")
    ledger = PostgresLedger(database.replace("user=postgres", "user=small"))
    assert await perform(ledger, a_call(), paid)
    assert await ledger.forget("request") == 0


async def test_connections_of_others_are_used_whatever_they_are_set_to_and_never_closed(database: str):
    import psycopg
    from psycopg.rows import dict_row

    options = "-c synchronous_commit=off -c default_transaction_isolation=serializable"
    seen: list[tuple[str, str]] = []
    async with await psycopg.AsyncConnection.connect(database, row_factory=dict_row, options=options) as connection:
        turn = asyncio.Lock()

        @asynccontextmanager
        async def borrow() -> AsyncIterator[psycopg.AsyncConnection[Any]]:
            async with turn:
                yield connection

        class Watching(PostgresLedger):
            @asynccontextmanager
            async def _transaction(self) -> AsyncIterator[Any]:
                async with super()._transaction() as cursor:
                    yield cursor
                    await cursor.execute(
                        "SELECT current_setting('synchronous_commit'), current_setting('transaction_isolation')"
                    )
                    seen.append(await cursor.fetchone())

        ledger = Watching(borrow)
        claims = await asyncio.gather(*(ledger.transact(a_call().position, claiming(a_call())) for _ in range(10)))
        assert sum(isinstance(each, Claim) for each in claims) == 1
        assert not connection.closed
        assert set(seen) == {("on", "read committed")}
        row = await (await connection.execute("SHOW synchronous_commit")).fetchone()
        assert row == {"synchronous_commit": "off"}


async def test_a_postgres_that_cannot_be_reached_is_one_clear_error(tmp_path: Path):
    pytest.importorskip("psycopg")
    with pytest.raises(
        LedgerError, match=r"PostgreSQL failed: OperationalError: .*No such file or directory"
    ) as caught:
        await PostgresLedger(f"host={tmp_path} user=postgres password=secret").unsettled()
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_connection_cut_by_the_server_is_an_error_and_the_next_one_works(database: str):
    import psycopg

    ledger = PostgresLedger(database)
    await ledger.unsettled()

    def cut(records: Any, now: float) -> Change[None]:
        with psycopg.connect(database, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = 'of_a_test' AND pid <> pg_backend_pid()"
            )
        return Change(answer=None)

    with pytest.raises(LedgerError, match="PostgreSQL failed: AdminShutdown"):
        await ledger.transact(a_call().position, cut)
    assert await perform(ledger, a_call(), paid)


def test_the_ledger_loads_no_driver_and_names_the_extra_where_there_is_none():
    code = (
        "import sys\n"
        "sys.modules['psycopg'] = None\n"
        "from entcent_agents.ledger import PostgresLedger\n"
        "assert not {'langchain_core', 'langgraph', 'pydantic'} & sys.modules.keys()\n"
        "PostgresLedger('')\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError: psycopg is not installed: run  pip install 'entcent-agents[postgres]'" in ran.stderr
