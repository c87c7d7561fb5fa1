"""What runs in the processes that are killed, or race each other."""

from __future__ import annotations

import asyncio
from typing import Any

from entcent_agents.ledger import (
    Done,
    ExternalCall,
    InDoubt,
    LedgerSettings,
    Pending,
    Position,
    current_idempotency_key,
    perform,
)
from tests.ledger.outside_world import open_ledger, touch

CALLS_A_TURN = 3
SETTINGS = LedgerSettings(lease_seconds=0.3, max_attempts=1000)


def call_at(turn: int, ordinal: int) -> ExternalCall:
    """The last call of each turn is idempotent, the others are not."""
    return ExternalCall(
        position=Position(rollout="killed", turn=turn, ordinal=ordinal),
        request="request",
        tool="append",
        arguments={"turn": turn, "ordinal": ordinal},
        idempotent=ordinal == CALLS_A_TURN - 1,
    )


def agent(where: str, address: str, first_turn: int, last_turn: int, told: Any) -> None:
    """Go from turn to turn, as an agent that is resumed from its last checkpoint does."""
    asyncio.run(_go_on(where, address, first_turn, last_turn, told))


async def _go_on(where: str, address: str, first_turn: int, last_turn: int, told: Any) -> None:
    ledger = open_ledger(where)
    for turn in range(first_turn, last_turn):
        await asyncio.gather(*(_settled(ledger, address, call_at(turn, each)) for each in range(CALLS_A_TURN)))
        told.value = turn + 1
    await ledger.aclose()


async def _settled(ledger: Any, address: str, call: ExternalCall) -> None:
    async def run() -> str:
        return await touch(address, f"{call.position.turn} {call.position.ordinal} {current_idempotency_key()}")

    outcome = await perform(ledger, call, run, settings=SETTINGS)
    while isinstance(outcome, Pending):
        await asyncio.sleep(outcome.retry_after_seconds)
        outcome = await perform(ledger, call, run, settings=SETTINGS)
    assert isinstance(outcome, Done | InDoubt), outcome


def racer(where: str, address: str, rounds: int, start: Any, outcomes: Any) -> None:
    """Try to make the same calls as another process, at the same moments."""
    outcomes.put(asyncio.run(_race(where, address, rounds, start)))


async def _race(where: str, address: str, rounds: int, start: Any) -> list[str]:
    ledger, came = open_ledger(where), list[str]()
    for number in range(rounds):
        call = race_call(number)
        start.wait(30)

        async def run(number: int = number) -> str:
            return await touch(address, str(number))

        outcome = await perform(ledger, call, run)
        came.append("made" if isinstance(outcome, Done) and not outcome.replayed else type(outcome).__name__)
    await ledger.aclose()
    return came


def race_call(number: int) -> ExternalCall:
    position = Position(rollout="raced", turn=number, ordinal=0)
    return ExternalCall(position=position, request="race", tool="append", arguments={"number": number})
