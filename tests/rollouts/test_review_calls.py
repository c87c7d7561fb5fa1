"""External calls in graphs that make it hard to make them once."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_tool_call
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, RetryPolicy, interrupt

from entcent_agents.effects import READ
from entcent_agents.errors import EffectError, RolloutsFailedError
from entcent_agents.nodes import guarded
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.rollouts import hooks
from entcent_agents.testing import ScriptedChat
from tests.rollouts.worlds import ASK, World, turn

CONFIG: Any = {"configurable": {"thread_id": "t"}, "recursion_limit": 12}


async def test_an_external_tool_that_asks_a_person_acts_once_on_the_answer():
    booked: list[str] = []

    @tool
    async def book(hotel: str) -> str:
        """Book, after a question."""
        if interrupt(f"book {hotel}?") == "yes":
            booked.append(hotel)
        return f"booked {hotel}"

    scripts = [[turn("", ("book", {"hotel": f"{i}"}), early=i == 1), turn(f"done {i}")] for i in range(3)]
    agent = create_agent(ScriptedChat(scripts=scripts), [book])
    graph = entropy_centroid_graph(agent, n=3, checkpointer=InMemorySaver())
    asked = await graph.ainvoke(ASK, CONFIG)
    assert [each.value for each in asked["__interrupt__"]] == ["book 1?"]
    result = await graph.ainvoke(Command(resume="yes"), CONFIG)
    assert "__interrupt__" not in result
    assert booked == ["1"]
    assert result["messages"][2].content == "booked 1"


def with_a_subgraph_that_keeps_no_checkpoints(world: World, call: tuple[str, dict[str, Any]]):
    inner = create_agent(ScriptedChat(scripts=[[turn("", call), turn("inner")]]), world.tools[:2], checkpointer=False)
    builder = StateGraph(MessagesState)
    builder.add_node("inner", inner)
    builder.add_edge(START, "inner")
    return builder.compile()


async def test_a_subgraph_that_keeps_no_checkpoints_may_read(world: World):
    agent = with_a_subgraph_that_keeps_no_checkpoints(world, ("look", {"x": 1}))
    result = await entropy_centroid_graph(agent, n=2, effects={"look": READ}).ainvoke(ASK)
    assert result["messages"][-1].text == "inner"


async def test_a_subgraph_that_could_not_go_on_from_a_held_call_is_refused_it(world: World):
    agent = with_a_subgraph_that_keeps_no_checkpoints(world, ("send", {"to": "x"}))
    with pytest.raises(EffectError, match="a node called the tool 'send'"):
        await entropy_centroid_graph(agent, n=2, on_unscorable="fallback").ainvoke(ASK)
    assert world.sent == []


async def test_a_call_that_is_another_whenever_its_node_runs_is_not_held_for_ever(world: World):
    send = guarded(world.tools[0])

    async def act(state: MessagesState):
        return {"messages": [AIMessage(str(await send.ainvoke({"to": uuid4().hex})))]}

    builder = StateGraph(MessagesState)
    builder.add_node("act", act)
    builder.add_edge(START, "act")
    with pytest.raises(RolloutsFailedError, match="gets its arguments from the state"):
        await entropy_centroid_graph(builder.compile(), n=2, on_unscorable="fallback").ainvoke(ASK)
    assert world.sent == []


async def test_rollouts_inside_a_rollout_make_nothing_real(world: World):
    inner_scripts = [[turn("", ("send", {"to": "x"})), turn(f"inner {i}")] for i in range(2)]
    inner = entropy_centroid_graph(create_agent(ScriptedChat(scripts=inner_scripts), world.tools[:1]), n=2)
    builder = StateGraph(MessagesState)
    builder.add_node("inner", inner)
    builder.add_edge(START, "inner")
    with pytest.raises(EffectError, match="inside a rollout"):
        await entropy_centroid_graph(builder.compile(), n=2).ainvoke(ASK)
    assert world.sent == []


async def test_an_approved_call_that_runs_rollouts_makes_real_what_their_winner_does(world: World):
    inner_scripts = [[turn("", ("send", {"to": f"{i}"}), early=i == 1), turn(f"inner {i}")] for i in range(3)]
    inner = entropy_centroid_graph(create_agent(ScriptedChat(scripts=inner_scripts), world.tools[:1]), n=3)

    @tool
    async def delegate(task: str) -> str:
        """Have another agent do it."""
        return (await inner.ainvoke({"messages": [HumanMessage(task)]}))["messages"][-1].text

    scripts = [[turn("", ("delegate", {"task": "?"})), turn(f"done {i}")] for i in range(2)]
    agent = create_agent(ScriptedChat(scripts=scripts), [delegate])
    result = await entropy_centroid_graph(agent, n=2).ainvoke(ASK)
    assert world.sent == ["1"]
    assert result["messages"][2].content.startswith("inner")


async def test_a_node_that_is_run_again_does_not_repeat_its_external_call(world: World):
    send = guarded(world.tools[0])
    tries: list[int] = []

    async def act(state: MessagesState):
        await send.ainvoke({"to": "x"})
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError("once")
        return {"messages": [AIMessage("done")]}

    builder = StateGraph(MessagesState)
    builder.add_node("act", act, retry_policy=RetryPolicy(initial_interval=0.01))
    builder.add_edge(START, "act")
    await entropy_centroid_graph(builder.compile(), n=1, on_unscorable="fallback").ainvoke(ASK)
    assert world.sent == ["x"]


async def test_sync_nodes_that_run_agents_do_not_wait_for_each_others_threads(world: World):
    @tool
    def peek(x: int) -> str:
        """Look, synchronously."""
        return f"peeked at {x}"

    scripts = [[turn("", ("peek", {"x": i})), turn("inner")] for i in range(4)]
    inner = create_agent(ScriptedChat(scripts=scripts), [peek])

    def act(state: MessagesState):
        return inner.invoke({"messages": state["messages"]})

    builder = StateGraph(MessagesState)
    builder.add_node("act", act)
    builder.add_edge(START, "act")
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
    graph = entropy_centroid_graph(builder.compile(), n=4, effects={"peek": READ})
    result = await asyncio.wait_for(graph.ainvoke(ASK), 60)
    assert result["messages"][-1].text == "inner"


async def test_a_tool_that_middleware_puts_in_the_place_of_another_is_taken_for_what_it_is(world: World):
    @wrap_tool_call
    async def other(request: Any, handler: Any):
        return await handler(request.override(tool=world.tools[0]))

    @tool
    async def pretend(to: str) -> str:
        """Change nothing."""
        return to

    scripts = [[turn("", ("pretend", {"to": f"{i}"}), early=i == 1), turn(f"done {i}")] for i in range(3)]
    agent = create_agent(ScriptedChat(scripts=scripts), [pretend], middleware=[other])
    await entropy_centroid_graph(agent, n=3, effects={"pretend": READ}).ainvoke(ASK)
    assert world.sent == ["1"]


async def test_a_coroutine_that_blocks_the_loop_with_an_agent_may_read_and_no_more(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hooks, "_LONGEST_BLOCK_SECONDS", 0.2)

    @tool
    def peek(x: int) -> str:
        """Look, synchronously."""
        return f"peeked at {x}"

    inner = create_agent(ScriptedChat(scripts=[[turn("", ("peek", {"x": 1})), turn("inner")]]), [peek])

    async def act(state: MessagesState):
        return inner.invoke({"messages": state["messages"]})

    builder = StateGraph(MessagesState)
    builder.add_node("act", act)
    builder.add_edge(START, "act")
    agent = builder.compile()
    result = await entropy_centroid_graph(agent, n=2, effects={"peek": READ}).ainvoke(ASK)
    assert result["messages"][-1].text == "inner"
    with pytest.raises(EffectError, match="ainvoke instead of invoke"):
        await entropy_centroid_graph(agent, n=2).ainvoke(ASK)
