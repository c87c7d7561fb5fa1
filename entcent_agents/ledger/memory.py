"""A ledger that lives as long as its process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from entcent_agents.ledger.calls import Position
from entcent_agents.ledger.decision import Step
from entcent_agents.ledger.record import EffectRecord

T = TypeVar("T")


class MemoryLedger:
    """For tests, and for calls whose request does not outlive its process either.

    It survives a cancelled or failed node that is run again, and no crash.

    Args:
        clock: Seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._records: dict[Position, dict[str, EffectRecord]] = {}
        self._lock = threading.Lock()  # several event loops may share the ledger; nothing is awaited under it

    async def transact(self, position: Position, step: Step[T]) -> T:
        """Run one step on the records of a position."""
        with self._lock:
            records = self._records.get(position, {})
            change = step([records[digest] for digest in sorted(records)], self._clock())
            if change.put:
                self._records.setdefault(position, {})[change.put.digest] = change.put
            if change.remove:
                self._remove(change.remove)
            return change.answer

    async def unsettled(self, request: str | None = None) -> list[EffectRecord]:
        """Records that somebody works on, or has to decide about, oldest first."""
        with self._lock:
            found = [record for record in self._all() if not record.settled and request in {None, record.request}]
        return sorted(found, key=lambda record: (record.created_at, record.position, record.digest))

    async def forget(self, request: str) -> int:
        """Remove what is settled of a request, and count what stays."""
        with self._lock:
            of_request = [record for record in self._all() if record.request == request]
            settled = [record for record in of_request if record.settled]
            for record in settled:
                self._remove(record)
            return len(of_request) - len(settled)

    async def sweep(self, older_than_seconds: float) -> int:
        """Remove what is settled and has not changed for so long, and count it."""
        with self._lock:
            limit = self._clock() - older_than_seconds
            old = [record for record in self._all() if record.settled and record.changed_at < limit]
            for record in old:
                self._remove(record)
            return len(old)

    async def aclose(self) -> None:
        """Nothing is held open."""

    def _all(self) -> list[EffectRecord]:
        return [record for records in self._records.values() for record in records.values()]

    def _remove(self, record: EffectRecord) -> None:
        records = self._records.get(record.position, {})
        records.pop(record.digest, None)
        if not records:
            self._records.pop(record.position, None)
