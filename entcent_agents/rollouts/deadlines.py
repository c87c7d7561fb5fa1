"""What ends a rollout whose time is over, or a model call of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from entcent_agents.blocking import CLEAN_UP_SECONDS
from entcent_agents.errors import RolloutError
from entcent_agents.rollouts.cleanup import to_the_end
from entcent_agents.rollouts.request import RolloutRequest

GRACE_SECONDS: Final = 0.5
"""How long the answer waits at most for what was cut off to end."""


class OutOfTime(RolloutError):
    """A rollout was cut off; says by which limit. It never leaves the rollout, whose record has its words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """When something has to be over.

    Attributes:
        at: By `time.monotonic`.
        limit: The setting that says so.
    """

    at: float
    limit: str

    @property
    def left_seconds(self) -> float:
        """Time until then, 0 where it has passed."""
        return max(self.at - time.monotonic(), 0.0)

    def passed(self) -> OutOfTime:
        """What to raise when it has."""
        return OutOfTime(f"cut off: {self.limit} were over")


def deadline_of(request: RolloutRequest) -> Deadline | None:
    """When a rollout that begins now has to be over; None where nothing says so."""
    budget, ends = request.budget, list[Deadline]()
    if budget.max_seconds is not None:
        left = budget.max_seconds - (request.base.seconds if request.base else 0.0)
        ends.append(Deadline(at=request.begun + left, limit=f"max_seconds={budget.max_seconds:g} of the request"))
    if (most := budget.max_seconds_per_rollout) is not None:
        ends.append(Deadline(at=time.monotonic() + most, limit=f"max_seconds_per_rollout={most:g}"))
    return min(ends, key=lambda end: end.at, default=None)


async def within(
    deadline: Deadline,
    work: Coroutine[Any, Any, None],
    *,
    clean_up: Callable[[], Awaitable[None]],
    patient: Callable[[], bool],
    linger: Callable[[asyncio.Task[None]], None],
) -> None:
    """Do what has a deadline, in a task of its own. Where it is passed, cancel the work, and clean up after it.

    Args:
        deadline: When it has to be over.
        work: What is to be done; where it is done after all although it was cancelled, that counts.
        clean_up: Done once the work has ended after its deadline.
        patient: Whether more than `GRACE_SECONDS` are to be waited for that.
        linger: Takes what nobody waits for any more.

    Raises:
        OutOfTime: It was cut off.
        Exception: What the work raised before that.
    """
    if not deadline.left_seconds:
        work.close()
        raise deadline.passed()
    working = asyncio.ensure_future(work)
    leaving: asyncio.Task[None] | None = None
    try:
        await asyncio.wait([working], timeout=deadline.left_seconds)
        if not working.done():
            leaving = asyncio.create_task(_left(working, clean_up))
            await asyncio.wait([leaving], timeout=GRACE_SECONDS)
            if patient():
                await asyncio.wait([leaving], timeout=CLEAN_UP_SECONDS)
    except asyncio.CancelledError:
        working.cancel()
        await to_the_end(_ended(leaving or working))
        raise
    if leaving is None or _is_done(working):
        working.result()
        return
    if not leaving.done():
        linger(leaving)
    raise deadline.passed()


def _is_done(work: asyncio.Future[None]) -> bool:
    return work.done() and not work.cancelled() and work.exception() is None


async def _left(work: asyncio.Future[None], clean_up: Callable[[], Awaitable[None]]) -> None:
    work.cancel()
    try:
        await asyncio.wait([work])
    finally:  # the loop may end first
        if not _is_done(work):
            await clean_up()


async def _ended(task: asyncio.Future[None]) -> None:
    await asyncio.wait([task])
