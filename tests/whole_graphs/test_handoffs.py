"""An agent that hands over to a node of the graph around it: the winner's handoff is carried out, and no other."""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolRuntime
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command
from langgraph_swarm import SwarmState, add_active_agent_router

from entcent_agents.effects import READ
from entcent_agents.nodes import EntropyCentroidSelector, ParallelRollouts
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.rollouts.isolation import Graph
from entcent_agents.testing import ScriptedChat
from tests.whole_graphs.comparing import ROLLOUTS, Chosen, plain, says, scripts, since_human, winner_of

ASK = {"messages": [HumanMessage("go")]}
EFFECTS = {"hand_over": READ}


@tool
async def hand_over(to: str, why: str, runtime: ToolRuntime) -> Command[Any]:
    """Hand over to another agent."""
    assert runtime.store is not None
    await runtime.store.aput(("handoffs",), why, {"to": to})
    done = ToolMessage(f"over to {to}: {why}", tool_call_id=runtime.tool_call_id)
    return Command(
        goto=to, graph=Command.PARENT, update={"messages": [*runtime.state["messages"], done], "active_agent": to}
    )


def alice() -> Graph:
    def hands_over(index: int):
        return lambda messages: says(f"no idea {index}", ("hand_over", {"to": "bob", "why": f"reason {index}"}))

    return create_agent(ScriptedChat(scripts=scripts(hands_over)), [hand_over], name="alice")


def bob() -> Graph:
    model = ScriptedChat(scripts=scripts(lambda index: lambda messages: says(f"bob heard {messages[-1].text}")))
    return create_agent(model, [], name="bob")


def pair(first: Graph, second: Graph, store: InMemoryStore) -> Graph:
    builder = StateGraph(SwarmState)
    builder.add_node("alice", first, destinations=("bob",))
    builder.add_node("bob", second, destinations=("alice",))
    add_active_agent_router(builder, route_to=["alice", "bob"], default_active_agent="alice")
    return builder.compile(checkpointer=InMemorySaver(), store=store)


@ROLLOUTS
async def test_agents_of_a_swarm_that_are_rollouts_each_hand_over_as_if_they_ran_alone(n: int):
    winner = winner_of(n)
    stores = InMemoryStore(), InMemoryStore()
    alone = pair(alice(), bob(), stores[0])
    rollouts: Any = {"n": n, "selector": Chosen(winner)}
    ours = pair(
        entropy_centroid_graph(alice(), name="alice", effects=EFFECTS, **rollouts),
        entropy_centroid_graph(bob(), name="bob", **rollouts),
        stores[1],
    )
    there: Any = {"configurable": {"thread_id": f"alone:{winner}"}}
    here: Any = {"configurable": {"thread_id": "ours"}}
    for question in ("first", "second"):
        expected = await alone.ainvoke({"messages": [HumanMessage(question)]}, there)
        given = await ours.ainvoke({"messages": [HumanMessage(question)]}, here)
        assert plain(given) == plain(expected)
    assert given["active_agent"] == "bob"
    assert f"bob heard over to bob: reason {winner}" in [message.text for message in given["messages"]]
    assert [item.key for item in stores[1].search(("handoffs",))] == [f"reason {winner}"]


@ROLLOUTS
async def test_the_two_nodes_hand_over_within_the_graph_they_stand_in(n: int):
    winner, store = winner_of(n), InMemoryStore()
    rollouts = ParallelRollouts(alice(), n=n, effects=EFFECTS)
    builder = StateGraph(MessagesState)
    builder.add_node("rollouts", rollouts)
    builder.add_node("select", EntropyCentroidSelector(rollouts, selector=Chosen(winner)), destinations=("bob",))
    builder.add_node("bob", bob())
    builder.add_edge(START, "rollouts")
    builder.add_edge("rollouts", "select")
    state = await builder.compile(store=store).ainvoke(ASK)
    assert [message.text for message in state["messages"]] == [
        "go",
        f"no idea {winner}",
        f"over to bob: reason {winner}",
        f"bob heard over to bob: reason {winner}",
    ]
    assert [item.key for item in store.search(("handoffs",))] == [f"reason {winner}"]
    assert since_human(state["messages"]) == 2
