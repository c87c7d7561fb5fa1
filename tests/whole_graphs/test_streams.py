"""Streams of graphs with subgraphs: every mode shows the winner, and none of them a loser."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

from entcent_agents.effects import READ
from entcent_agents.nodes import Retries
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.rollouts.isolation import Graph
from entcent_agents.testing import ScriptedChat
from tests.whole_graphs.comparing import ROLLOUTS, Chosen, says, scripts, since_human, winner_of

MODES = ["values", "updates", "messages", "custom", "tasks", "checkpoints", "debug"]
ASK = {"messages": [HumanMessage("go")]}


def talking_graph() -> Graph:
    @tool
    def tell(secret: str) -> str:
        """Tell a secret to the stream."""
        get_stream_writer()({"told": secret})
        return f"told {secret}"

    def talks(index: int):
        turns = [says(f"thinks{index}", ("tell", {"secret": f"secret{index}"})), says(f"answer{index}")]
        return lambda messages: turns[since_human(messages)]

    inner = create_agent(ScriptedChat(scripts=scripts(talks)), [tell], name="inner")
    builder = StateGraph(MessagesState)
    builder.add_node("inner", inner)
    builder.add_edge(START, "inner")
    return builder.compile()


def inside(graph: Graph) -> Graph:
    """The graph as a node of a larger one."""
    builder = StateGraph(MessagesState)
    builder.add_node("agent", graph)
    builder.add_edge(START, "agent")
    builder.add_edge("agent", END)
    return builder.compile(checkpointer=InMemorySaver())


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("subgraphs", [False, True])
@ROLLOUTS
async def test_no_mode_of_a_stream_shows_a_loser(n: int, subgraphs: bool, nested: bool):
    winner = winner_of(n)
    graph = entropy_centroid_graph(talking_graph(), n=n, selector=Chosen(winner), effects={"tell": READ})
    graph = inside(graph) if nested else graph.copy({"checkpointer": InMemorySaver()})
    config: Any = {"configurable": {"thread_id": "one"}}
    events = [event async for event in graph.astream(ASK, config, stream_mode=MODES, subgraphs=subgraphs)]
    streamed = repr(events)
    for loser in set(range(4)) - {winner}:
        assert not any(f"{word}{loser}" in streamed for word in ("thinks", "secret", "answer"))
    seen = {event[-2] for event in events}
    assert seen == set(MODES) if subgraphs or not nested else seen >= {"values", "updates", "tasks"}
    said = [event[-1][0].text for event in events if event[-2] == "messages"]
    if subgraphs or not nested:
        assert said == [f"thinks{winner}", f"told secret{winner}", f"answer{winner}"]
    kept = [saved async for saved in graph.checkpointer.alist(None)]
    assert f"answer{winner}" in repr(kept) and "thinks3" not in repr(kept)


@ROLLOUTS
def test_streams_from_synchronous_code_show_the_same(n: int):
    winner = winner_of(n)
    graph = entropy_centroid_graph(talking_graph(), n=n, selector=Chosen(winner), effects={"tell": READ})
    events = list(graph.stream(ASK, stream_mode=["values", "messages"], subgraphs=True))
    assert [event[0].text for _, mode, event in events if mode == "messages"][-1] == f"answer{winner}"
    assert "answer3" not in repr(events)


class Listening(BaseCallbackHandler):
    """A callback of the user's."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)
        return lambda *given, **named: self.heard.append((given, named.get("inputs")))


async def test_losers_that_are_held_ask_or_fail_reach_no_stream_no_callback_no_log_and_no_state(
    caplog: pytest.LogCaptureFixture,
):
    """Rollout 0 is held before a call, 1 wants to ask, 2 fails; 3 is selected, held, and goes on."""
    sent: list[str] = []

    @tool
    async def send(to: str) -> str:
        """Send a mail."""
        sent.append(to)
        return f"sent to {to}"

    @tool
    async def ask(what: str) -> str:
        """Ask a person."""
        return str(interrupt(what))

    @tool
    async def fail(why: str) -> str:
        """Fail."""
        raise ValueError(why)

    def script(index: int):
        name, argument = [("send", "to"), ("ask", "what"), ("fail", "why"), ("send", "to")][index]
        turns = [says(f"thinks{index}", (name, {argument: f"secret{index}"})), says(f"answer{index}")]
        return lambda messages: turns[since_human(messages)]

    caplog.set_level("DEBUG")
    listening = Listening()
    agent = create_agent(ScriptedChat(scripts=scripts(script)), [send, ask, fail])
    effects = {"ask": READ, "fail": READ}
    graph = entropy_centroid_graph(
        agent, n=4, selector=Chosen(3), effects=effects, checkpointer=InMemorySaver(), retries=Retries(attempts=1)
    )
    config: Any = {"configurable": {"thread_id": "one"}, "callbacks": [listening]}
    events = [event async for event in graph.astream(ASK, config, stream_mode=MODES, subgraphs=True)]
    assert sent == ["secret3"]
    kept = [saved async for saved in graph.checkpointer.alist(None)]
    for where in (events, listening.heard, kept, caplog.records, [record.getMessage() for record in caplog.records]):
        assert not any(f"{word}{loser}" in repr(where) for word in ("thinks", "secret") for loser in range(3))
    assert "secret3" in repr(events) and listening.heard
