"""What is written to take channels from one state to another: applied, it gives the state; and it is a difference."""

from __future__ import annotations

import operator
from copy import deepcopy
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.channels.ephemeral_value import EphemeralValue
from langgraph.channels.last_value import LastValue
from langgraph.channels.topic import Topic
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.graph import START, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES, add_messages
from langgraph.types import Command, Overwrite, Send
from typing_extensions import TypedDict

from entcent_agents.errors import RecordingError
from entcent_agents.nodes import EntropyCentroidSelector, RolloutsState
from entcent_agents.rollouts.output import is_answered, state_updates
from entcent_agents.rollouts.packing import pack, unpack
from entcent_agents.selection import First
from entcent_agents.trajectory import Rollout

Words = st.lists(st.text("ab", max_size=2), max_size=4)
Counts = st.dictionaries(st.sampled_from("abc"), st.integers(0, 3), max_size=3)


def distinct(old: list[str], new: list[str]) -> list[str]:
    return sorted({*old, *new})


def in_place(old: list[str], new: list[str]) -> list[str]:
    old.extend(new)
    return old


class Channels(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    joined: Annotated[list[AnyMessage], operator.add]
    last: Any
    added: Annotated[list[str], operator.add]
    extended: Annotated[list[str], in_place]
    distinct: Annotated[list[str], distinct]
    kept: Annotated[list[str], lambda old, new: (old + new)[-2:]]
    merged: Annotated[dict[str, int], operator.or_]
    united: Annotated[set[str], operator.or_]
    total: Annotated[float, operator.add]
    visits: Annotated[int, lambda old, new: old + 1]
    optional: Annotated[list[str] | None, lambda old, new: [*(old or []), *(new or [])]]
    collected: Annotated[list[str], Topic(str, accumulate=True)]
    passing: Annotated[str, EphemeralValue(str)]
    untracked: Annotated[str, UntrackedValue(str)]
    flag: bool


NOTHING: Any = LastValue(Any).checkpoint()
CHANNELS: Any = StateGraph(Channels).channels
STATES = st.fixed_dictionaries(
    {},
    optional={
        "last": st.one_of(st.integers(), Words, Counts, st.none()),
        "added": Words,
        "extended": Words,
        "distinct": Words.map(lambda words: sorted(set(words))),
        "kept": Words.map(lambda words: words[-2:]),
        "merged": Counts,
        "united": st.frozensets(st.sampled_from("abc")).map(set),
        "total": st.integers(-5, 5),
        "visits": st.integers(0, 5),
        "optional": Words,
        "flag": st.booleans(),
        "passing": st.text("ab"),
    },
)


def applied(before: dict[str, Any], updates: dict[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for key, channel in CHANNELS.items():
        now = channel.from_checkpoint(deepcopy(before[key]) if key in before else NOTHING)
        if key in updates:
            now.update([updates[key]])
        if now.is_available():
            state[key] = now.get()
    return state


@given(before=STATES, after=STATES)
def test_the_updates_lead_to_the_state_whatever_the_reducers(before: dict[str, Any], after: dict[str, Any]):
    reached = applied(before, state_updates(CHANNELS, before, after))
    assert {key: reached.get(key) for key in after} == after
    assert type(reached.get("flag")) is type(after.get("flag", before.get("flag")))


@pytest.mark.parametrize(
    ("key", "before", "after", "update"),
    [
        ("added", ["a"], ["a", "b"], ["b"]),
        ("extended", ["a"], ["a", "b"], ["b"]),
        ("merged", {"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}, {"b": 3, "c": 4}),
        ("united", {"a"}, {"a", "b"}, {"b"}),
        ("total", 3, 5, 2),
        ("collected", ["a"], ["a", "b"], ["b"]),
        ("visits", 4, 7, Overwrite(7)),
        ("added", ["a", "b"], ["b"], Overwrite(["b"])),
        ("last", ["a"], ["a", "b"], ["a", "b"]),
        ("flag", False, True, True),
    ],
)
def test_a_difference_is_written_where_the_reducer_allows_it(key: str, before: Any, after: Any, update: Any):
    given_before = {key: before}
    assert state_updates(CHANNELS, given_before, {key: after}) == {key: update}
    assert given_before == {key: before}


def test_messages_are_appended_replaced_one_by_one_or_all_of_them():
    old, other, new = HumanMessage("old", id="1"), AIMessage("other", id="2"), AIMessage("new", id="3")
    before = {"messages": [old, other], "joined": [old, other]}
    assert state_updates(CHANNELS, before, {"messages": [old, other, new]}) == {"messages": [new]}
    edited = HumanMessage("edited", id="1")
    assert state_updates(CHANNELS, before, {"messages": [edited, other, new]}) == {"messages": [edited, new]}
    removal = RemoveMessage(id=REMOVE_ALL_MESSAGES)
    assert state_updates(CHANNELS, before, {"messages": [other, new]}) == {"messages": [removal, other, new]}
    assert state_updates(CHANNELS, before, {"joined": [other, new]}) == {"joined": Overwrite([other, new])}


def test_what_did_not_change_or_has_no_channel_is_not_written():
    before = {"added": ["a"], "last": 3, "united": {"a"}}
    assert state_updates(CHANNELS, before, {**before, "elsewhere": 1}) == {}


def test_an_empty_channel_never_gets_the_wrapper_of_a_value():
    assert state_updates(CHANNELS, {}, {"optional": ["a"], "untracked": "x"}) == {"optional": ["a"], "untracked": "x"}


def test_values_without_an_answer_to_equality_are_written_as_they_are():
    before, after = {"last": np.zeros(3), "added": [np.zeros(2)]}, {"last": np.ones(3), "added": [np.ones(2)]}
    updates = state_updates(CHANNELS, before, after)
    assert updates["last"] is after["last"]
    assert updates["added"] == Overwrite(after["added"])


def test_a_conversation_is_answered_when_every_call_has_its_result():
    call = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "c1"}])
    assert not is_answered([call])
    assert is_answered([call, ToolMessage("seen", tool_call_id="c1")])
    assert is_answered([])


def test_a_call_that_is_only_validated_is_an_answer_itself():
    call = AIMessage("", tool_calls=[{"name": "Person", "args": {}, "id": "c1"}])
    assert is_answered([call], {"Person"})
    assert not is_answered([call, AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "c2"}])], {"Person"})


def test_commands_and_messages_survive_packing():
    output = {"handoff": Command(goto=[Send("bob", {"x": 1})], update={"messages": [AIMessage("a", id="1")]}), "n": 1}
    assert unpack(pack(output)) == output


@pytest.mark.parametrize("version", [1, 3])
def test_what_another_release_packed_is_refused_by_name(version: int):
    with pytest.raises(RecordingError, match=f"is of version {version}; this release reads 2"):
        unpack(pack({"state": {}, "version": version}))


async def test_a_rollout_of_another_release_is_refused_before_anything_is_committed():
    old = Rollout(index=0, thread_id="t", status="finished", output=pack({"state": {}, "store": [], "version": 1}))
    builder = StateGraph(RolloutsState)
    builder.add_node("select", EntropyCentroidSelector(selector=First(), on_unscorable="fallback"))
    builder.add_edge(START, "select")
    with pytest.raises(RecordingError, match="let the release that began the request end it"):
        await builder.compile().ainvoke({"rollouts": [old.to_dict()]})
