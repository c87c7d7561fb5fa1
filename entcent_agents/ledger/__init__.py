"""External calls that happen at most once: intent before, result after, and a person where nobody knows."""

from __future__ import annotations

from entcent_agents.ledger.answer import Answer
from entcent_agents.ledger.calls import ExternalCall, Position, current_idempotency_key, use_idempotency_key
from entcent_agents.ledger.memory import MemoryLedger
from entcent_agents.ledger.outcome import Done, Failed, GivenUp, InDoubt, Outcome, Pending
from entcent_agents.ledger.perform import is_uncertain, perform, settle
from entcent_agents.ledger.postgres import PostgresLedger
from entcent_agents.ledger.protocol import EffectLedger
from entcent_agents.ledger.record import EffectRecord, State
from entcent_agents.ledger.settings import LedgerSettings
from entcent_agents.ledger.sqlite import SqliteLedger

__all__ = [
    "Answer",
    "Done",
    "EffectLedger",
    "EffectRecord",
    "ExternalCall",
    "Failed",
    "GivenUp",
    "InDoubt",
    "LedgerSettings",
    "MemoryLedger",
    "Outcome",
    "Pending",
    "Position",
    "PostgresLedger",
    "SqliteLedger",
    "State",
    "current_idempotency_key",
    "is_uncertain",
    "perform",
    "settle",
    "use_idempotency_key",
]
