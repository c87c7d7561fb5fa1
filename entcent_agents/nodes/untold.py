"""Commits that a cancellation came between: they stand, and the graph has to hear of them when it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from entcent_agents.rollouts.cleanup import to_the_end
from entcent_agents.telemetry.waiting import Waiting

T = TypeVar("T")

_KEPT: Final = 64
"""Most updates that wait for their graphs; who is cancelled in the middle of a commit and never comes back is rare."""


class Untold:
    """What was committed for graphs that were cancelled before they knew."""

    def __init__(self) -> None:
        self._updates = Waiting[Any](_KEPT)

    def __len__(self) -> int:
        return len(self._updates)

    def take(self, key: str | None) -> Any:
        """The update of this round, if it waits for its graph; else None."""
        return self._updates.take(key) if key else None

    async def told(self, key: str | None, work: Callable[[Callable[[], None]], Coroutine[Any, Any, T]]) -> T:
        """Do what ends in a commit. From when it says so on, a cancellation takes effect after it.

        Args:
            key: Of the round.
            work: Given what it calls right before the commit; gives the update of the graph.

        Raises:
            asyncio.CancelledError: It was cancelled. Where the commit had begun, the update is kept.
        """
        committing = asyncio.Event()
        task = asyncio.ensure_future(work(committing.set))
        try:
            return await to_the_end(task, on_cancel=lambda: committing.is_set() or task.cancel())
        except asyncio.CancelledError:
            if key and not task.cancelled() and task.exception() is None:
                self._updates.put(key, task.result())
            raise
