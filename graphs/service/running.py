"""A request under way in this process, and what any number of listeners see of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any, Final, Literal

from graphs.service.log import Request, State

_PAUSE_SECONDS: Final = 0.1
"""Between what a listener is told: rollouts change with every token."""
Event = Mapping[str, Any]


class Running:
    """Keeps the latest event of each rollout and kind: a slow listener misses what is over, and memory stays bounded.

    Args:
        request: What is asked.

    Attributes:
        task: Works on it.
        begun: Whether it does, or waits in line.
        came_to: State in the end; `cut off` is one that another process goes on with.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        self.came_to: State | Literal["cut off"] = "cut off"
        self._latest: dict[tuple[str, int | None], tuple[int, Event]] = {}
        self._versions = 0
        self._changed, self._ended = asyncio.Event(), asyncio.Event()

    def tell(self, event: Event) -> None:
        """Something happened."""
        self._versions += 1
        self._latest[str(event["type"]), event.get("rollout")] = (self._versions, event)
        self._changed.set()
        self._changed = asyncio.Event()

    def end(self) -> None:
        """Nothing more will happen here."""
        self._ended.set()
        self._changed.set()

    async def events(self) -> AsyncIterator[Event]:
        """What happened so far, and then what happens, to the end."""
        seen = 0
        while True:
            changed, ended = self._changed, self._ended.is_set()
            for version, event in sorted(self._latest.values(), key=lambda kept: kept[0]):
                if version > seen:
                    seen = version
                    yield event
            if ended:
                return
            await changed.wait()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), _PAUSE_SECONDS)
