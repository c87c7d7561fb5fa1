"""What ends a rollout whose time is over or that need not go on, or a model call of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import LLMResult

from entcent_agents.blocking import CLEAN_UP_SECONDS
from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.chat.sampling import Calls, current_calls
from entcent_agents.errors import ModelServerError, RolloutError
from entcent_agents.rollouts.cleanup import to_the_end
from entcent_agents.rollouts.request import RolloutRequest

GRACE_SECONDS: Final = 0.5
"""How long the answer waits at most for what was cut off to end."""


class CutOff(RolloutError):
    """A rollout was cut off; says why. It never leaves the rollout, whose record has its words."""


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

    @property
    def passed(self) -> str:
        """What to say when it has."""
        return f"cut off: {self.limit} were over"


def deadline_of(request: RolloutRequest) -> Deadline | None:
    """When a rollout that begins now has to be over; None where nothing says so."""
    ends = [end for end in [request_deadline(request)] if end]
    if (most := request.budget.max_seconds_per_rollout) is not None:
        ends.append(Deadline(at=time.monotonic() + most, limit=f"max_seconds_per_rollout={most:g}"))
    return min(ends, key=lambda end: end.at, default=None)


def request_deadline(request: RolloutRequest) -> Deadline | None:
    """When the round has to be over; None where nothing says so."""
    most = request.budget.max_seconds
    if most is None:
        return None
    return Deadline(at=request.begun + most - request.spent.seconds, limit=f"max_seconds={most:g} of the request")


class CallLimit(BaseCallbackHandler):
    """Ends an attempt at a rollout when a model call takes too long, as where one fails for a passing reason.

    The whole attempt ends, and the rollout goes on from its last checkpoint: it is all that can be done alike for every
    chat model, which knows its own time-outs at best. The time of a call begins when LangChain begins it, and so holds
    the client's own retries and what it waits for a connection; where a budget lets calls through, when it does.

    Args:
        seconds: How long a call may take.
        recorder: Told of the failure.
        let_through: Whether calls wait for a budget first, and `begin` is called when they are let through.
        together: What all failures of a round have as their cause: those of one moment then wait equally long before
            they ask again, and can be one request again.
    """

    run_inline = True

    def __init__(
        self, seconds: float, recorder: TurnRecorder, together: Exception, *, let_through: bool = False
    ) -> None:
        self._seconds = seconds
        self._let_through = let_through
        self._recorder = recorder
        self._together = together
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._timers: dict[UUID, asyncio.TimerHandle] = {}
        self._tasks: dict[UUID, asyncio.Task[Any]] = {}
        self._attempt: asyncio.Timeout | None = None
        self._calls: Calls | None = None

    @asynccontextmanager
    async def heeded(self) -> AsyncGenerator[None]:
        """Make the model calls inside, which are those of one attempt, in time.

        Raises:
            ModelServerError: One was not.
        """
        self._calls = current_calls()
        attempt = self._attempt = asyncio.timeout(None)
        try:
            async with attempt:
                yield
        except Exception:
            if not attempt.expired():
                raise
            late = ModelServerError(f"no answer within max_seconds_per_call={self._seconds:g}", broke_off=True)
            self._recorder.on_llm_error(late, run_id=uuid4())
            raise late from self._together
        finally:
            self._calls = None
            self._disarm_all()

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A call begins, and no other of the same task is under way, but for those of its batch and around it."""
        if kwargs.get("batch_size", 1) == 1 and kwargs.get("parent_run_id") not in self._tasks:
            self._follow(run_id)
        if not self._let_through:
            self.begin(run_id)

    def on_llm_start(self, serialized: Any, prompts: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A call begins, of a model that does not chat."""
        self.on_chat_model_start(serialized, prompts, run_id=run_id, **kwargs)

    def begin(self, run_id: UUID) -> None:
        """Its time runs from now on."""
        self._on_the_loop(self._arm, run_id, current_calls())

    def answered(self, run_id: UUID) -> None:
        """The call was in time; what its answer still waits for here is not the model's doing."""
        self._on_the_loop(self._disarm, run_id)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """The call was in time."""
        self.answered(run_id)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """The call has failed by itself."""
        self._on_the_loop(self._disarm, run_id)

    def _follow(self, run_id: UUID) -> None:
        """Nothing is heard of a call that is cancelled: it is over when its task is, or makes another."""
        if (task := _current_task()) is not None:
            self._over(task)
            self._tasks[run_id] = task
            task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[Any]) -> None:
        task.remove_done_callback(self._over)
        for run_id, known in [*self._tasks.items()]:
            if known is task:
                self._on_the_loop(self._disarm, run_id)

    def _on_the_loop(self, change: Callable[..., None], *arguments: Any) -> None:
        if threading.get_ident() == self._thread:
            change(*arguments)
        else:
            with suppress(RuntimeError):  # the loop was closed, and a thread outlived it
                self._loop.call_soon_threadsafe(change, *arguments)

    def _arm(self, run_id: UUID, calls: Calls | None) -> None:
        if calls and calls.among(self._calls):  # else a thread asks that an earlier attempt left behind
            self._timers[run_id] = self._loop.call_later(self._seconds, self._end)

    def _disarm(self, run_id: UUID) -> None:
        self._tasks.pop(run_id, None)
        if timer := self._timers.pop(run_id, None):
            timer.cancel()

    def _disarm_all(self) -> None:
        for run_id in [*self._timers, *self._tasks]:
            self._disarm(run_id)

    def _end(self) -> None:
        self._disarm_all()
        assert self._attempt
        self._attempt.reschedule(self._loop.time())


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # a thread without a loop, where calls cannot be cancelled
        return None


