"""A grafted thread is the same to its graph, and goes on from where the source stopped."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, StateSnapshot

from entcent_agents.rollouts.journal import NAMESPACE
from entcent_agents.rollouts.store import RolloutStore
from tests.rollouts.stopping import SAID, STOPPING, Graph, Stopping, fan_out_of_deltas

Saver = BaseCheckpointSaver[Any]
SOURCE, TARGET = "source", "target"


def on(thread: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": thread}}


@pytest.fixture(params=STOPPING)
def stopping(request: pytest.FixtureRequest) -> Stopping:
    return STOPPING[request.param]()


def seen(state: Any) -> Any:
    """All that a state, or a configuration, says, but for the name of its thread."""
    if not isinstance(state, StateSnapshot):
        return state and {key: value for key, value in state["configurable"].items() if key != "thread_id"}
    tasks = [(t.id, t.name, t.path, t.error, t.interrupts, t.result, seen(t.state)) for t in state.tasks]
    where = [seen(state.config), seen(state.parent_config)]
    return state.values, state.next, state.interrupts, tasks, where, state.created_at, state.metadata


async def state_of(graph: Graph, thread: str) -> Any:
    return seen(await graph.aget_state(on(thread), subgraphs=True))


async def history_of(graph: Graph, thread: str) -> list[Any]:
    return [seen(state) async for state in graph.aget_state_history(on(thread))]


async def stored(saver: Saver, thread: str) -> list[Any]:
    """All that the saver has of the agent, but for the name of the thread."""
    listed = [found async for found in saver.alist(on(thread))]
    rows = [
        (seen(found.config), seen(found.parent_config), found.checkpoint, found.metadata, found.pending_writes)
        for found in sorted(listed, key=lambda found: found.checkpoint["id"])
    ]
    return [row for row in rows if row[0]["checkpoint_ns"] != NAMESPACE]


async def go_on(graph: Graph, thread: str) -> Any:
    """Answer all that is asked, each by its id; go on from breakpoints."""
    while (state := await graph.aget_state(on(thread))).next:
        answers = {asked.id: "yes" for asked in state.interrupts}
        await graph.ainvoke(Command(resume=answers) if answers else None, on(thread))
    return state.values


async def begun_and_stopped(store: RolloutStore, stopping: Stopping) -> Graph:
    graph = stopping.graph(store.saver)
    await store.begin(SOURCE, {})
    await graph.ainvoke(stopping.given, on(SOURCE))
    assert (await graph.aget_state(on(SOURCE))).next
    return graph


async def test_a_graft_is_in_the_state_of_its_source(saver: Saver, stopping: Stopping):
    store = RolloutStore(saver)
    graph = await begun_and_stopped(store, stopping)
    await store.begin(TARGET, {}, source=SOURCE)
    assert await stored(saver, TARGET) == await stored(saver, SOURCE) != []
    assert await state_of(graph, TARGET) == await state_of(graph, SOURCE)
    assert await history_of(graph, TARGET) == await history_of(graph, SOURCE)


async def test_a_graft_goes_on_and_repeats_nothing_that_is_done(saver: Saver, stopping: Stopping):
    store = RolloutStore(saver)
    graph = await begun_and_stopped(store, stopping)
    await store.begin(TARGET, {}, source=SOURCE)
    before = await state_of(graph, SOURCE)
    went_on = await go_on(graph, TARGET)
    assert stopping.ran == stopping.resumed
    assert await state_of(graph, SOURCE) == before
    assert _words(await go_on(graph, SOURCE)) == _words(went_on)


async def test_a_graft_of_a_graft_goes_on_too(saver: Saver, stopping: Stopping):
    store = RolloutStore(saver)
    graph = await begun_and_stopped(store, stopping)
    await store.begin("between", {}, source=SOURCE)
    await store.begin(TARGET, {}, source="between")
    await store.forget(SOURCE)
    await store.forget("between")
    went_on = await go_on(graph, TARGET)
    assert stopping.ran == stopping.resumed
    # What it came to is what another process reads.
    assert _words((await stopping.graph(saver).aget_state(on(TARGET))).values) == _words(went_on)


async def test_a_finished_graft_has_the_history_that_its_source_comes_to(saver: Saver, stopping: Stopping):
    store = RolloutStore(saver)
    graph = await begun_and_stopped(store, stopping)
    await store.begin(TARGET, {}, source=SOURCE)
    await go_on(graph, TARGET)
    await go_on(graph, SOURCE)
    histories = [
        [_words(state.values) async for state in graph.aget_state_history(on(thread))] for thread in (SOURCE, TARGET)
    ]
    assert histories[0] == histories[1]


async def test_what_was_answered_before_the_graft_stays_answered(saver: Saver):
    stopping = STOPPING["parallel calls"]()
    store = RolloutStore(saver)
    graph = await begun_and_stopped(store, stopping)
    first, second = (await graph.aget_state(on(SOURCE))).interrupts
    await graph.ainvoke(Command(resume={first.id: "yes"}), on(SOURCE))
    assert stopping.ran["paid"] == 1
    await store.begin(TARGET, {}, source=SOURCE)
    assert await state_of(graph, TARGET) == await state_of(graph, SOURCE)
    assert (await graph.aget_state(on(TARGET))).interrupts == (second,)
    await go_on(graph, TARGET)
    assert stopping.ran["paid"] == 2


class Numbering(InMemorySaver):
    """A saver that counts versions, as LangGraph's base class does: every graph of a thread counts from one."""

    def get_next_version(self, current: Any, channel: None) -> Any:
        return (current or 0) + 1


@pytest.mark.parametrize("name", ["subgraph", "subgraph in a function", "parallel calls"])
async def test_savers_may_number_versions_as_they_like(name: str):
    stopping = STOPPING[name]()
    store = RolloutStore(Numbering())
    graph = await begun_and_stopped(store, stopping)
    await store.begin(TARGET, {}, source=SOURCE)
    assert await stored(store.saver, TARGET) == await stored(store.saver, SOURCE)
    await go_on(graph, TARGET)
    assert stopping.ran == stopping.resumed


async def test_deltas_of_tasks_that_were_held_follow_those_of_tasks_that_were_done(saver: Saver):
    # Savers do not tell the paths of tasks, by which LangGraph would put the held one in its place.
    stopping = Stopping(partial(fan_out_of_deltas, asks=1), SAID, {})
    store = RolloutStore(saver)
    graph = await begun_and_stopped(store, stopping)
    await store.begin(TARGET, {}, source=SOURCE)
    said = {thread: (await go_on(graph, thread))["said"] for thread in (SOURCE, TARGET)}
    assert said[SOURCE][2:6] == ["item 0", "item 1", "item 2", "item 3"]
    assert said[TARGET][2:6] == ["item 0", "item 2", "item 3", "item 1"]


def _words(values: dict[str, Any]) -> list[str]:
    return [*values.get("said", ()), *(str(message.text) for message in values.get("messages", ()))]
