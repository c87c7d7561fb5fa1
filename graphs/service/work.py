"""One request, worked on from wherever it is to its end, or to where it waits for a person."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, cast

from langchain_core.messages import HumanMessage
from langgraph.types import Command

from entcent_agents.errors import EntcentError, causes_of
from graphs.service.agent import config_of
from graphs.service.log import Request, State
from graphs.service.questions import questions_of
from graphs.service.running import Event
from graphs.service.stores import OUTAGE
from graphs.serving import Agent

_LOGGER: Final = logging.getLogger(__name__)
_MOST_ATTEMPTS: Final = 5
_DONE: Final = object()


class OutageError(Exception):
    """The database is away."""


async def work(
    graph: Agent, request: Request, given: Command[Any] | None, tell: Callable[[Event], None]
) -> tuple[State, dict[str, Any]]:
    """What comes of a request.

    Args:
        graph: The agent.
        request: What is asked.
        given: A person's answer, where it waited for one.
        tell: Hears the events of the stream.

    Raises:
        OutageError: The database is gone; another attempt goes on with the request.
    """
    if request["attempts"] - request["in_order"] > _MOST_ATTEMPTS:
        return "failed", {"error": f"given up: {_MOST_ATTEMPTS} processes ended while they worked on it"}
    try:
        begun, values = await _begun(graph, request) if given is None else (given, {})
        if begun is not _DONE:
            config = config_of(request["thread"])
            stream: Any = graph.astream(begun, config, stream_mode=["custom", "values"], durability="sync")
            async for mode, part in stream:
                if mode == "custom":
                    tell(part)
                else:
                    values = part
    except Exception as error:
        if _is_outage(error):
            raise OutageError from error
        if isinstance(error, EntcentError):
            _LOGGER.warning("request %s failed: %s", request["id"], error)
            return "failed", {"error": f"{type(error).__name__}: {error}"}
        _LOGGER.exception("request %s failed", request["id"])
        return "failed", {"error": type(error).__name__}
    return _came_to(values)


def _is_outage(error: BaseException) -> bool:
    """Whether the database was away, for one of the rollouts at least."""
    for link in causes_of(error):
        several = cast("BaseExceptionGroup[Any]", link).exceptions if isinstance(link, BaseExceptionGroup) else ()
        if isinstance(link, OUTAGE) or any(map(_is_outage, several)):
            return True
    return False


async def _begun(graph: Agent, request: Request) -> tuple[Any, dict[str, Any]]:
    """What the graph is given, and what it has come to: a request that was taken over may be anywhere."""
    question = HumanMessage(request["question"], id=request["id"])
    if request["attempts"] > 1:
        state = await graph.aget_state(config_of(request["thread"]))
        if any(message.id == question.id for message in state.values.get("messages", ())):
            return (None if state.next else _DONE), state.values
    return {"messages": [question]}, {}


def _came_to(values: dict[str, Any]) -> tuple[State, dict[str, Any]]:
    if "__interrupt__" in values:
        return "asking", {"questions": questions_of(values["__interrupt__"])}
    told = ("winner", "selector", "reason", "usage", "shadow")
    selection = {key: values["selection"][key] for key in told if key in values["selection"]}
    return "finished", {"answer": values["messages"][-1].text, "selection": selection}
