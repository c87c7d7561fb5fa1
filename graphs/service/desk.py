"""The desk: takes requests, works on them whoever listens, and goes on with what others left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Literal

from langgraph.types import Command

from graphs.service.log import Request, RequestLog, State
from graphs.service.metrics import Metrics
from graphs.service.questions import OtherQuestionsError, check
from graphs.service.running import Event, Running
from graphs.service.settings import ServiceSettings
from graphs.service.stores import OUTAGE
from graphs.service.work import OutageError, work
from graphs.serving import Agent

_LOGGER: Final = logging.getLogger(__name__)
_LOOK_SECONDS: Final = 1.0
"""Between looks at a request that another process works on."""


class OverloadedError(Exception):
    """As many requests are under way as there may be."""


class Desk:
    """Works on requests in tasks of their own: to hang up ends nothing, and whoever asks again hears what came of it.

    Args:
        agent: Answers.
        log: Where requests are kept.
        metrics: Who counts.
        settings: How many requests there may be, and how long a lease is.
    """

    def __init__(self, agent: Agent, log: RequestLog, metrics: Metrics, settings: ServiceSettings) -> None:
        self._agent, self._log, self._metrics = agent, log, metrics
        self._max_requests, self._lease = settings.max_requests, settings.lease_seconds
        self._places = asyncio.Semaphore(settings.max_working)
        self._running: dict[str, Running] = {}
        self._cut_off: dict[str, bool] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._stopped_at: float | None = None
        self._entering = 0
        metrics.under_way.set_function(lambda: len(self._running))

    async def ask(self, id: str, thread: str, question: str) -> None:
        """Begin a request; one that was begun before goes on as it is.

        Raises:
            OverloadedError: There is no room.
            ThreadBusyError: The conversation has another request.
        """
        if id not in self._running and await self._log.find(id) is None:
            with self._room():
                request = await self._log.begin(id, thread, question)
                if request is not None:
                    self._start(request)

    async def answer(self, id: str, answers: Mapping[str, Any]) -> None:
        """Go on with a request that waits for a person.

        Args:
            id: Of the request.
            answers: By the ids of its questions.

        Raises:
            OverloadedError: There is no room.
            OtherQuestionsError: It asks nothing, or something else (by now).
            AnswerError: The agent could not go on with this.
        """
        with self._room():
            asked = await self._log.find(id)
            if asked is None or asked["state"] != "asking" or asked["result"] is None:
                raise OtherQuestionsError
            check(asked["result"]["questions"], answers)
            request = await self._log.answer(id, asked["result"]["questions"])
            if request is None:
                raise OtherQuestionsError
            self._start(request, Command(resume=answers))

    async def withdraw(self, id: str) -> None:
        """End a request for good: nothing more is sampled, called or committed."""
        await self._end(id, "cancelled")
        await self._log.withdraw(id)

    async def follow(self, id: str) -> AsyncIterator[Event]:
        """What happens with a request, here or elsewhere; last a `result`."""
        while True:
            if id in self._running:
                async for event in self._running[id].events():
                    yield event
            request = await self._log.find(id)
            if request is None:
                return
            if request["state"] not in ("running", "cancelling"):
                yield {"type": "result", **outcome(request)}
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def watch(self) -> None:
        """For ever: say what is worked on here, end what is not to be, and take over what nobody works on any more."""
        while True:
            try:
                await self._look()
            except OUTAGE as error:
                _LOGGER.warning("the database cannot be reached, requests under way go on: %s", error)
            except Exception:
                _LOGGER.exception("requests of others are not looked for this time")
            await asyncio.sleep(self._lease / 3)

    def stop(self) -> float:
        """Take nothing more; `close` follows. Gives when it was told first, by the loop's clock."""
        if self._stopped_at is None:
            self._max_requests, self._stopped_at = 0, asyncio.get_running_loop().time()
        return self._stopped_at

    async def close(self, drain_seconds: float) -> None:
        """Wait for what is under way, so long since it was told to stop, and leave the rest to another process."""
        waited = asyncio.get_running_loop().time() - self.stop()
        tasks = [running.task for running in self._running.values() if running.task]
        if tasks:
            await asyncio.wait(tasks, timeout=max(drain_seconds - waited, 0.0))
        left = self._cut_off | {id: running.begun for id, running in self._running.items()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._ending.values(), return_exceptions=True)
        try:
            await self._log.release(left)
        except OUTAGE as error:
            _LOGGER.warning("%s requests are left until their leases run out: %s", len(left), error)

    async def _look(self) -> None:
        left, self._cut_off = self._cut_off, {}
        try:
            await self._log.release(left)
        except BaseException:
            self._cut_off |= left
            raise
        mine = {*self._running}
        states = await self._log.keep(mine)
        for id in mine - {*self._ending}:
            if states.get(id) != "running":  # withdrawn, or taken over: elsewhere. The next look is not kept waiting
                self._ending[id] = asyncio.create_task(self._end_here(id, states.get(id)))
        for request in await self._log.take(max(self._max_requests - len(self._running), 0)):
            self._start(request)

    @contextmanager
    def _room(self) -> Generator[None]:
        """Room for one more, kept while it is entered."""
        if len(self._running) + self._entering >= self._max_requests:
            self._metrics.refused.inc()
            raise OverloadedError
        self._entering += 1
        try:
            yield
        finally:
            self._entering -= 1

    def _start(self, request: Request, given: Command[Any] | None = None) -> None:
        if request["id"] in self._running:  # it was taken from this process and left again, and is still worked on here
            return
        running = self._running[request["id"]] = Running(request)
        running.tell({"type": "accepted", "id": request["id"], "thread": request["thread"]})
        running.task = asyncio.create_task(self._work(running, given), name=request["id"])

    async def _end_here(self, id: str, state: State | None) -> None:
        """End what was withdrawn or taken over elsewhere."""
        try:
            await self._end(id, "cancelled" if state == "cancelling" else "cut off")
            await self._log.end(id)
        except OUTAGE as error:
            _LOGGER.warning("request %s is cancelled when its lease runs out: %s", id, error)
        finally:
            del self._ending[id]

    async def _end(self, id: str, as_what: Literal["cancelled", "cut off"]) -> None:
        """End work here; whoever follows the request hears what its row says."""
        running = self._running.get(id)
        if running is not None and running.task is not None:
            running.came_to = as_what
            running.task.cancel()
            await asyncio.wait([running.task])

    async def _work(self, running: Running, given: Command[Any] | None) -> None:
        id = running.request["id"]
        try:
            with self._metrics.timed(running):
                async with self._places:  # first come, first served: all at once would all end last
                    request = await self._log.attempt(id)
                    if request is None:
                        return
                    running.begun = True
                    state, result = await work(self._agent, request, given, running.tell)
                if await self._log.settle(id, state, result):
                    running.came_to = state
        except (OutageError, *OUTAGE) as error:  # nothing is lost: whoever reaches the database goes on with it
            _LOGGER.warning("request %s was cut off: %s", id, error.__cause__ or error)
            self._cut_off[id] = running.begun
        finally:
            del self._running[id]
            running.end()


def outcome(request: Request) -> dict[str, Any]:
    """What a client is told of a request."""
    return {"id": request["id"], "thread": request["thread"], "state": request["state"], **(request["result"] or {})}
