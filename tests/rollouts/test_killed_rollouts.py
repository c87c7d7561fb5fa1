"""A process killed with SIGKILL at random moments, and resumed by another (benchmarks/kills.py: more)."""

from __future__ import annotations

import sys

import pytest

from tests.rollouts.killing import kill_at_random, killing

KILLS = 3


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest) -> str | None:
    """The connection string of a database, or None for files."""
    if request.param == "sqlite":
        return None
    pytest.importorskip("langgraph.checkpoint.postgres", reason="pip install langgraph-checkpoint-postgres")
    return request.getfixturevalue("database")


@pytest.mark.timeout(300)
def test_a_request_that_is_killed_and_resumed_samples_no_turn_again_and_repeats_no_effect(where: str | None):
    with killing(seed=5, database=where, lag_seconds=0.1) as run:
        account = kill_at_random(run, KILLS, seed=5, at_steps=KILLS)
    sys.stdout.write(f"{dict(account.counts)}\n")
    assert account.violations == []
    assert account.counts["pay: calls"]
    assert account.counts["note: written"]
