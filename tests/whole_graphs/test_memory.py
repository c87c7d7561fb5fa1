"""Long-term memory: a store that tools and nodes read, write, search and delete from; losers' writes reach nobody."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.config import get_store
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolRuntime
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore

from entcent_agents.effects import EXTERNAL, READ
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.testing import ScriptedChat
from tests.whole_graphs.comparing import (
    ROLLOUTS,
    Chosen,
    assert_same_as_alone,
    says,
    scripts,
    since_human,
    winner_of,
)

NOTES = ("notes", "ann")


@tool
async def remember(note: str, runtime: ToolRuntime) -> str:
    """Write a note."""
    assert runtime.store is not None
    await runtime.store.aput(NOTES, note, {"text": note, "length": len(note)}, index=["text"])
    return "noted"


@tool
async def recall(runtime: ToolRuntime) -> str:
    """Read all notes that are long enough."""
    assert runtime.store is not None
    found = await runtime.store.asearch(("notes",), filter={"length": {"$gt": 3}}, query="note")
    return ", ".join(sorted(item.key for item in found))


@tool
async def forget(note: str, runtime: ToolRuntime) -> str:
    """Delete a note."""
    assert runtime.store is not None
    await runtime.store.adelete(NOTES, note)
    return "forgotten"


EFFECTS = {"remember": READ, "recall": READ, "forget": READ}
HELD = {"remember": EXTERNAL, "recall": READ, "forget": EXTERNAL}


def embedded(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), 1.0] for text in texts]


def notebook() -> BaseStore:
    store = InMemoryStore(index={"dims": 2, "embed": embedded, "fields": ["other"]})
    store.put(NOTES, "old note", {"text": "old note", "length": 8})
    store.put(NOTES, "gone", {"text": "gone", "length": 4})
    return store


def contents(store: BaseStore) -> dict[str, Any]:
    return {item.key: (item.value, item.namespace) for item in store.search((), limit=100)}


def remembering_graph():
    def writes(index: int):
        turns = [
            says("a", ("remember", {"note": f"note {index}"}), ("remember", {"note": "x"})),
            says("b", ("forget", {"note": "gone"})),
            says("c", ("recall", {})),
            says(f"answer {index}"),
        ]
        return lambda messages: turns[since_human(messages)]

    agent = create_agent(ScriptedChat(scripts=scripts(writes)), [remember, recall, forget])

    async def count(state: MessagesState, runtime: Runtime[Any]) -> dict[str, Any]:
        assert runtime.store is not None
        item = await runtime.store.aget(("counts",), "visits")
        visits = (item.value["visits"] if item else 0) + 1
        await runtime.store.aput(("counts",), "visits", {"visits": visits})
        return {}

    builder = StateGraph(MessagesState)
    builder.add_node("agent", agent)
    builder.add_node("count", count)
    builder.add_edge(START, "agent")
    builder.add_edge("agent", "count")
    builder.add_edge("count", END)
    return builder.compile()


@ROLLOUTS
@pytest.mark.parametrize("effects", [EFFECTS, HELD])
async def test_what_the_winner_remembers_is_in_the_store_as_if_it_had_run_alone(n: int, effects: dict[str, Any]):
    stores = notebook(), notebook()
    requests = [{"messages": [HumanMessage("first")]}, {"messages": [HumanMessage("second")]}]
    state = await assert_same_as_alone(remembering_graph(), requests, n, stores=stores, effects=effects)
    assert contents(stores[1]) == contents(stores[0])
    assert stores[1].get(("counts",), "visits").value == {"visits": 2}
    read = [message.text for message in state["messages"] if getattr(message, "name", "") == "recall"]
    assert read == [f"note {winner_of(n)}, old note"] * 2


@ROLLOUTS
async def test_the_store_an_agent_was_compiled_with_is_the_one_that_is_written(n: int):
    store = notebook()
    agent = remembering_graph().copy({"store": store})
    await entropy_centroid_graph(agent, n=n, selector=Chosen(winner_of(n)), effects=EFFECTS).ainvoke(
        {"messages": [HumanMessage("first")]}
    )
    assert f"note {winner_of(n)}" in contents(store) and store.get(("counts",), "visits").value == {"visits": 1}
    assert sum(key.startswith("note ") for key in contents(store)) == 1


@ROLLOUTS
async def test_a_note_is_indexed_as_the_tool_asked_for(n: int):
    stores = notebook(), notebook()
    requests = [{"messages": [HumanMessage("first")]}]
    await assert_same_as_alone(remembering_graph(), requests, n, stores=stores, effects=EFFECTS)
    scores = [
        {item.key: item.score for item in store.search(NOTES, query=f"note {winner_of(n)}", limit=9)}
        for store in stores
    ]
    assert scores[1] == scores[0]
    assert scores[1][f"note {winner_of(n)}"] is not None and scores[1]["old note"] is None


@tool
async def note(text: str) -> str:
    """Write a note and read what is there, with the store that LangGraph hands down."""
    store = get_store()
    before = [item.key for item in await store.asearch(("own",))]
    await store.aput(("own",), text, {"text": text})
    return f"before: {before}"


@ROLLOUTS
async def test_equal_calls_of_a_tool_that_finds_the_store_by_itself_are_made_in_every_rollout(n: int):
    def notes(index: int):
        turns = [says("a", ("note", {"text": f"n{index}"})), says("b", ("note", {"text": "same"})), says("done")]
        return lambda messages: turns[since_human(messages)]

    stores = InMemoryStore(), InMemoryStore()
    agent = create_agent(ScriptedChat(scripts=scripts(notes)), [note])
    requests = [{"messages": [HumanMessage("first")]}]
    state = await assert_same_as_alone(agent, requests, n, stores=stores, effects={"note": READ})
    assert contents(stores[1]) == contents(stores[0])
    assert state["messages"][-2].text == f"before: ['n{winner_of(n)}']"
