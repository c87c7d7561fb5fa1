"""The one-line graph as a node: of a graph with a state of its own, many times at once, held and interrupted inside."""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send

from entcent_agents.effects import EXTERNAL, Effect
from entcent_agents.ledger import SqliteLedger
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.rollouts.isolation import Graph
from entcent_agents.testing import ScriptedChat
from tests.whole_graphs.comparing import LIVE_OR_HELD, ROLLOUTS, Chosen, plain, says, scripts, since_human, winner_of

EFFECTS = {"send_mail": EXTERNAL}


def mailing(sent: list[str], **agent: Any) -> Graph:
    @tool
    def send_mail(to: str) -> str:
        """Send a mail."""
        sent.append(to)
        return f"sent to {to}"

    def mails(index: int):
        def turn(messages: Any) -> Any:
            to = next(message.text for message in reversed(messages) if message.type == "human")
            return [says("hm", ("send_mail", {"to": f"{to}{index}"})), says(f"done {index}")][since_human(messages)]

        return turn

    return create_agent(ScriptedChat(scripts=scripts(mails)), [send_mail], name="mailing", **agent)


def rolled_out(agent: Graph, n: int, **settings: Any) -> Graph:
    return entropy_centroid_graph(agent, n=n, selector=Chosen(winner_of(n)), effects=EFFECTS, **settings)


class Mailing(TypedDict):
    people: list[str]
    answers: Annotated[list[str], operator.add]


def fanned_out(agent: Graph) -> Graph:
    """One run of the agent for each of the people, at once."""

    async def ask(state: dict[str, Any]) -> dict[str, Any]:
        done = await agent.ainvoke({"messages": [HumanMessage(state["to"])]})
        return {"answers": [f"{state['to']}: {done['messages'][-1].text}"]}

    builder = StateGraph(Mailing)
    builder.add_node("ask", ask)
    builder.add_conditional_edges(START, lambda state: [Send("ask", {"to": to}) for to in state["people"]], ["ask"])
    return builder.compile(checkpointer=InMemorySaver())


@ROLLOUTS
@LIVE_OR_HELD
async def test_many_of_them_at_once_do_not_get_into_each_others_way(n: int, effect: Effect):
    sent: list[str] = []
    agent = entropy_centroid_graph(mailing(sent), n=n, selector=Chosen(winner_of(n)), effects={"send_mail": effect})
    people = ["ann", "bob", "carl"]
    config: Any = {"configurable": {"thread_id": "one"}}
    state = await fanned_out(agent).ainvoke({"people": people}, config)
    assert state["answers"] == [f"{to}: done {winner_of(n)}" for to in people]
    if effect is EXTERNAL:
        assert sorted(sent) == [f"{to}{winner_of(n)}" for to in people]


@ROLLOUTS
async def test_the_node_itself_may_be_sent_to(n: int):
    sent: list[str] = []
    builder = StateGraph(MessagesState)
    builder.add_node("mailing", rolled_out(mailing(sent), n))
    builder.add_conditional_edges(
        START,
        lambda state: [Send("mailing", {"messages": [HumanMessage(to, id=to)]}) for to in ("ann", "bob")],
        ["mailing"],
    )
    state = await builder.compile().ainvoke({"messages": [HumanMessage("go")]})
    winner = winner_of(n)
    assert sorted(sent) == [f"ann{winner}", f"bob{winner}"]
    assert [message.text for message in state["messages"]] == [
        "go",
        *("ann", "hm", f"sent to ann{winner}", f"done {winner}"),
        *("bob", "hm", f"sent to bob{winner}", f"done {winner}"),
    ]


@asynccontextmanager
async def savers(folder: Path, durable: bool) -> AsyncIterator[tuple[Any, dict[str, Any]]]:
    """For the outer graph, and the settings of the rollouts."""
    if not durable:
        yield InMemorySaver(), {}
        return
    ledger = SqliteLedger(folder / "ledger.db")
    async with (
        AsyncSqliteSaver.from_conn_string(str(folder / "outer.db")) as outer,
        AsyncSqliteSaver.from_conn_string(str(folder / "rollouts.db")) as inner,
    ):
        yield outer, {"rollout_checkpointer": inner, "ledger": ledger}
    await ledger.aclose()


