"""Rollouts of an agent that is itself part of one that runs as rollouts: they may read there, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolRuntime
from langgraph.store.memory import InMemoryStore
from langgraph.types import interrupt

from entcent_agents.effects import EXTERNAL, READ, Effect
from entcent_agents.environments import DirectoryEnvironment
from entcent_agents.errors import ConfigurationError, EffectError
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.rollouts.isolation import Graph
from entcent_agents.testing import ScriptedChat
from tests.whole_graphs.comparing import ROLLOUTS, Chosen, says, scripts, since_human, winner_of

ASK: dict[str, Any] = {"messages": [HumanMessage("go")]}
INNER = 1


def mailing(sent: list[str], effect: Effect, **settings: Any) -> Graph:
    """Rollouts of an agent that sends a mail and notes it in the store."""

    @tool
    async def send_mail(to: str, runtime: ToolRuntime) -> str:
        """Send a mail."""
        sent.append(to)
        if runtime.store is not None:
            await runtime.store.aput(("mails",), to, {})
        return f"sent to {to}"

    def mails(index: int):
        turns = [says("hm", ("send_mail", {"to": f"ann{index}"})), says(f"done {index}")]
        return lambda messages: turns[since_human(messages)]

    agent = create_agent(ScriptedChat(scripts=scripts(mails)), [send_mail])
    return entropy_centroid_graph(agent, n=2, selector=Chosen(INNER), effects={"send_mail": effect}, **settings)


def around(inner: Any) -> Graph:
    builder = StateGraph(MessagesState)
    builder.add_node("inner", inner)
    builder.add_edge(START, "inner")
    return builder.compile()


def outer(agent: Graph, n: int, **settings: Any) -> Graph:
    return entropy_centroid_graph(agent, n=n, selector=Chosen(winner_of(n)), **settings)


@ROLLOUTS
async def test_what_only_reads_may_be_rolled_out_inside_a_rollout(n: int):
    sent: list[str] = []
    store = InMemoryStore()
    state = await outer(around(mailing(sent, READ)), n, store=store).ainvoke(ASK)
    assert [message.text for message in state["messages"]] == ["go", "hm", f"sent to ann{INNER}", f"done {INNER}"]
    assert [item.key for item in store.search(("mails",))] == [f"ann{INNER}"]


@ROLLOUTS
async def test_an_external_call_inside_would_be_made_in_losers_too_and_is_refused(n: int):
    sent: list[str] = []
    with pytest.raises(EffectError, match=r"tools that change something \(send_mail\) run inside a rollout"):
        await outer(around(mailing(sent, EXTERNAL)), n).ainvoke(ASK)
    assert sent == []


async def test_environments_inside_would_be_committed_by_losers_too_and_are_refused(tmp_path: Path):
    inner = mailing([], READ, environments=[DirectoryEnvironment(tmp_path)])
    with pytest.raises(EffectError, match="rollouts with environments run inside a rollout"):
        await outer(around(inner), 2).ainvoke(ASK)


async def test_a_question_inside_is_refused():
    async def asks(state: MessagesState) -> dict[str, Any]:
        return {"messages": [interrupt("really?")]}

    with pytest.raises(ConfigurationError, match="inside a rollout stopped to ask a person"):
        await outer(around(outer(around(asks), 2)), 2, checkpointer=InMemorySaver()).ainvoke(
            ASK, {"configurable": {"thread_id": "one"}}
        )


@ROLLOUTS
async def test_in_an_external_tool_rollouts_may_do_what_they_do_elsewhere_and_do_it_once(n: int):
    sent: list[str] = []
    store = InMemoryStore()
    inner = mailing(sent, EXTERNAL)

    @tool
    async def delegate(what: str) -> str:
        """Have it done."""
        done = await inner.ainvoke({"messages": [HumanMessage(what)]})
        return done["messages"][-1].text

    def delegates(index: int):
        turns = [says("hm", ("delegate", {"what": f"task {index}"})), says(f"end {index}")]
        return lambda messages: turns[since_human(messages)]

    agent = create_agent(ScriptedChat(scripts=scripts(delegates)), [delegate])
    state = await outer(agent, n, store=store).ainvoke(ASK)
    assert [message.text for message in state["messages"]][-2:] == [f"done {INNER}", f"end {winner_of(n)}"]
    assert sent == [f"ann{INNER}"]
    assert [item.key for item in store.search(("mails",))] == [f"ann{INNER}"]
