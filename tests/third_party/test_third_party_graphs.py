"""What is promised, on graphs that nobody here wrote: as they are run alone, and no trace of a loser."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command
from langgraph_supervisor import create_supervisor
from langgraph_swarm import create_swarm

from entcent_agents.prebuilt import entropy_centroid_graph
from tests.third_party.pairs import PAIRS, Pair
from tests.third_party.saying import BEST, ROLLOUTS
from tests.third_party.supervisor import scripted
from tests.third_party.swarm import scripted as swarm_scripted
from tests.whole_graphs.comparing import ROLLOUTS as ONE_OR_FOUR
from tests.whole_graphs.comparing import assert_same_as_alone, winner_of

# Packages that are built on what LangGraph has moved elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
MODES = ["values", "updates", "messages", "custom", "tasks", "checkpoints", "debug"]
CONFIG: Any = {"configurable": {"thread_id": "one"}}
EVERY = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


def asked(text: str) -> dict[str, Any]:
    return {"messages": [HumanMessage(text)]}


def graph_in(script: dict[str, Any]) -> Any:
    """The graph itself; trustcall's is in a sequence of what prepares its input and reads its output."""
    return getattr(script["app"], "steps", [None, script["app"]])[1]


def saved_graph_of(pair: Pair, store: InMemoryStore | None = None) -> tuple[Any, dict[str, Any]]:
    """The script's agent as rollouts, with a checkpointer to look into; and the script."""
    script = pair.run("plain")
    graph = entropy_centroid_graph(
        graph_in(script), n=ROLLOUTS, effects=pair.effects, checkpointer=InMemorySaver(), store=store
    )
    return graph, script


def assert_made_once(pair: Pair, script: dict[str, Any]) -> None:
    if pair.external:
        assert [str(call) for call in script[pair.external]] == [pair.made.format(BEST)]


def assert_no_trace(pair: Pair, *places: Any) -> None:
    for place in map(repr, places):
        assert any(mark in place for mark in pair.marks_of(BEST))
        for loser in set(range(ROLLOUTS)) - {BEST}:
            assert [mark for mark in pair.marks_of(loser) if mark in place] == []


@EVERY
def test_the_script_itself_commits_the_lowest_centroid_synchronously(pair: Pair):
    script = pair.run()
    if pair.name == "extraction":
        extracted = script["app"].invoke(pair.requests[0])["responses"]
        assert [(person.name, person.age) for person in extracted] == [("Ann 2", 32)]
    result = graph_in(script).invoke(asked(pair.requests[0]), CONFIG)
    selection = result["selection"]
    values = {each["rollout"]: each["value"] for each in selection["candidates"]}
    assert selection["winner"] == BEST == min(values, key=values.__getitem__)
    assert selection["selector"] == "lowest centroid" and len(values) == ROLLOUTS
    assert_no_trace(pair, result["messages"][1:])
    assert_made_once(pair, script)


@EVERY
async def test_no_stream_no_checkpoint_and_no_store_shows_a_loser(pair: Pair):
    store = InMemoryStore()
    graph, script = saved_graph_of(pair, store)
    ask = asked(pair.requests[0])
    events = [event async for event in graph.astream(ask, CONFIG, stream_mode=MODES, subgraphs=True)]
    kept = [saved async for saved in graph.checkpointer.alist(None)]
    assert {event[1] for event in events} == set(MODES)
    # What the selector has to weigh is in the state until it has: packed, and gone from the state at the end.
    assert_no_trace(pair, [event for event in events if event[1] == "messages"])
    assert_no_trace(pair, events, kept, (await graph.aget_state(CONFIG)).values)
    stored = await store.asearch(())
    assert [item.value["content"][-1] for item in stored] == (["2"] if pair.name == "memory" else [])
    assert_made_once(pair, script)


@EVERY
def test_messages_that_are_streamed_synchronously_are_those_that_are_committed(pair: Pair):
    graph, _ = saved_graph_of(pair, InMemoryStore())
    ask = asked(pair.requests[0])
    streamed = [event[0] for event in graph.stream(ask, CONFIG, stream_mode="messages")]
    committed = graph.get_state(CONFIG).values["messages"][1:]
    assert {message.id for message in committed} <= {message.id for message in streamed}
    assert_no_trace(pair, streamed)


@ONE_OR_FOUR
@pytest.mark.parametrize("declared", [True, False], ids=["declared", "all-held"])
@pytest.mark.parametrize("output_mode", ["full_history", "last_message"])
async def test_a_supervised_conversation_goes_as_it_does_alone(output_mode: str, declared: bool, n: int):
    pair = PAIRS["supervisor"]
    script = pair.run("plain")
    app = create_supervisor(
        [script["researcher"], script["booker"]], model=scripted.supervisor, output_mode=output_mode
    ).compile()
    state = await assert_same_as_alone(app, [*map(asked, pair.requests)], n, effects=pair.effects if declared else {})
    texts = [message.text for message in state["messages"]]
    assert texts.count(f"Hotel {winner_of(n)} is booked.") == 2
    assert (f"Booked hotel {winner_of(n)}." in texts) == (output_mode == "full_history")
    assert script["booked"] == [f"hotel {winner_of(n)}"] * 4  # two requests, alone and as rollouts


@ONE_OR_FOUR
@pytest.mark.parametrize("declared", [True, False], ids=["declared", "all-held"])
async def test_a_swarm_goes_on_where_it_was_as_it_does_alone(declared: bool, n: int):
    pair = PAIRS["swarm"]
    script = pair.run("plain")
    effects = pair.effects if declared else {}
    state = await assert_same_as_alone(script["app"], [*map(asked, pair.requests)], n, effects=effects)
    assert state["active_agent"] == "refunds"
    assert [message.text for message in state["messages"]].count("Successfully transferred to refunds") == 1
    assert script["refunded"] == [("7", winner_of(n))] * 4


async def test_a_person_is_asked_once_about_what_the_winner_of_a_swarm_wants():
    script = PAIRS["swarm"].run("plain")
    asking = HumanInTheLoopMiddleware(interrupt_on={"refund": True})
    tools = [script["find_order"], script["refund"]]
    refunds = create_agent(swarm_scripted.refunds, tools, name="refunds", middleware=[asking])
    app = create_swarm([script["desk"], refunds], default_active_agent="desk").compile()
    graph = entropy_centroid_graph(app, effects=PAIRS["swarm"].effects, checkpointer=InMemorySaver())
    asked_for = (await graph.ainvoke(asked("Broken."), CONFIG))["__interrupt__"]
    assert [each["args"]["kroner"] for question in asked_for for each in question.value["action_requests"]] == [BEST]
    assert script["refunded"] == []
    await graph.ainvoke(Command(resume={"decisions": [{"type": "approve"}]}), CONFIG)
    assert script["refunded"] == [("7", BEST)]


async def test_what_is_remembered_is_found_by_the_next_request_and_by_nobody_before():
    store = InMemoryStore()
    graph, _ = saved_graph_of(PAIRS["memory"], store)
    for text in PAIRS["memory"].requests:
        result = await graph.ainvoke(asked(text), CONFIG)
    assert "likes dark mode, shade 2" in result["messages"][-1].text
    assert [item.value["content"] for item in await store.asearch(("memories",))] == ["likes dark mode, shade 2"]
