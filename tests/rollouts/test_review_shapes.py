"""Shapes of calls and of their results, and rounds on rounds."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command

from entcent_agents.effects import EXTERNAL, READ
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.testing import ScriptedChat
from tests.rollouts.test_resumed import durable
from tests.rollouts.worlds import ASK, World, turn

CONFIG: Any = {"configurable": {"thread_id": "t"}, "recursion_limit": 30}


async def test_decisions_about_several_calls_reach_each_of_them(world: World):
    calls = [("send", {"to": "a"}), ("send", {"to": "b"}), ("look", {"x": 1}), ("send", {"to": "c"})]
    scripts = [[turn("", *calls), turn(f"done {i}")] for i in range(2)]
    agent = create_agent(
        ScriptedChat(scripts=scripts), world.tools, middleware=[HumanInTheLoopMiddleware(interrupt_on={"send": True})]
    )
    graph = entropy_centroid_graph(
        agent, n=2, effects={"send": EXTERNAL, "look": READ, "confirm": READ}, checkpointer=InMemorySaver()
    )
    asked = await graph.ainvoke(ASK, CONFIG)
    (_request,) = asked["__interrupt__"]
    decisions = [
        {"type": "approve"},
        {"type": "reject"},
        {"type": "edit", "edited_action": {"name": "send", "args": {"to": "z"}}},
    ]
    await graph.ainvoke(Command(resume={"decisions": decisions}), CONFIG)
    assert sorted(world.sent) == ["a", "z"]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("room", [1, None])
async def test_every_round_makes_its_calls_once_and_nothing_is_left(world: World, n: int, room: Any, tmp_path: Path):
    scripts = [
        [
            turn("", ("send", {"to": "a"})),
            turn("", ("send", {"to": "b"}), ("confirm", {"question": "?"})),
            turn("", ("send", {"to": "c"}), ("send", {"to": "c"})),
            turn("done"),
        ]
        for i in range(n)
    ]
    agent = create_agent(ScriptedChat(scripts=scripts), world.tools)
    async with durable(tmp_path) as settings:
        graph = entropy_centroid_graph(
            agent, n=n, max_concurrency=room, effects={"look": READ, "confirm": READ}, **settings
        )
        asked = await graph.ainvoke(ASK, CONFIG)
        assert asked["__interrupt__"]
        assert world.sent == ["a"]
        result = await graph.ainvoke(Command(resume="yes"), CONFIG)
        left = [found async for found in settings["rollout_checkpointer"].alist(None)]
    assert world.sent == ["a", "b", "c", "c"]
    assert left == []
    assert [message.type for message in result["messages"]] == [
        "human",
        "ai",
        "tool",
        "ai",
        "tool",
        "tool",
        "ai",
        "tool",
        "tool",
        "ai",
    ]


async def test_two_processes_that_resume_at_once_make_an_approved_call_once(world: World, tmp_path: Path):
    scripts = [[turn("", ("send", {"to": "c"}), ("confirm", {"question": "?"})), turn("done")]]
    agent = create_agent(ScriptedChat(scripts=scripts), world.tools)
    async with durable(tmp_path) as settings, durable(tmp_path) as other:
        graphs = [
            entropy_centroid_graph(agent, n=2, effects={"look": READ, "confirm": READ}, **each)
            for each in (settings, other)
        ]
        await graphs[0].ainvoke(ASK, CONFIG)
        results = await asyncio.gather(
            *(graph.ainvoke(Command(resume="yes"), CONFIG) for graph in graphs), return_exceptions=True
        )
    assert any(isinstance(result, dict) and result["messages"][-1].text == "done" for result in results)
    assert world.sent == ["c"]


async def test_an_external_tool_may_send_the_graph_elsewhere(world: World):
    @tool
    async def hop(runtime: Any = None) -> Command:
        """Hop."""
        world.sent.append("hop")
        return Command(goto="other", update={"messages": [ToolMessage("hopped", tool_call_id="call")]}, graph=None)

    model = ScriptedChat(scripts=[[turn("", ("hop", {})), turn("done")]])

    async def call_model(state: MessagesState):
        message = await model.ainvoke(state["messages"])
        for call in message.tool_calls:
            call["id"] = "call"
        return {"messages": [message]}

    async def other(state: MessagesState):
        return {"messages": [AIMessage("other was here")]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", call_model)
    builder.add_node("tools", ToolNode([hop]))
    builder.add_node("other", other)
    builder.add_edge(START, "model")
    builder.add_edge("model", "tools")
    builder.add_edge("other", END)
    result = await entropy_centroid_graph(builder.compile(), n=2).ainvoke(ASK)
    assert world.sent == ["hop"]
    assert [message.text for message in result["messages"]][-2:] == ["hopped", "other was here"]


async def test_artifacts_and_direct_returns_of_external_tools_come_through(world: World):
    class Odd:
        """What no serialiser knows."""

    @tool(response_format="content_and_artifact")
    async def pay(x: int):
        """Pay"""
        world.sent.append("x")
        return "paid", {"receipt": 1}

    @tool(response_format="content_and_artifact")
    async def pay2(x: int):
        """Pay"""
        world.sent.append("y")
        return "paid2", Odd()

    @tool(return_direct=True)
    async def pay3(x: int):
        """Pay"""
        world.sent.append("z")
        return "paid3"

    scripts = [[turn("", ("pay", {"x": 1}), ("pay2", {"x": 1})), turn("", ("pay3", {"x": 1})), turn("never")]]
    result = await entropy_centroid_graph(create_agent(ScriptedChat(scripts=scripts), [pay, pay2, pay3]), n=2).ainvoke(
        ASK
    )
    assert sorted(world.sent) == ["x", "y", "z"]
    assert [message.artifact for message in result["messages"][2:4]] == [{"receipt": 1}, None]
    assert [message.text for message in result["messages"]][2:4] == ["paid", "paid2"]
    assert result["messages"][-1].text == "paid3"


async def test_a_tool_that_middleware_adds_is_held(world: World):
    class Dynamic(AgentMiddleware):
        async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
            if request.tool_call["name"] == "send":
                return await handler(request.override(tool=world.tools[0]))
            return await handler(request)

    scripts = [[turn("", ("send", {"to": f"{i}"}), early=i == 1), turn(f"done {i}")] for i in range(3)]
    agent = create_agent(ScriptedChat(scripts=scripts), world.tools[1:2], middleware=[Dynamic()])
    await entropy_centroid_graph(agent, n=3, effects={"look": READ}).ainvoke(ASK)
    assert world.sent == ["1"]
