"""Where budgets, deadlines, fallbacks, streams and spans meet."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, closing, suppress
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph

from entcent_agents.budget import Budget
from entcent_agents.effects import WRITE
from entcent_agents.environments import MemoryEnvironment, current_environment
from entcent_agents.errors import ConfigurationError
from entcent_agents.nodes import Retries
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.testing import ScriptedChat, ScriptedTurn

ASK = {"messages": [HumanMessage("go")]}


@tool
async def note() -> str:
    """Note something."""
    current_environment().value["noted"] = True
    return "noted"


NOTES = ScriptedTurn(text="t", tool_calls=[("note", {})])
DONE = ScriptedTurn(text="done", entropy=[0.1] * 3)
SLOW = ScriptedTurn(text="late", delay_seconds=30)
FAILS = ScriptedTurn(error=RuntimeError("no answer"))


def noting(environment: MemoryEnvironment, scripts: list[list[ScriptedTurn]], **settings: Any) -> Any:
    settings = {"n": 2, "retries": Retries(attempts=1), "on_unscorable": "fallback", **settings}
    agent = create_agent(ScriptedChat(scripts=scripts), [note])
    return entropy_centroid_graph(agent, effects={"note": WRITE}, environments=[environment], **settings)


# Call limits


@pytest.mark.parametrize("gate", [{}, {"max_tokens": 100_000}], ids=["no gate", "gate"])
@pytest.mark.parametrize("gives_up", ["wait_for", "task"])
async def test_a_call_that_the_agent_itself_gave_up_has_no_limit_any_more(flying, gate, gives_up):
    slow, quick = ScriptedChat(scripts=[[SLOW]]), ScriptedChat(scripts=[[DONE]])
    slow, quick = (model.bind(max_tokens=10) for model in (slow, quick))
    tries = []

    async def ask(state: MessagesState):
        tries.append(1)
        call = asyncio.ensure_future(slow.ainvoke(state["messages"]))
        if gives_up == "wait_for":
            with suppress(TimeoutError):
                await asyncio.wait_for(call, 5)
        else:
            await asyncio.wait([call], timeout=5)
            call.cancel()
        answer = await quick.ainvoke(state["messages"])
        await asyncio.sleep(60)
        return {"messages": [answer]}

    agent = StateGraph(MessagesState).add_node(ask).add_edge(START, "ask").compile()
    graph = entropy_centroid_graph(
        agent, n=1, retries=Retries(attempts=1), budget=Budget(max_seconds_per_call=40, **gate)
    )
    assert (await graph.ainvoke(ASK))["messages"][-1].text == "done"
    assert len(tries) == 1


async def test_a_stream_that_the_agent_reads_no_further_has_no_limit_any_more(flying):
    model = ScriptedChat(scripts=[[DONE]])

    async def ask(state: MessagesState):
        async with aclosing(model.astream(state["messages"])) as stream:
            async for _ in stream:
                break
        answer = await model.ainvoke(state["messages"])
        await asyncio.sleep(60)
        return {"messages": [answer]}

    agent = StateGraph(MessagesState).add_node(ask).add_edge(START, "ask").compile()
    graph = entropy_centroid_graph(agent, n=1, retries=Retries(attempts=1), budget=Budget(max_seconds_per_call=40))
    assert (await graph.ainvoke(ASK))["messages"][-1].text == "done"


# Streams


async def test_closing_the_stream_ends_the_rollouts_before_it_returns():
    environment = MemoryEnvironment({})
    graph = noting(environment, [[NOTES, SLOW]])
    before = asyncio.all_tasks()
    async with aclosing(graph.astream(ASK, stream_mode="custom")) as stream:
        async for event in stream:
            if event.get("state") == "tool":
                break
    assert environment.forks == {}
    assert asyncio.all_tasks() == before


async def test_who_stops_listening_leaves_nothing_wherever_each_chunk_was_waited_for():
    environment = MemoryEnvironment({})
    stream = noting(environment, [[NOTES, DONE]]).astream(ASK, stream_mode=["values", "updates"])
    while (await asyncio.create_task(anext(stream)))[0] != "updates":
        pass
    assert len(environment.forks) == 2
    await asyncio.create_task(stream.aclose())
    assert environment.forks == {}


def test_who_stops_listening_to_a_synchronous_stream_leaves_nothing_either():
    environment = MemoryEnvironment({})
    with closing(noting(environment, [[NOTES, DONE]]).stream(ASK, stream_mode="updates")) as stream:
        assert [*next(stream)] == ["rollouts"]
        assert len(environment.forks) == 2
    assert environment.forks == {}


# Plain runs


@pytest.mark.parametrize("stop", ["cancelled", "programming error"])
async def test_a_plain_run_that_is_stopped_leaves_nothing_of_the_rollouts_before_it(stop):
    environment = MemoryEnvironment({})
    last = SLOW if stop == "cancelled" else ScriptedTurn(error=ConfigurationError("this agent cannot work"))
    asked = asyncio.Event()

    def plainly(messages: Any) -> ScriptedTurn:
        asked.set()
        return last

    scripts: Any = [[NOTES, DONE], [FAILS], plainly]
    graph = noting(environment, scripts, min_finished=2, on_unavailable="single")
    request = asyncio.create_task(graph.ainvoke(ASK))
    await asked.wait()
    if stop == "cancelled":
        request.cancel()
    with pytest.raises((asyncio.CancelledError, ConfigurationError)):
        await request
    assert environment.forks == {}
    assert not graph.nodes["rollouts"].bound.store.saver.storage
