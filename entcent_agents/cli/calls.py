"""What the command line knows of external calls: all that were made or tried, after the ledger forgot them too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from entcent_agents.ledger import EffectRecord, MemoryLedger, Position
from entcent_agents.ledger.decision import Change, Step

T = TypeVar("T")


class WatchedLedger(MemoryLedger):
    """A ledger in memory that keeps what it is told to forget: a run says in the end what it did."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[Position, str], EffectRecord] = {}

    @property
    def calls(self) -> list[EffectRecord]:
        """Every call that was at least begun, as it stands now, oldest first."""
        return sorted(self._seen.values(), key=lambda record: (record.created_at, record.position))

    async def transact(self, position: Position, step: Step[T]) -> T:
        """Run one step on the records of a position."""

        def watched(records: Sequence[EffectRecord], now: float) -> Change[T]:
            change = step(records, now)
            if change.remove:  # an intent that was taken back: the call was not made
                self._seen.pop((position, change.remove.digest), None)
            if change.put:
                self._seen[position, change.put.digest] = change.put
            return change

        return await super().transact(position, watched)


def call_of(record: EffectRecord) -> dict[str, Any]:
    """A record as plain data, for people and programs."""
    value: Any = record.result.value if record.result else None
    return {
        "tool": record.tool,
        "arguments": json.loads(record.arguments)[0][1] if record.arguments else None,
        "state": record.state.value,
        "attempts": record.attempt,
        "result": value["text"] if isinstance(value, dict) and "text" in value else value,
        "error": record.error,
        "reason": record.reason,
        "answered_by": record.answered_by,
    }
