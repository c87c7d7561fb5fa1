"""Streams of graphs with subgraphs: every mode shows the winner, and none of them a loser."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph

from entcent_agents.effects import READ
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
