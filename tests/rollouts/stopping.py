"""Agents that stop half-way, each in another way, and what they do is counted."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, TypedDict

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.tools import tool
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send, interrupt

from entcent_agents.testing import ScriptedChat, ScriptedTurn

Graph = Any
Saver = BaseCheckpointSaver[Any]


@dataclass
class Stopping:
    """A graph, what it is given, and how often each of its parts ran."""

    build: Callable[[Saver, Counter[str]], Graph]
    given: dict[str, Any]
    resumed: dict[str, int]
    """How often each part has run once the graph was resumed; what is done and counted does not run again."""
    ran: Counter[str] = field(default_factory=Counter)

    def graph(self, saver: Saver) -> Graph:
        return self.build(saver, self.ran)


class Said(TypedDict, total=False):
    said: Annotated[list[str], operator.add]
    item: int


def _agent(saver: Saver, ran: Counter[str], *, calls: list[tuple[str, dict[str, Any]]], **settings: Any) -> Graph:
    @tool
    def look(what: str) -> str:
        """Look."""
        ran["look"] += 1
        return f"saw {what}"

    @tool
    def pay(amount: int) -> str:
        """Pay."""
        ran["asked"] += 1
        answer = interrupt({"pay": amount})
        ran["paid"] += 1
        return f"paid {amount}: {answer}"

    first = [("look", {"what": "before"})]
    turns = [ScriptedTurn(tool_calls=first), ScriptedTurn(tool_calls=calls), ScriptedTurn(text="done")]
    return create_agent(ScriptedChat(scripts=[turns]), [look, pay], checkpointer=saver, **settings)


def one_call(saver: Saver, ran: Counter[str]) -> Graph:
    """An agent whose only call of the turn asks."""
    return _agent(saver, ran, calls=[("pay", {"amount": 1})])


def mixed_calls(saver: Saver, ran: Counter[str]) -> Graph:
    """An agent with parallel calls: one is done, two ask."""
    return _agent(saver, ran, calls=[("pay", {"amount": 1}), ("look", {"what": "aside"}), ("pay", {"amount": 2})])


def breakpoint_before_tools(saver: Saver, ran: Counter[str]) -> Graph:
    """An agent that stops before its tools, at a static breakpoint."""
    return _agent(saver, ran, calls=[("look", {"what": "aside"})], interrupt_before=["tools"])


def _inner(ran: Counter[str], checkpointer: Any = None) -> Graph:
    def work(state: Said) -> Said:
        ran["work"] += 1
        return {"said": ["worked"]}

    def ask(state: Said) -> Said:
        ran["asked"] += 1
        return {"said": [str(interrupt("may I?"))]}

    builder = StateGraph(Said)
    builder.add_node("work", work)
    builder.add_node("ask", ask)
    builder.add_edge(START, "work")
    builder.add_edge("work", "ask")
    return builder.compile(checkpointer=checkpointer)


def _around(saver: Saver, node: Any) -> Graph:
    builder = StateGraph(Said)
    builder.add_node("before", lambda state: {"said": ["before"]})
    builder.add_node("inner", node)
    builder.add_edge(START, "before")
    builder.add_edge("before", "inner")
    return builder.compile(checkpointer=saver)


def subgraph(saver: Saver, ran: Counter[str]) -> Graph:
    """A graph whose node is a graph that asks."""
    return _around(saver, _inner(ran))


def subgraph_with_memory(saver: Saver, ran: Counter[str]) -> Graph:
    """The same, where the inner graph keeps its state from call to call."""
    return _around(saver, _inner(ran, checkpointer=True))


def subgraph_in_a_function(saver: Saver, ran: Counter[str]) -> Graph:
    """A graph whose node calls, in its code, a graph that asks."""
    inner = _inner(ran)

    async def call(state: Said) -> Said:
        return {"said": (await inner.ainvoke({"said": ["called"]}))["said"]}

    return _around(saver, call)


def subgraph_in_a_thread(saver: Saver, ran: Counter[str]) -> Graph:
    """The same in synchronous code, which LangGraph runs in a thread."""
    inner = _inner(ran)

    def call(state: Said) -> Said:
        return {"said": inner.invoke({"said": ["called"]})["said"]}

    return _around(saver, call)


def _fan_out(saver: Saver, ran: Counter[str], schema: Any, asks: int) -> Graph:
    def worker(state: Any) -> Any:
        item = state.get("item", -1)
        if item == asks:
            ran["asked"] += 1
            interrupt("may I?")
        ran[f"worker {item}"] += 1
        return {"said": [f"item {item}"]}

    builder = StateGraph(schema)
    builder.add_node("plan", lambda state: {"said": ["planned"]})
    builder.add_node("worker", worker)
    builder.add_node("sum", lambda state: {"said": [f"sum of {len(state['said'])}"]})
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", lambda state: [Send("worker", {"item": item}) for item in range(4)])
    builder.add_edge("worker", "sum")
    builder.add_edge("sum", END)
    return builder.compile(checkpointer=saver)


def fan_out(saver: Saver, ran: Counter[str]) -> Graph:
    """Four tasks at once, of which one asks."""
    return _fan_out(saver, ran, Said, asks=1)


def _appended(value: list[str], writes: Any) -> list[str]:
    return [*value, *(word for words in writes for word in words)]


class Deltas(TypedDict, total=False):
    said: Annotated[list[str], DeltaChannel(_appended)]
    item: int


class Snapshots(TypedDict, total=False):
    said: Annotated[list[str], DeltaChannel(_appended, snapshot_frequency=2)]
    item: int


def fan_out_of_deltas(saver: Saver, ran: Counter[str], asks: int = 3, schema: Any = Deltas) -> Graph:
    """The same on a channel that keeps its changes only, and is rebuilt from the writes of all checkpoints."""
    return _fan_out(saver, ran, schema, asks)


def updated(saver: Saver, ran: Counter[str]) -> Graph:
    """Goes to another node by a command, and then asks."""

    class Messages(TypedDict, total=False):
        messages: Annotated[list[AnyMessage], add_messages]

    def decide(state: Messages) -> Command[Any]:
        ran["decide"] += 1
        return Command(update={"messages": [AIMessage("deciding", id="1")]}, goto=["ask", "note"])

    def ask(state: Messages) -> Messages:
        ran["asked"] += 1
        return {"messages": [AIMessage(str(interrupt("may I?")), id="2")]}

    def note(state: Messages) -> Messages:
        ran["note"] += 1
        return {"messages": [AIMessage("noted", id="3")]}

    builder = StateGraph(Messages)
    builder.add_node("decide", decide)
    builder.add_node("ask", ask)
    builder.add_node("note", note)
    builder.add_edge(START, "decide")
    return builder.compile(checkpointer=saver)


MESSAGES = {"messages": [("user", "go")]}
SAID = {"said": ["go"]}
WORKED = {**{f"worker {item}": 1 for item in range(4)}, "asked": 2}
STOPPING: dict[str, Callable[[], Stopping]] = {
    "one call": lambda: Stopping(one_call, MESSAGES, {"look": 1, "asked": 2, "paid": 1}),
    "parallel calls": lambda: Stopping(mixed_calls, MESSAGES, {"look": 2, "asked": 4, "paid": 2}),
    "breakpoint": lambda: Stopping(breakpoint_before_tools, MESSAGES, {"look": 2}),
    "subgraph": lambda: Stopping(subgraph, SAID, {"work": 1, "asked": 2}),
    "subgraph with memory": lambda: Stopping(subgraph_with_memory, SAID, {"work": 1, "asked": 2}),
    "subgraph in a function": lambda: Stopping(subgraph_in_a_function, SAID, {"work": 1, "asked": 2}),
    "subgraph in a thread": lambda: Stopping(subgraph_in_a_thread, SAID, {"work": 1, "asked": 2}),
    "fan-out": lambda: Stopping(fan_out, SAID, WORKED),
    "fan-out of deltas": lambda: Stopping(fan_out_of_deltas, SAID, WORKED),
    "fan-out of deltas and snapshots": lambda: Stopping(partial(fan_out_of_deltas, schema=Snapshots), SAID, WORKED),
    "command": lambda: Stopping(updated, MESSAGES, {"decide": 1, "note": 1, "asked": 2}),
}
