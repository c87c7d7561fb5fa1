"""The places of a round: how many rollouts it may begin, and the index of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from heapq import heapify, heappop, heappush

from entcent_agents.branching.pool import PooledRequest

Further = Callable[[int], Awaitable[int]]
"""Asked when all rollouts of a round have ended, with how many there were: how many more it may have."""


class Places:
    """What rollouts of a round may be begun: first those that it has of its own, then those that it is lent.

    Args:
        own: Indices of its own.
        beyond: Indices that it may be lent.
        account: With a pool that lends one whenever a branch finds no other place.
        further: Lends when all have ended.

    Attributes:
        begun: How many rollouts were begun.
    """

    def __init__(
        self,
        own: Sequence[int],
        beyond: Sequence[int] = (),
        *,
        account: PooledRequest | None = None,
        further: Further | None = None,
    ) -> None:
        self._own = len(own)
        self._free = [*own]
        self._beyond = [*beyond]
        heapify(self._free)
        heapify(self._beyond)
        self._account = account
        self._further = further
        self.begun: int = 0

    @property
    def room(self) -> int:
        """How many can be begun now."""
        lent = self._account.room if self._account else 0
        return len(self._free) + min(lent, len(self._beyond))

    @property
    def untaken(self) -> list[int]:
        """Indices that no rollout has, those that are not lent yet included."""
        return [*self._free, *self._beyond]

    def take(self, wanted: int) -> list[int]:
        """Indices for rollouts that begin; fewer than are wanted where there is not room for all."""
        if self._account and wanted > len(self._free):
            missing = min(wanted - len(self._free), len(self._beyond))
            self._lend(self._account.borrow(missing))
        found = [heappop(self._free) for _ in range(min(wanted, len(self._free)))]
        self.begun += len(found)
        return found

    def give_back(self, index: int) -> None:
        """One could not be begun: another may have its index."""
        heappush(self._free, index)
        self.begun -= 1

    def take_up(self, indices: Collection[int]) -> None:
        """These rollouts another process began; what was lent for them was lent to that one."""
        self._free = sorted({*self._free}.difference(indices))
        self._beyond = sorted({*self._beyond}.difference(indices))
        self.begun += len(indices)

    async def further(self, anew: int) -> list[int]:
        """Indices to begin anew when all that were begun have ended; what is lent beyond them is for branches.

        Args:
            anew: At most how many.
        """
        if self._further is None or self.begun < self._own or not self._beyond:
            return []
        part = await self._further(self.begun)
        more = min(max(self._own + part - self.begun, 0), len(self._beyond))
        self._lend(more)
        return self.take(min(anew, more))

    def _lend(self, rollouts: int) -> None:
        for _ in range(rollouts):
            heappush(self._free, heappop(self._beyond))
