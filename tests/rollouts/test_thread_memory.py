"""The saver of rollouts in memory: a saver like any other, that forgets a thread without looking at the others."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from entcent_agents.nodes import EntropyCentroidSelector, ParallelRollouts
from entcent_agents.rollouts.memory import ThreadMemory
from entcent_agents.testing import ScriptedChat, ScriptedTurn


class State(TypedDict):
    said: Annotated[list[str], lambda old, new: old + new]


def counting(saver: InMemorySaver) -> Any:
    builder = StateGraph(State)
    builder.add_node("one", lambda state: {"said": ["one"]})
    builder.add_node("two", lambda state: {"said": ["two"]})
    builder.add_edge(START, "one").add_edge("one", "two")
    return builder.compile(checkpointer=saver)


def on(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


async def test_it_keeps_what_langgraphs_own_keeps():
    histories: list[Any] = []
    for saver in (InMemorySaver(), ThreadMemory()):
        graph = counting(saver)
        await graph.ainvoke({"said": ["go"]}, on("a"))
        histories.append([(each.values, each.next) async for each in graph.aget_state_history(on("a"))])
    assert histories[0] == histories[1] and len(histories[0]) == 4


async def test_a_thread_that_is_forgotten_leaves_nothing_and_the_others_whole():
    saver = ThreadMemory()
    graph = counting(saver)
    await graph.ainvoke({"said": ["go"]}, on("stays"))
    kept = [len(saver.storage), len(saver.writes), len(saver.blobs)]
    await graph.ainvoke({"said": ["go"]}, on("goes"))
    assert len(saver.blobs) > kept[2]
    await saver.adelete_thread("goes")
    assert [len(saver.storage), len(saver.writes), len(saver.blobs)] == kept
    assert (await graph.aget_state(on("stays"))).values == {"said": ["go", "one", "two"]}
    assert (await graph.aget_state(on("goes"))).created_at is None


async def test_a_thread_that_was_forgotten_may_begin_again_and_be_forgotten_again():
    saver = ThreadMemory()
    for _ in range(2):
        assert (await counting(saver).ainvoke({"said": []}, on("again")))["said"] == ["one", "two"]
        await saver.adelete_thread("again")
        await saver.adelete_thread("again")
    assert not saver.writes and not saver.blobs


async def test_a_request_that_is_over_leaves_nothing_in_the_memory_of_its_rollouts():
    model = ScriptedChat(scripts=[[ScriptedTurn(text="Hi", entropy=[0.5, 1.0])]])
    rollouts = ParallelRollouts(create_agent(model, []), n=3)
    builder = StateGraph(MessagesState).add_node("rollouts", rollouts)
    builder.add_node("select", EntropyCentroidSelector(rollouts))
    graph = builder.add_edge(START, "rollouts").add_edge("rollouts", "select").compile()
    for _ in range(2):
        assert (await graph.ainvoke({"messages": [("user", "Hello")]}))["messages"][-1].text == "Hi"
    memory = rollouts.store.saver
    assert isinstance(memory, ThreadMemory)
    assert not memory.storage and not memory.writes and not memory.blobs