@ROLLOUTS
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("deep", [False, True])
async def test_a_question_inside_is_asked_by_the_outermost_graph_and_resumed_there(
    n: int, deep: bool, durable: bool, tmp_path: Path
):
    def wrapped(inner: Graph, saver: Any) -> Graph:
        builder = StateGraph(MessagesState)
        builder.add_node("inner", inner)
        builder.add_node("end", lambda state: {"messages": [AIMessage("end")]})
        builder.add_edge(START, "inner")
        builder.add_edge("inner", "end")
        builder.add_edge("end", END)
        return builder.compile(checkpointer=saver)

    winner = winner_of(n)
    sent: tuple[list[str], list[str]] = ([], [])
    agents = [mailing(each, middleware=[HumanInTheLoopMiddleware({"send_mail": True})]) for each in sent]
    async with savers(tmp_path, durable) as (saver, settings):
        alone, ours = agents[0], rolled_out(agents[1], n, **settings)
        if deep:
            alone, ours = wrapped(alone, None), wrapped(ours, None)
        alone, ours = wrapped(alone, InMemorySaver()), wrapped(ours, saver)
        there: Any = {"configurable": {"thread_id": f"alone:{winner}"}}
        here: Any = {"configurable": {"thread_id": "ours"}}
        for to in ("ann", "bob"):
            expected = await alone.ainvoke({"messages": [HumanMessage(to)]}, there)
            given = await ours.ainvoke({"messages": [HumanMessage(to)]}, here)
            asked = [[each.value for each in state.pop("__interrupt__")] for state in (expected, given)]
            assert asked[1] == asked[0]
            assert (asked[1][0]["action_requests"][0]["args"]) == {"to": f"{to}{winner}"}
            answer = {"decisions": [{"type": "approve"}]}
            expected = await alone.ainvoke(Command(resume=answer), there)
            given = await ours.ainvoke(Command(resume=answer), here)
            assert plain(given) == plain(expected)
            assert given["messages"][-1].text == "end"
        assert sent[1] == sent[0] == [f"ann{winner}", f"bob{winner}"]


@ROLLOUTS
async def test_questions_of_many_at_once_are_answered_one_by_one(n: int):
    sent: list[str] = []
    agent = mailing(sent, middleware=[HumanInTheLoopMiddleware({"send_mail": True})])
    graph = fanned_out(rolled_out(agent, n))
    config: Any = {"configurable": {"thread_id": "one"}}
    people = ["ann", "bob"]
    state = await graph.ainvoke({"people": people}, config)
    winner, asked = winner_of(n), []
    while "__interrupt__" in state:
        first = state["__interrupt__"][0]
        to = first.value["action_requests"][0]["args"]["to"]
        asked.append(to)
        decision = {"type": "approve"} if to.startswith("ann") else {"type": "reject", "message": "no"}
        state = await graph.ainvoke(Command(resume={first.id: {"decisions": [decision]}}), config)
    assert sorted(asked) == [f"ann{winner}", f"bob{winner}"] and sent == [f"ann{winner}"]
    assert state["answers"] == [f"{to}: done {winner}" for to in people]


@ROLLOUTS
async def test_streams_of_rounds_show_no_loser_and_every_message_once(n: int):
    sent: list[str] = []
    builder = StateGraph(MessagesState)
    builder.add_node("inner", rolled_out(mailing(sent), n))
    builder.add_edge(START, "inner")
    graph = builder.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "one"}}
    modes = ["values", "updates", "messages", "custom", "tasks", "checkpoints", "debug"]
    asked = {"messages": [HumanMessage("ann")]}
    events = [event async for event in graph.astream(asked, config, stream_mode=modes, subgraphs=True)]
    winner = winner_of(n)
    said = [event[-1][0].text for event in events if event[-2] == "messages"]
    assert said == ["hm", f"sent to ann{winner}", f"done {winner}"]
    for loser in set(range(4)) - {winner}:
        assert f"ann{loser}" not in repr(events) and f"done {loser}" not in repr(events)
    assert sent == [f"ann{winner}"]


def extended(old: list[str], writes: list[list[str]]) -> list[str]:
    return [*old, *(word for words in writes for word in words)]


class Delta(MessagesState):
    log: Annotated[list[str], DeltaChannel(extended)]


@ROLLOUTS
async def test_a_channel_that_keeps_differences(n: int):
    model = ScriptedChat(scripts=scripts(lambda i: lambda messages: says(f"answer {i}")))

    async def think(state: Delta) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])], "log": [f"thought {len(state['log'])}"]}

    inner = StateGraph(Delta)
    inner.add_node("think", think)
    inner.add_edge(START, "think")
    graph = entropy_centroid_graph(inner.compile(), n=n, selector=Chosen(winner_of(n)), checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "one"}}
    for _ in range(2):
        state = await graph.ainvoke({"messages": [HumanMessage("go")], "log": ["asked"]}, config)
    assert state["log"] == ["asked", "thought 1", "asked", "thought 3"]
    assert (await graph.aget_state(config)).values["log"] == state["log"]
