"""Map and reduce with `Send`: private input for each task, a reducer that joins, and a deferred last node."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send

from entcent_agents.testing import ScriptedChat
from tests.whole_graphs.comparing import ROLLOUTS, assert_same_as_alone, says, scripts, winner_of


class Overall(MessagesState):
    topics: list[str]
    drafts: Annotated[list[str], operator.add]


class OneTopic(TypedDict):
    topic: str


def mapping_graph():
    model = ScriptedChat(scripts=scripts(lambda i: lambda messages: says(f"{messages[-1].text} by {i}")))

    async def choose(state: Overall) -> Command[Any]:
        topics = [f"{state['messages'][-1].text} {k}" for k in range(3)]
        return Command(update={"topics": topics}, goto=[Send("draft", {"topic": topic}) for topic in topics])

    async def draft(state: OneTopic) -> dict[str, Any]:
        return {"drafts": [(await model.ainvoke([HumanMessage(state["topic"])])).text]}

    async def follow(state: OneTopic) -> dict[str, Any]:
        return {}

    async def join(state: Overall) -> dict[str, Any]:
        said = await model.ainvoke([HumanMessage(", ".join(state["drafts"][-3:]))])
        return {"messages": [AIMessage(said.text)]}

    builder = StateGraph(Overall)
    builder.add_node("choose", choose)
    builder.add_node("draft", draft)
    builder.add_node("follow", follow)
    builder.add_node("join", join, defer=True)
    builder.add_edge(START, "choose")
    builder.add_edge("draft", "follow")
    builder.add_edge("follow", "join")
    builder.add_edge("join", END)
    return builder.compile()


@ROLLOUTS
async def test_what_send_maps_is_joined_once(n: int):
    requests = [{"messages": [HumanMessage("a")]}, {"messages": [HumanMessage("b")]}]
    state = await assert_same_as_alone(mapping_graph(), requests, n)
    winner = winner_of(n)
    assert state["drafts"] == [f"{topic} {k} by {winner}" for topic in "ab" for k in range(3)]
    assert len(state["messages"]) == 4
