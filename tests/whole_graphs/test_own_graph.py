"""The two nodes in a graph of one's own: they see and write what a subgraph would; its reducers stand."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Send
from pydantic import BaseModel

from entcent_agents.nodes import EntropyCentroidSelector, ParallelRollouts, unfinished
from entcent_agents.rollouts.isolation import Graph
from entcent_agents.testing import ScriptedChat
from tests.whole_graphs.comparing import ROLLOUTS, Chosen, plain, says, scripts, since_human, winner_of

ASK = {"messages": [HumanMessage("go")]}


class Noting(MessagesState):
    topic: str
    log: Annotated[list[str], operator.add]
    best: dict[str, int]
    private: str


class NotingInput(MessagesState):
    topic: str
    log: Annotated[list[str], operator.add]


class NotingOutput(MessagesState):
    log: Annotated[list[str], operator.add]
    best: dict[str, int]


def noting_agent() -> Graph:
    model = ScriptedChat(scripts=scripts(lambda i: lambda messages: says(f"answer {i}")))

    async def think(state: Noting) -> dict[str, Any]:
        said = await model.ainvoke(state["messages"])
        log = f"{said.text} on {state.get('topic')}, {state.get('private', 'alone')}"
        return {"messages": [said], "log": [log], "best": {said.text: 1}, "private": "mine"}

    builder = StateGraph(Noting, input_schema=NotingInput, output_schema=NotingOutput)
    builder.add_node("think", think)
    builder.add_edge(START, "think")
    return builder.compile()


def with_rollouts(builder: StateGraph[Any, Any, Any, Any], n: int, agent: Graph | None = None) -> Graph:
    """START → rollouts → select → whatever the builder has after `select`."""
    rollouts = ParallelRollouts(agent or noting_agent(), n=n)
    builder.add_node("rollouts", rollouts)
    builder.add_node("select", EntropyCentroidSelector(rollouts, selector=Chosen(winner_of(n))))
    builder.add_edge("rollouts", "select")
    return builder.compile()


class Larger(MessagesState):
    topic: str
    log: Annotated[list[str], operator.add]
    best: Annotated[dict[str, int], operator.or_]
    private: str


@ROLLOUTS
async def test_the_node_sees_the_shared_channels_and_no_reducer_is_applied_twice(n: int):
    builder = StateGraph(Larger)
    builder.add_edge(START, "rollouts")
    graph = with_rollouts(builder, n)
    winner = winner_of(n)
    given = {**ASK, "topic": "bridges", "log": ["old"], "best": {"old": 3}, "private": "the outer graph's"}
    state = await graph.ainvoke(given)
    assert state["log"] == ["old", f"answer {winner} on bridges, alone"]
    assert state["best"] == {"old": 3, f"answer {winner}": 1}
    assert state["private"] == "the outer graph's"


@ROLLOUTS
async def test_channels_that_the_outer_graph_lacks_do_not_appear_in_it(n: int):
    builder = StateGraph(MessagesState)
    builder.add_edge(START, "rollouts")
    graph = with_rollouts(builder, n)
    state = await graph.ainvoke(ASK)
    assert set(state) == {"messages"}
    assert not {"topic", "log", "best", "private"} & set(graph.channels)


class Bare(TypedDict):
    messages: list[AnyMessage]
    log: list[str]


@ROLLOUTS
async def test_channels_without_a_reducer_get_the_value_itself(n: int):
    builder = StateGraph(Bare)
    builder.add_edge(START, "rollouts")
    state = await with_rollouts(builder, n).ainvoke({**ASK, "log": ["old"]})
    assert [message.text for message in state["messages"]] == ["go", f"answer {winner_of(n)}"]
    assert state["log"] == ["old", f"answer {winner_of(n)} on None, alone"]


@ROLLOUTS
async def test_what_another_branch_writes_meanwhile_stays(n: int):
    async def beside(state: Larger) -> dict[str, Any]:
        return {"log": ["beside"], "messages": [AIMessage("beside", id="beside")]}

    builder = StateGraph(Larger)
    builder.add_node("beside", beside)
    builder.add_edge(START, "beside")
    builder.add_edge(START, "rollouts")
    state = await with_rollouts(builder, n).ainvoke({**ASK, "log": ["old"]})
    winner = winner_of(n)
    assert state["log"] == ["old", "beside", f"answer {winner} on None, alone"]
    assert [message.text for message in state["messages"]] == ["go", "beside", f"answer {winner}"]


@ROLLOUTS
async def test_the_node_takes_what_send_gives_it(n: int):
    async def start(state: Larger) -> dict[str, Any]:
        return {}

    builder = StateGraph(Larger)
    builder.add_node("start", start)
    builder.add_edge(START, "start")
    sent = Send("rollouts", {"messages": [HumanMessage("sent")], "topic": "tunnels"})
    builder.add_conditional_edges("start", lambda state: [sent], ["rollouts"])
    state = await with_rollouts(builder, n).ainvoke({**ASK, "topic": "bridges", "log": ["old"]})
    winner = winner_of(n)
    assert state["log"] == ["old", f"answer {winner} on tunnels, alone"]
    assert [message.text for message in state["messages"]] == ["go", f"answer {winner}"]


class Model(BaseModel):
    messages: Annotated[list[AnyMessage], add_messages] = []
    topic: str = "unsaid"
    log: Annotated[list[str], operator.add] = []


@dataclass
class Record:
    messages: Annotated[list[AnyMessage], add_messages]
    topic: str = "unsaid"
    log: Annotated[list[str], operator.add] = field(default_factory=list)


@ROLLOUTS
async def test_outer_states_that_are_models_or_dataclasses(n: int):
    for schema, topic in ((Model, None), (Record, "unsaid")):
        builder = StateGraph(schema)
        builder.add_edge(START, "rollouts")
        graph = with_rollouts(builder, n)
        state = await graph.ainvoke(ASK)
        assert state["log"] == [f"answer {winner_of(n)} on {topic}, alone"]
        state = await graph.ainvoke({**ASK, "topic": "bridges"})
        assert state["log"] == [f"answer {winner_of(n)} on bridges, alone"]


@ROLLOUTS
async def test_history_that_is_rewritten_reaches_channels_of_every_kind(n: int):
    class Joined(TypedDict):
        messages: Annotated[list[AnyMessage], lambda old, new: old + new]

    model = ScriptedChat(scripts=scripts(lambda i: lambda messages: says(f"answer {i}")))

    async def forget(state: MessagesState) -> dict[str, Any]:
        return {"messages": [RemoveMessage(id="old"), await model.ainvoke(state["messages"])]}

    inner = StateGraph(MessagesState)
    inner.add_node("forget", forget)
    inner.add_edge(START, "forget")
    agent = inner.compile()
    given = {"messages": [HumanMessage("old", id="old"), HumanMessage("new", id="new")]}
    expected = await agent.ainvoke(given, {"configurable": {"thread_id": f"alone:{winner_of(n)}"}})
    for schema in (MessagesState, Bare, Joined):
        builder = StateGraph(schema)
        builder.add_edge(START, "rollouts")
        state = await with_rollouts(builder, n, agent).ainvoke(given)
        assert plain(state["messages"]) == plain(expected["messages"])
        assert [message.text for message in state["messages"]] == ["new", f"answer {winner_of(n)}"]


@ROLLOUTS
async def test_the_agent_of_a_subgraph_writes_through_both_graphs(n: int):
    inner = StateGraph(Larger)
    inner.add_edge(START, "rollouts")
    outer = StateGraph(Larger)
    outer.add_node("inner", with_rollouts(inner, n))
    outer.add_node("end", lambda state: {"topic": state["messages"][-1].text})
    outer.add_edge(START, "inner")
    outer.add_edge("inner", "end")
    outer.add_edge("end", END)
    state = await outer.compile().ainvoke({**ASK, "topic": "bridges"})
    assert state["topic"] == f"answer {winner_of(n)}"
    assert state["log"] == [f"answer {winner_of(n)} on bridges, alone"]


@ROLLOUTS
async def test_what_each_round_adds_to_a_channel_is_added_once(n: int):
    class Trailing(MessagesState):
        trail: Annotated[list[str], operator.add]
        log: Annotated[list[str], operator.add]

    class TrailingInput(MessagesState):
        log: Annotated[list[str], operator.add]

    sent: list[str] = []

    @tool
    def send(to: str) -> str:
        """Send something."""
        sent.append(to)
        return f"sent to {to}"

    def sends(index: int):
        turns = [says("a", ("send", {"to": f"ann{index}"})), says("b", ("send", {"to": f"bob{index}"})), says("done")]
        return lambda messages: turns[since_human(messages)]

    model = ScriptedChat(scripts=scripts(sends))

    async def think(state: Trailing) -> dict[str, Any]:
        said = await model.ainvoke(state["messages"])
        return {"messages": [said], "trail": [said.text], "log": [said.text]}

    inner = StateGraph(Trailing, input_schema=TrailingInput)
    inner.add_node("think", think)
    inner.add_node("tools", ToolNode([send]))
    inner.add_edge(START, "think")
    inner.add_conditional_edges("think", tools_condition)
    inner.add_edge("tools", "think")

    async def beside(state: Trailing) -> dict[str, Any]:
        return {"log": ["beside"], "trail": ["beside"], "messages": [AIMessage("beside")]}

    rollouts = ParallelRollouts(inner.compile(), n=n)
    builder = StateGraph(Trailing)
    builder.add_node("beside", beside)
    builder.add_node("rollouts", rollouts)
    builder.add_node("select", EntropyCentroidSelector(rollouts, selector=Chosen(winner_of(n))))
    builder.add_edge(START, "beside")
    builder.add_edge(START, "rollouts")
    builder.add_edge("rollouts", "select")
    builder.add_conditional_edges("select", unfinished, {True: "rollouts", False: END})
    state = await builder.compile().ainvoke({**ASK, "log": ["old"], "trail": ["old"]})
    assert sent == [f"ann{winner_of(n)}", f"bob{winner_of(n)}"]
    assert state["log"] == state["trail"] == ["old", "beside", "a", "b", "done"]
    assert [message.text for message in state["messages"]] == [
        "go", "beside", "a", f"sent to ann{winner_of(n)}", "b", f"sent to bob{winner_of(n)}", "done"
    ]  # fmt: skip


@ROLLOUTS
async def test_an_outer_graph_without_messages_goes_on_from_a_held_rollout(n: int):
    class Question(TypedDict):
        question: str
        answer: str

    class Thinking(MessagesState):
        question: str
        answer: str

    sent: list[str] = []

    @tool
    def send(to: str) -> str:
        """Send something."""
        sent.append(to)
        return f"sent to {to}"

    def sends(index: int):
        turns = [says("a", ("send", {"to": f"ann{index}"})), says(f"done {index}")]
        return lambda messages: turns[len(messages) // 2]

    model = ScriptedChat(scripts=scripts(sends))

    async def think(state: Thinking) -> dict[str, Any]:
        said = await model.ainvoke([HumanMessage(state["question"]), *state["messages"]])
        return {"messages": [said], "answer": said.text}

    inner = StateGraph(Thinking, input_schema=Question, output_schema=Question)
    inner.add_node("think", think)
    inner.add_node("tools", ToolNode([send]))
    inner.add_edge(START, "think")
    inner.add_conditional_edges("think", tools_condition)
    inner.add_edge("tools", "think")
    rollouts = ParallelRollouts(inner.compile(), n=n)
    builder = StateGraph(Question)
    builder.add_node("rollouts", rollouts)
    builder.add_node("select", EntropyCentroidSelector(rollouts, selector=Chosen(winner_of(n))))
    builder.add_edge(START, "rollouts")
    builder.add_edge("rollouts", "select")
    builder.add_conditional_edges("select", unfinished, {True: "rollouts", False: END})
    state = await builder.compile().ainvoke({"question": "why"})
    assert sent == [f"ann{winner_of(n)}"]
    assert state == {"question": "why", "answer": f"done {winner_of(n)}"}
