"""What a ledger must be able to do; what is safe is none of its business (`decision.py`)."""

from __future__ import annotations

from typing import Protocol, TypeVar

from entcent_agents.ledger.calls import Position
from entcent_agents.ledger.decision import Step
from entcent_agents.ledger.record import EffectRecord

T = TypeVar("T")


class EffectLedger(Protocol):
    """Records of external calls, shared by all processes that may resume a request."""

    async def transact(self, position: Position, step: Step[T]) -> T:
        """Run one step on the records of a position, alone, and make its change durable before answering.

        The step gets the records in the order of their digests, and the store's own time. It is pure and short, and
        may be run in another thread. No two steps on one position overlap, in whatever process they are asked for.

        Raises:
            LedgerError: The step may or may not have taken effect; whoever recorded an intent must not act on it.
            LedgerVersionError: A record of the position is of another version; nothing was changed.
        """
        ...

    async def unsettled(self, request: str | None = None) -> list[EffectRecord]:
        """Records that somebody works on, or has to decide about, oldest first; of one request, or all.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        ...

    async def forget(self, request: str) -> int:
        """Remove what is settled of a request that will not be resumed, and count what stays because it is not.

        Raises:
            LedgerError: The ledger cannot be written.
        """
        ...

    async def sweep(self, older_than_seconds: float) -> int:
        """Remove what is settled and has not changed for so long, and count it. What is unsettled stays.

        Raises:
            LedgerError: The ledger cannot be written.
        """
        ...

    async def aclose(self) -> None:
        """Let go of what is held open. The ledger may be used again."""
        ...
