"""Commits that a cancellation came between: they stand, and the graph has to hear of them when it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

_KEPT: Final = 64
"""Most updates that wait for their graphs; who is cancelled in the middle of a commit and never comes back is rare."""


class Untold:
    """What was committed for graphs that were cancelled before they knew."""

    def __init__(self) -> None:
        self._updates: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._updates)

    def take(self, key: str | None) -> Any:
        """The update of this round, if it waits for its graph; else None."""
        return self._updates.pop(key, None) if key else None

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
        cancelled = False
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                cancelled = True
                if not committing.is_set():
                    task.cancel()
        if cancelled and not task.cancelled() and task.exception() is None:
            self._keep(key, task.result())
        if cancelled:
            raise asyncio.CancelledError
        return task.result()

    def _keep(self, key: str | None, update: Any) -> None:
        if key:
            self._updates[key] = update
            while len(self._updates) > _KEPT:
                del self._updates[next(iter(self._updates))]
