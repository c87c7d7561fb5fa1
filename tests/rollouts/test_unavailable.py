"""When too many rollouts fail: one plain run in their place, if that is wanted."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver

from entcent_agents.errors import RolloutsFailedError
from entcent_agents.nodes import Retries
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from tests.rollouts.worlds import ASK, World, turn

FAILING = [ScriptedTurn(error=RuntimeError("no answer"))]


def graph_of(world: World, scripts: list[list[ScriptedTurn]], **settings: Any):
    agent = create_agent(ScriptedChat(scripts=scripts), world.tools)
    return entropy_centroid_graph(agent, n=2, retries=Retries(attempts=1), **settings)


async def test_one_plain_run_takes_their_place_under_the_same_rules(world: World):
    plain = [ScriptedTurn(tool_calls=[("send", {"to": "x"})]), ScriptedTurn(text="plain")]
    graph = graph_of(world, [FAILING, FAILING, plain], on_unavailable="single")
    result = await graph.ainvoke(ASK)  # after its external call the others fail again
    assert world.sent == ["x"]
    assert result["messages"][-1].text == "plain"


async def test_without_log_probabilities_it_is_taken_all_the_same(world: World):
    graph = graph_of(world, [FAILING, FAILING, [ScriptedTurn(text="plain")]], on_unavailable="single")
    result = await graph.ainvoke(ASK)
    assert result["messages"][-1].text == "plain"
    assert result["selection"]["reason"].startswith("too many rollouts failed, and this is one plain run")


async def test_if_that_fails_too_all_errors_are_told(world: World):
    graph = graph_of(world, [FAILING, FAILING, [ScriptedTurn(error=ValueError("nor now"))]], on_unavailable="single")
    with pytest.raises(RolloutsFailedError, match=r"0 of 3 rollouts finished.*no answer; ValueError: nor now"):
        await graph.ainvoke(ASK)


async def test_by_default_it_is_an_error(world: World):
    with pytest.raises(RolloutsFailedError, match="0 of 2 rollouts finished, 1 needed, nothing was changed"):
        await graph_of(world, [FAILING, FAILING, [turn("plain")]]).ainvoke(ASK)


async def test_an_error_after_an_external_call_says_so_and_the_round_can_be_tried_again(world: World):
    last = [ScriptedTurn(error=RuntimeError("no answer"))]
    turns = {1: turn("", ("send", {"to": "x"})), 3: turn("done")}
    agent = create_agent(
        ScriptedChat(scripts=[lambda said: last[0] if last and said[2:] else turns[len(said)]]), world.tools
    )
    graph = entropy_centroid_graph(agent, n=2, retries=Retries(attempts=1), checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    said = "nothing else was changed since the last commit, but send was called, which stays on record"
    for _ in range(2):
        with pytest.raises(RolloutsFailedError, match=said):
            await graph.ainvoke(ASK if not world.sent else None, config)
    last.clear()
    result = await graph.ainvoke(None, config)
    assert world.sent == ["x"]
    assert result["messages"][-1].text == "done"
