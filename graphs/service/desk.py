"""The desk: takes requests, works on them whoever listens, and goes on with what others left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, Final

import psycopg
from langchain_core.messages import HumanMessage
from langgraph.types import Command

from entcent_agents.errors import EntcentError
from graphs.service.agent import Agents, config_of
from graphs.service.log import Request, RequestLog, State
from graphs.service.metrics import Metrics
from graphs.service.running import Event, Running
from graphs.serving import Agent

_LOGGER: Final = logging.getLogger(__name__)
_MOST_ATTEMPTS: Final = 5
_LOOK_SECONDS: Final = 1.0
"""Between looks at a request that another process works on."""


class OverloadedError(Exception):
    """As many requests are under way as there may be."""


class Desk:
    """Works on requests in tasks of their own: to hang up ends nothing, and whoever asks again hears what came of it.

    Args:
        agents: Who answers.
        log: Where requests are kept.
        metrics: Who counts.
        max_requests: Most under way.
        lease_seconds: As of the log.
    """

    def __init__(
        self, agents: Agents, log: RequestLog, metrics: Metrics, *, max_requests: int, lease_seconds: float
    ) -> None:
        self._agents, self._log, self._metrics = agents, log, metrics
        self._max_requests, self._lease = max_requests, lease_seconds
        self._running: dict[str, Running] = {}
        metrics.under_way.set_function(lambda: len(self._running))

    async def ask(self, id: str, thread: str, question: str) -> None:
        """Begin a request; one that was begun before goes on as it is.

        Raises:
            OverloadedError: There is no room.
            ThreadBusyError: The conversation has another request.
        """
        if id not in self._running and await self._log.find(id) is None:
            self._make_room()
            if await self._log.begin(id, thread, question):
                self._start(Request(id=id, thread=thread, question=question, state="running", result=None, attempts=1))

    async def answer(self, id: str, answer: Any) -> bool:
        """Go on with a request that waits for a person; False where it does not (any more).

        Raises:
            OverloadedError: There is no room.
        """
        self._make_room()
        request = await self._log.answer(id)
        if request is not None:
            self._start(request, Command(resume=answer))
        return request is not None

    async def withdraw(self, id: str) -> None:
        """End a request for good: nothing more is sampled, called or committed."""
        running = self._running.get(id)
        if running is not None and running.task is not None:
            running.withdrawn = True
            running.task.cancel()
            await asyncio.wait([running.task])
        elif (await self._log.find(id) or {}).get("state") == "asking":
            await self._log.settle(id, "cancelled", {})

    async def follow(self, id: str) -> AsyncIterator[Event]:
        """What happens with a request, here or elsewhere; last a `result`."""
        while True:
            if id in self._running:
                async for event in self._running[id].events():
                    yield event
            request = await self._log.find(id)
            if request is None:
                return
            if request["state"] != "running":
                yield {"type": "result", **outcome(request)}
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def watch(self) -> None:
        """For ever: say what is worked on here, and take over what nobody works on any more."""
        while True:
            try:
                await self._log.keep(self._running)
                for request in await self._log.take(max(self._max_requests - len(self._running), 0)):
                    self._start(request)
            except psycopg.Error as error:
                _LOGGER.warning("the database cannot be reached, requests under way go on: %s", error)
            await asyncio.sleep(self._lease / 3)

    async def close(self, drain_seconds: float) -> None:
        """Wait for what is under way, and leave the rest to another process."""
        tasks = [running.task for running in self._running.values() if running.task]
        if tasks:
            await asyncio.wait(tasks, timeout=drain_seconds)
        left = {*self._running}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._log.release(left)

    def _make_room(self) -> None:
        if len(self._running) >= self._max_requests:
            self._metrics.refused.inc()
            raise OverloadedError

    def _start(self, request: Request, given: Command[Any] | None = None) -> None:
        running = self._running[request["id"]] = Running(request)
        running.task = asyncio.create_task(self._work(running, given), name=request["id"])

    async def _work(self, running: Running, given: Command[Any] | None) -> None:
        request = running.request
        try:
            with self._metrics.timed() as timed:
                timed.state, result = await self._run(running, given)
            await self._log.settle(request["id"], timed.state, result)
        except asyncio.CancelledError:
            if running.withdrawn:
                await self._log.settle(request["id"], "cancelled", {})
            raise
        except psycopg.Error as error:  # nothing is lost: whoever reaches the database goes on with it
            _LOGGER.warning("request %s was cut off: %s", request["id"], error)
        finally:
            del self._running[request["id"]]
            running.end()

    async def _run(self, running: Running, given: Command[Any] | None) -> tuple[State, dict[str, Any]]:
        request, graph = running.request, self._agents.one()
        if request["attempts"] > _MOST_ATTEMPTS:
            return "failed", {"error": f"given up: {_MOST_ATTEMPTS} processes ended while they worked on it"}
        try:
            begun, values = await self._begun(graph, request) if given is None else (given, {})
            config = config_of(request["thread"])
            if begun is not _DONE:
                stream: Any = graph.astream(begun, config, stream_mode=["custom", "values"], durability="sync")
                async for mode, part in stream:
                    if mode == "custom":
                        running.tell(part)
                    else:
                        values = part
        except EntcentError as error:
            _LOGGER.warning("request %s failed: %s", request["id"], error)
            return "failed", {"error": f"{type(error).__name__}: {error}"}
        except psycopg.Error:
            raise
        except Exception as error:
            _LOGGER.exception("request %s failed", request["id"])
            return "failed", {"error": type(error).__name__}
        return _came_to(values)

    @staticmethod
    async def _begun(graph: Agent, request: Request) -> tuple[Any, dict[str, Any]]:
        """What the graph is given, and what it has come to: a request taken over may be anywhere."""
        question = HumanMessage(request["question"], id=request["id"])
        if request["attempts"] > 1:
            state = await graph.aget_state(config_of(request["thread"]))
            if any(message.id == question.id for message in state.values.get("messages", ())):
                return (None if state.next else _DONE), state.values
        return {"messages": [question]}, {}


_DONE: Final = object()


def _came_to(values: dict[str, Any]) -> tuple[State, dict[str, Any]]:
    if "__interrupt__" in values:
        return "asking", {"questions": [asked.value for asked in values["__interrupt__"]]}
    told = ("winner", "selector", "reason", "usage", "shadow")
    selection = {key: values["selection"][key] for key in told if key in values["selection"]}
    return "finished", {"answer": values["messages"][-1].text, "selection": selection}


def outcome(request: Request) -> dict[str, Any]:
    """What a client is told of a request."""
    return {"id": request["id"], "thread": request["thread"], "state": request["state"], **(request["result"] or {})}
