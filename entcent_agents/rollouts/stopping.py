"""Rollouts that need not go on: those of a round that agrees, and those less confident than others were."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from typing import Any, Final

from langchain_core.messages import BaseMessage

from entcent_agents.branching.stopping import EarlyStopping, leading
from entcent_agents.capture.handlers import ModelAndToolHandler
from entcent_agents.trajectory import CANDIDATES, Rollout, Trajectory

STOPPED: Final = "stopped early: "
"""How the errors of such rollouts begin. The space lets records keep the whole line."""


class Stopping:
    """What ends rollouts of one round early. It lives on the round's event loop.

    Args:
        early: What ends them.
        least: How many rollouts have to be finished or held before any is stopped.
        kept: Rollouts that are never stopped.
    """

    def __init__(self, early: EarlyStopping, *, least: int, kept: Container[int] = ()) -> None:
        self.prunes: bool = early.keep_percent is not None
        self._early = early
        self._least = least
        self._kept = kept
        self._loop = asyncio.get_running_loop()
        self._ended: dict[int, Rollout] = {}
        self._stops: dict[int, asyncio.Future[str]] = {}
        self._agreed: str | None = None
        self._floor: float | None = None

    @property
    def agreed(self) -> bool:
        """Whether the round is over but for the rollouts that are never stopped: nothing else is to begin."""
        return self._agreed is not None

    def stop_of(self, index: int) -> asyncio.Future[str]:
        """What a rollout is to end at, once it is done; it holds why."""
        stop = self._stops.setdefault(index, self._loop.create_future())
        if self._agreed:
            self._stop(index, self._agreed)
        return stop

    def ended(self, rollout: Rollout) -> None:
        """A rollout has ended, now or in another process: others may have to."""
        if rollout.index in self._ended or (rollout.error or "").startswith(STOPPED):
            return
        self._ended[rollout.index] = rollout
        well = [each for each in self._ended.values() if each.status in CANDIDATES]
        if len(well) < self._least:
            return
        if self._floor is None and self.prunes:
            self._floor = self._early.floor([each.trajectory.column("confidence") for each in well])
        outcomes = [each.vote_key for each in self._ended.values()]
        if not self._agreed and self._early.agrees(outcomes):
            self._agreed = f"{STOPPED}{leading(outcomes)[0]} of {len(outcomes)} rollouts agree"
            for index in self._stops:
                self._stop(index, self._agreed)

    def asks(self, index: int, so_far: Callable[[], Trajectory]) -> None:
        """A rollout is about to ask its model, from whatever thread: it may be stopped before it does.

        At the end of a turn nobody knows whether the rollout asks again, or is done and costs nothing any more.

        Args:
            index: Its number.
            so_far: Gives its turns.
        """
        floor = self._floor
        if floor is not None and self._early.prunes(so_far().column("confidence"), floor):
            why = f"{STOPPED}a group of tokens has less confidence than {floor:.3g} nats"
            with suppress(RuntimeError):  # the loop was closed, and a thread outlived it
                self._loop.call_soon_threadsafe(self._stop, index, why)

    def _stop(self, index: int, why: str) -> None:
        stop = self._stops[index]
        if index not in self._kept and not stop.done():
            stop.set_result(why)


class Asking(ModelAndToolHandler):
    """Has a rollout stopped before it asks its model, where it is to be.

    Args:
        stopping: The round's.
        index: The rollout's.
        so_far: Gives its turns, of which the prompt has the messages.
    """

    hears_starts = True

    def __init__(self, stopping: Stopping, index: int, so_far: Callable[[Sequence[BaseMessage]], Trajectory]) -> None:
        self._stopping = stopping
        self._index = index
        self._so_far = so_far

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        """It is about to ask."""
        prompt = [message for each in messages for message in each]
        self._stopping.asks(self._index, lambda: self._so_far(prompt))
