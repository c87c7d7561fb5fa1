"""Every ledger there is, under one name; the PostgreSQL server is started once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from entcent_agents.ledger import EffectLedger, MemoryLedger, PostgresLedger, SqliteLedger
from tests.ledger.postgres_server import postgres, why_none


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The connection string of a server that lives as long as the tests."""
    if reason := why_none():
        pytest.skip(reason)
    with postgres() as conninfo:
        yield conninfo


@pytest.fixture
def database(postgres_server: str) -> Iterator[str]:
    """A database of its own for one test."""
    import psycopg

    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS of_a_test WITH (FORCE)")
        connection.execute("CREATE DATABASE of_a_test")
        yield postgres_server.replace("dbname=postgres", "dbname=of_a_test")
        connection.execute("DROP DATABASE of_a_test WITH (FORCE)")


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EffectLedger]:
    """Each of the three ledgers, empty."""
    made: EffectLedger
    match request.param:
        case "memory":
            made = MemoryLedger()
        case "sqlite":
            made = SqliteLedger(tmp_path / "ledger.db")
        case _:
            made = PostgresLedger(request.getfixturevalue("database"))
    yield made
    await made.aclose()
