"""Calls, records and steps that several tests begin with."""

from __future__ import annotations

from typing import Any

from entcent_agents.ledger import EffectRecord, ExternalCall, LedgerSettings, Position
from entcent_agents.ledger.decision import Claim, Step, claim

NOW = 1_000.0
SETTINGS = LedgerSettings(lease_seconds=30.0, max_attempts=3)


def a_call(
    *, tool: str = "pay", arguments: Any = None, idempotent: bool = False, ordinal: int = 0, request: str = "request"
) -> ExternalCall:
    position = Position(rollout=f"thread of {request}", turn=2, ordinal=ordinal)
    given = {"amount": 5} if arguments is None else arguments
    return ExternalCall(position=position, request=request, tool=tool, arguments=given, idempotent=idempotent)


def claimed(call: ExternalCall, now: float = NOW, records: tuple[EffectRecord, ...] = ()) -> Claim:
    """The claim on a call that may be made."""
    made = claim(records, now, call, SETTINGS).answer
    assert isinstance(made, Claim)
    return made


def claiming(call: ExternalCall, settings: LedgerSettings = SETTINGS) -> Step[Any]:
    return lambda records, now: claim(records, now, call, settings)
