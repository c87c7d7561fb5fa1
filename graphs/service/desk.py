"""The desk: takes requests, works on them whoever listens, and goes on with what others left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from langgraph.types import Command

from graphs.service.log import Request, RequestLog
from graphs.service.metrics import Metrics
from graphs.service.running import Event, Running
from graphs.service.settings import ServiceSettings
from graphs.service.work import work
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
        self._entering = 0
        metrics.under_way.set_function(lambda: len(self._running))

    async def ask(self, id: str, thread: str, question: str) -> None:
        """Begin a request; one that was begun before goes on as it is.

        Raises:
            OverloadedError: There is no room.
            ThreadBusyError: The conversation has another request.
        """
        if id not in self._running and await self._log.find(id) is None:
            request = Request(id=id, thread=thread, question=question, state="running", result=None, attempts=1)
            with self._room():
                if await self._log.begin(id, thread, question):
                    self._start(request)

    async def answer(self, id: str, answer: Any) -> bool:
        """Go on with a request that waits for a person; False where it does not (any more).

        Raises:
            OverloadedError: There is no room.
        """
        with self._room():
            request = await self._log.answer(id)
            if request is not None:
                self._start(request, Command(resume=answer))
        return request is not None

    async def withdraw(self, id: str) -> None:
        """End a request for good: nothing more is sampled, called or committed."""
        await self._end(id)
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
                mine = {*self._running}
                for id in mine - await self._log.keep(mine):  # withdrawn, or taken over: elsewhere
                    await self._end(id)
                    await self._log.end(id)
                for request in await self._log.take(max(self._max_requests - len(self._running), 0)):
                    self._start(request)
            except psycopg.Error as error:
                _LOGGER.warning("the database cannot be reached, requests under way go on: %s", error)
            except Exception:
                _LOGGER.exception("requests of others are not looked for this time")
            await asyncio.sleep(self._lease / 3)

    async def close(self, drain_seconds: float) -> None:
        """Take nothing more, wait for what is under way, and leave the rest to another process."""
        self._max_requests = 0
        tasks = [running.task for running in self._running.values() if running.task]
        if tasks:
            await asyncio.wait(tasks, timeout=drain_seconds)
        left = {*self._running}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._log.release(left)

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

    async def _end(self, id: str) -> None:
        """End work here; whoever follows the request hears what its row says."""
        running = self._running.get(id)
        if running is not None and running.task is not None:
            running.task.cancel()
            await asyncio.wait([running.task])

    async def _work(self, running: Running, given: Command[Any] | None) -> None:
        request = running.request
        try:
            with self._metrics.timed() as timed:
                async with self._places:  # first come, first served: all at once would all end last
                    timed.state, result = await work(self._agent, request, given, running.tell)
            await self._log.settle(request["id"], timed.state, result)
        except psycopg.Error as error:  # nothing is lost: whoever reaches the database goes on with it
            _LOGGER.warning("request %s was cut off: %s", request["id"], error)
        finally:
            del self._running[request["id"]]
            running.end()


def outcome(request: Request) -> dict[str, Any]:
    """What a client is told of a request."""
    return {"id": request["id"], "thread": request["thread"], "state": request["state"], **(request["result"] or {})}
