"""Every ledger there is, under one name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from entcent_agents.ledger import EffectLedger, MemoryLedger, PostgresLedger, SqliteLedger


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