async def within(
    deadline: Deadline | None,
    work: Coroutine[Any, Any, None],
    *,
    stop: Coroutine[Any, Any, str] | None,
    clean_up: Callable[[], Awaitable[None]],
    patient: Callable[[], bool],
    linger: Callable[[asyncio.Task[None]], None],
) -> None:
    """Do what may be cut off, in a task of its own. Where it is, cancel the work, and clean up after it.

    Args:
        deadline: When it has to be over; None where nothing says so.
        work: What is to be done; where it is done after all although it was cancelled, that counts.
        stop: Ends, with the reason, when the work need not go on; None: it does.
        clean_up: Done once the work has ended after it was cut off.
        patient: Whether more than `GRACE_SECONDS` are to be waited for that.
        linger: Takes what nobody waits for any more.

    Raises:
        CutOff: It was.
        Exception: What the work raised before that.
    """
    if deadline and not deadline.left_seconds:
        work.close()
        if stop:
            stop.close()
        raise CutOff(deadline.passed)
    working = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop) if stop else None
    leaving: asyncio.Task[None] | None = None
    why = ""
    try:
        why = await _cut_off(working, deadline, stopped)
        if why:
            leaving = asyncio.create_task(_left(working, clean_up))
            await asyncio.wait([leaving], timeout=GRACE_SECONDS)
            if patient():
                await asyncio.wait([leaving], timeout=CLEAN_UP_SECONDS)
    except asyncio.CancelledError:
        working.cancel()
        await to_the_end(_ended(leaving or working))
        raise
    finally:
        if stopped:
            stopped.cancel()
    if leaving is None or _is_done(working):
        working.result()
        return
    if not leaving.done():
        linger(leaving)
    raise CutOff(why)


async def _cut_off(
    working: asyncio.Future[None], deadline: Deadline | None, stopped: asyncio.Future[str] | None
) -> str:
    """Wait for the work, and say why it is not waited for any longer; empty where it has ended."""
    ends = {working, stopped} if stopped else {working}
    left = deadline.left_seconds if deadline else None
    await asyncio.wait(ends, timeout=left, return_when=asyncio.FIRST_COMPLETED)
    if working.done():
        return ""
    if stopped and stopped.done():
        return stopped.result()
    assert deadline
    return deadline.passed


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
