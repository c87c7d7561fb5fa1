"""Runs a graph by itself and as rollouts, and compares what comes out: the state but for random ids."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from entcent_agents.effects import EXTERNAL, READ
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.rollouts.isolation import Graph
from entcent_agents.selection import Selection, rank
from entcent_agents.testing import ScriptedTurn

BEST = 2
ROLLOUTS = pytest.mark.parametrize("n", [1, 4])
LIVE_OR_HELD = pytest.mark.parametrize("effect", [READ, EXTERNAL])
"""Run live in every rollout, or held, and run once for the winner."""
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Chosen:
    """A selector that knows whom it wants."""

    name = "chosen"

    def __init__(self, index: int) -> None:
        self.index = index

    def select(self, rollouts: Sequence[Any]) -> Selection:
        return rank(self.name, rollouts, lambda rollout: abs(rollout.index - self.index), what="distance")


def winner_of(n: int) -> int:
    return min(BEST, n - 1)


def committed_of(n: int, settings: dict[str, Any]) -> int:
    return 0 if settings.get("shadow") else winner_of(n)


def scripts(script: Callable[[int], Any]) -> list[Any]:
    """One script a rollout."""
    return [script(index) for index in range(4)]


def says(text: str, *calls: tuple[str, dict[str, Any]]) -> ScriptedTurn:
    return ScriptedTurn(text=text, tool_calls=calls, entropy=[0.1] * 20)


def since_human(messages: Sequence[BaseMessage], name: str | None = None) -> int:
    """How many AI messages, of that name, came after the last human message."""
    said = 0
    for message in messages:
        if message.type == "human":
            said = 0
        elif isinstance(message, AIMessage) and name in (None, message.name):
            said += 1
    return said


def plain(value: Any) -> Any:
    """The same for states that differ in random ids alone: messages without theirs, other ids numbered as met."""
    names: dict[str, str] = {}

    def numbered(match: re.Match[str]) -> str:
        return names.setdefault(match[0], f"id-{len(names)}")

    return json.loads(_UUID.sub(numbered, json.dumps(_without_ids(value), default=dumpd, sort_keys=True)))


def _without_ids(value: Any) -> Any:
    if isinstance(value, BaseMessage):
        return value.model_dump(exclude={"id"})
    if isinstance(value, dict):
        return {key: _without_ids(item) for key, item in value.items() if key not in ("selection", "rollouts")}
    if isinstance(value, list | tuple):
        return [_without_ids(item) for item in value]
    return value


async def assert_same_as_alone(
    agent: Graph,
    requests: Sequence[dict[str, Any]],
    n: int,
    *,
    stores: tuple[Any, Any] = (None, None),
    config: dict[str, Any] | None = None,
    context: Any = None,
    **settings: Any,
) -> dict[str, Any]:
    """Ask both the same, one request after the other in one conversation; returns what the rollouts gave at last."""
    winner = committed_of(n, settings)
    alone = agent.copy({"checkpointer": InMemorySaver(), "store": stores[0]})
    ours = entropy_centroid_graph(
        agent, n=n, selector=Chosen(winner_of(n)), checkpointer=InMemorySaver(), store=stores[1], **settings
    )
    configurable = (config or {}).get("configurable", {})
    there = {**(config or {}), "configurable": {**configurable, "thread_id": f"alone:{winner}"}}
    here = {**(config or {}), "configurable": {**configurable, "thread_id": "ours"}}
    given: dict[str, Any] = {}
    for request in requests:
        expected = await alone.ainvoke(request, there, context=context)
        given = await ours.ainvoke(request, here, context=context)
        assert given["selection"]["winner"] == winner
        assert plain(given) == plain(expected)
        states = [await graph.aget_state(where) for graph, where in ((alone, there), (ours, here))]
        assert plain(states[1].values) == plain(states[0].values)
    return given


async def assert_asks_the_same(
    agent: Graph, answers: list[Any], n: int, turns: int = 2, **settings: Any
) -> tuple[dict[str, Any], list[list[Any]]]:
    """Ask and answer alone and as rollouts: the same questions in the same order, and the same state each time."""
    winner = committed_of(n, settings)
    alone = agent.copy({"checkpointer": InMemorySaver()})
    ours = entropy_centroid_graph(agent, n=n, selector=Chosen(winner_of(n)), checkpointer=InMemorySaver(), **settings)
    there: Any = {"configurable": {"thread_id": f"alone:{winner}"}}
    here: Any = {"configurable": {"thread_id": "ours"}}
    asked: list[list[Any]] = []
    given: dict[str, Any] = {}
    for _ in range(turns):
        for answer in (None, *answers):
            step = [Command(resume=answer) if answer else {"messages": [HumanMessage("go")]} for _ in range(2)]
            expected = await alone.ainvoke(step[0], there)
            given = await ours.ainvoke(step[1], here)
            questions = [[each.value for each in state.pop("__interrupt__", [])] for state in (expected, given)]
            assert questions[1] == questions[0]
            assert plain(given) == plain(expected)
            asked.append(questions[1])
        assert not (await ours.aget_state(here)).next
    return given, asked
