"""Agents that bring a checkpointer, a store or a cache of their own, and those that cannot be run as rollouts."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import CachePolicy

from entcent_agents.errors import ConfigurationError
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.rollouts.isolation import Graph
from entcent_agents.testing import ScriptedChat
from tests.whole_graphs.comparing import ROLLOUTS, Chosen, says, scripts, winner_of

ASK = {"messages": [HumanMessage("go")]}


def answering(**compiled_with: Any) -> Graph:
    model = ScriptedChat(scripts=scripts(lambda i: lambda messages: says(f"answer {i}")))

    async def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("think", think, cache_policy=CachePolicy(key_func=lambda state: "always the same"))
    builder.add_edge(START, "think")
    return builder.compile(**compiled_with)


def around(node: Any) -> Graph:
    builder = StateGraph(MessagesState)
    builder.add_node("inner", node)
    builder.add_edge(START, "inner")
    return builder.compile()


@ROLLOUTS
@pytest.mark.parametrize("nested", [False, True])
async def test_a_cache_of_the_agent_or_of_a_subgraph_gives_no_rollout_what_another_made(n: int, nested: bool):
    cache = InMemoryCache()
    agent = answering(cache=cache)
    graph = entropy_centroid_graph(
        around(agent) if nested else agent, n=n, selector=Chosen(winner_of(n)), max_concurrency=1
    )
    state = await graph.ainvoke(ASK)
    assert state["messages"][-1].text == f"answer {winner_of(n)}"


@ROLLOUTS
@pytest.mark.parametrize("nested", [False, True])
async def test_nothing_is_written_to_a_checkpointer_of_the_agent_or_of_a_subgraph(n: int, nested: bool):
    saver = InMemorySaver()
    agent = answering(checkpointer=saver)
    graph = entropy_centroid_graph(
        around(agent) if nested else agent, n=n, selector=Chosen(winner_of(n)), checkpointer=InMemorySaver()
    )
    await graph.ainvoke(ASK, {"configurable": {"thread_id": "one"}})
    assert [saved async for saved in saver.alist(None)] == []


def test_a_subgraph_that_remembers_by_itself_is_refused():
    with pytest.raises(ConfigurationError, match="subgraph 'inner' keeps a history of its own.*checkpointer=True"):
        entropy_centroid_graph(around(answering(checkpointer=True)))


def test_a_workflow_of_the_functional_api_is_refused_with_the_way_to_use_it():
    @entrypoint()
    def workflow(messages: list[Any]) -> list[Any]:
        return messages

    with pytest.raises(ConfigurationError, match="@entrypoint has no state.*call it in a node"):
        entropy_centroid_graph(workflow)


def test_a_graph_that_runs_elsewhere_is_refused():
    remote = RemoteGraph("agent", url="http://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="'agent' runs on another server"):
        entropy_centroid_graph(remote)
    with pytest.raises(ConfigurationError, match="'inner' runs on another server"):
        entropy_centroid_graph(around(remote))


def test_a_graph_that_is_not_compiled_is_refused():
    with pytest.raises(ConfigurationError, match=r"compile\(\)"):
        entropy_centroid_graph(StateGraph(MessagesState))


def test_an_agent_without_messages_is_refused():
    class Other(dict[str, Any]):
        __annotations__ = {"text": str}

    builder = StateGraph(Other)
    builder.add_node("n", lambda state: {})
    builder.add_edge(START, "n")
    with pytest.raises(ConfigurationError, match="no `messages`; it has text"):
        entropy_centroid_graph(builder.compile())
