"""Processes killed with SIGKILL wherever they happen to be, and processes that race for one call.

Stand-alone, with the figures: `PYTHONPATH=. python tests/ledger/test_killed.py [KILLS]`.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from entcent_agents.ledger import Answer, EffectRecord, InDoubt, State, perform, settle
from entcent_agents.ledger.decision import Change
from tests.forks import FORKS
from tests.ledger.children import CALLS_A_TURN, agent, call_at, race_call, racer
from tests.ledger.outside_world import World, child, open_ledger, world
from tests.ledger.postgres_server import postgres, why_none

KILLS = 200
RACES = 200
IN_TESTS = 100
"""Kills and races there: stand-alone there are more."""
SHORTEST_LIVES_SECONDS = 0.25


def kill_at_random(where: str, outside: World, kills: int, seed: int) -> Counter[str]:
    """Kill an agent `kills` times, resume it each time, and count what became of its calls."""
    dice = random.Random(seed)
    told, ended = FORKS.Value("i", 0, lock=False), Counter[str]()
    # The first process waits for modules to be loaded, and says nothing about the others.
    lives_up_to = max(SHORTEST_LIVES_SECONDS, 2 * min(turn_seconds(where, outside, told) for _ in range(3)))
    while ended["kills"] < kills:
        turn, process = told.value, child(agent, where, outside.address, told.value, sys.maxsize, told)
        time.sleep(dice.uniform(0.0, lives_up_to))
        process.kill()
        process.join()
        assert process.exitcode == -9, f"the agent ended by itself in turn {turn}"
        ended["kills"] += 1
    turns = told.value + 1
    last = child(agent, where, outside.address, told.value, turns, told)
    last.join(60)
    assert last.exitcode == 0
    return ended + asyncio.run(compared(where, outside, turns))


def turn_seconds(where: str, outside: World, told: Any) -> float:
    """How long a process takes here for a turn, from its start to its end."""
    begun = time.monotonic()
    process = child(agent, where, outside.address, told.value, told.value + 1, told)
    process.join(60)
    assert process.exitcode == 0
    return time.monotonic() - begun


async def compared(where: str, outside: World, turns: int) -> Counter[str]:
    """What the ledger says about each call, next to what happened."""
    happened = Counter(tuple(line.split()[:2]) for line in outside.effects)
    with_keys = Counter(tuple(line.split()) for line in outside.effects)
    assert len(happened) == len(with_keys)  # whatever was repeated was so with one key
    ledger, counted = open_ledger(where), Counter[str]()
    for turn in range(turns):
        for ordinal in range(CALLS_A_TURN):
            call, times = call_at(turn, ordinal), happened[str(turn), str(ordinal)]
            records: list[EffectRecord] = await ledger.transact(
                call.position, lambda records, now: Change(answer=list(records))
            )
            states = [record.state for record in records]
            counted["calls"] += 1
            if call.idempotent:
                assert states == [State.DONE]
                assert times >= 1
                counted["idempotent, repeated with their key"] += times > 1
            elif states == [State.DONE]:
                assert times == 1
                counted["once"] += 1
            else:
                assert states == [State.IN_DOUBT]
                assert times <= 1
                counted["in doubt, had happened" if times else "in doubt, had not happened"] += 1
    assert len(happened) == counted["calls"] - counted["in doubt, had not happened"]
    assert len(await ledger.unsettled()) == counted["in doubt, had happened"] + counted["in doubt, had not happened"]
    await ledger.aclose()
    return counted


def race(where: str, outside: World, races: int) -> Counter[str]:
    """Let two processes race for each of many calls, every second of them cleared by a person just before."""
    asyncio.run(_clear_some(where, races))
    start, outcomes = FORKS.Barrier(2), FORKS.Queue()
    for _ in range(2):
        child(racer, where, outside.address, races, start, outcomes)
    first, second = outcomes.get(timeout=90), outcomes.get(timeout=90)
    assert sorted(outside.effects, key=int) == [str(number) for number in range(races)]
    return Counter(" and ".join(sorted(pair)) for pair in zip(first, second, strict=True))


async def _clear_some(where: str, races: int) -> None:
    async def silent() -> None:
        raise TimeoutError

    ledger = open_ledger(where)
    for number in range(0, races, 2):
        outcome = await perform(ledger, race_call(number), silent)
        assert isinstance(outcome, InDoubt)
        answer = Answer(doubt_id=outcome.record.doubt_id, decision="run")
        assert await settle(ledger, race_call(number).position, answer)
    await ledger.aclose()


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "ledger.db") if request.param == "sqlite" else request.getfixturevalue("database")


@pytest.mark.timeout(600)
def test_every_effect_of_a_killed_agent_happened_once_or_is_in_doubt(where: str):
    with world(seconds=0.005) as outside:
        ended = kill_at_random(where, outside, IN_TESTS, seed=5)
    sys.stdout.write(f"{dict(ended)}\n")
    assert ended["once"] > IN_TESTS / 4  # else the kills came too early to show anything
    assert ended["in doubt, had happened"]
    assert ended["idempotent, repeated with their key"]


@pytest.mark.timeout(600)
def test_of_two_processes_that_race_for_a_call_one_makes_it(where: str):
    with world() as outside:
        came = race(where, outside, IN_TESTS)
    sys.stdout.write(f"{dict(came)}\n")
    assert sum(came.values()) == IN_TESTS
    assert set(came) <= {"Pending and made", "Done and made"}


if __name__ == "__main__":
    number = int(sys.argv[1]) if sys.argv[1:] else KILLS
    with ExitStack() as open_until_the_end:
        folder = open_until_the_end.enter_context(tempfile.TemporaryDirectory())
        places = {"SQLite": f"{folder}/ledger.db"}
        if reason := why_none():
            sys.stdout.write(f"PostgreSQL: {reason}\n")
        else:
            places["PostgreSQL"] = open_until_the_end.enter_context(postgres())
        for name, place in places.items():
            with world(seconds=0.005) as outside:
                begun = time.monotonic()
                figures = kill_at_random(place, outside, number, seed=11)
                sys.stdout.write(f"{name}: {dict(figures)} in {time.monotonic() - begun:.0f} s\n")
            with world() as outside:
                sys.stdout.write(f"{name}: races: {dict(race(place, outside, RACES))}\n")
