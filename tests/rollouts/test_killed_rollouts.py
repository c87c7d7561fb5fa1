"""A process killed with SIGKILL at random moments, and resumed by another (benchmarks/kills.py: more)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.ledger.postgres_server import postgres, why_none
from tests.rollouts.killing import kill_at_random, killing

KILLS = 10


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """The connection string of a server of its own, or None for files."""
    if request.param == "sqlite":
        yield None
        return
    if reason := why_none():
        pytest.skip(reason)
    if not find_spec("langgraph.checkpoint.postgres"):
        pytest.skip("langgraph-checkpoint-postgres is not installed")
    with postgres() as conninfo:
        yield conninfo


@pytest.mark.timeout(300)
@pytest.mark.xfail(reason="a rollout that was killed starts again from nothing", strict=True)
def test_a_request_that_is_killed_and_resumed_samples_no_turn_again_and_repeats_no_effect(database: str | None):
    with killing(seed=5, database=database, external=False) as run:
        account = kill_at_random(run, KILLS, seed=5)
    sys.stdout.write(f"{dict(account.counts)}\n")
    assert account.violations == []
    assert account.counts["note: rows"]
