"""What people get wrong in their first script ends in one line that says what to do."""

from __future__ import annotations

import logging

import pytest
from langchain.agents import create_agent
from langgraph.graph import MessagesState, StateGraph

from entcent_agents import (
    EntropyCentroidMiddleware,
    MajorityVote,
    ParallelRollouts,
    ScriptedChat,
    ScriptedTurn,
    entropy_centroid_graph,
)
from entcent_agents.errors import ConfigurationError

MODEL = ScriptedChat(scripts=[[ScriptedTurn(text=text, entropy=[nats] * 9)] for text, nats in [("a", 0.9), ("b", 0.1)]])
AGENT = create_agent(MODEL)


def middleware(**settings):
    return create_agent(MODEL, middleware=[EntropyCentroidMiddleware(**settings)])


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (lambda: middleware(n=0), "n=0 candidates: at least one is needed"),
        (lambda: middleware(n="8"), "n='8' candidates: it must be a whole number"),
        (lambda: middleware(n=True), "n=True candidates: it must be a whole number"),
        (lambda: middleware(selector=MajorityVote), "pass an object with a `name` and a `select`"),
        (
            lambda: create_agent(MODEL, middleware=[EntropyCentroidMiddleware]),
            "pass an instance of the middleware, not its class: EntropyCentroidMiddleware(n=4)",
        ),
        (lambda: ParallelRollouts(AGENT, n=2.5), "n=2.5 rollouts: it must be a whole number"),
        (lambda: entropy_centroid_graph(AGENT, n=0), "n=0 rollouts: at least one is needed"),
        (lambda: entropy_centroid_graph(StateGraph(MessagesState)), "not compiled yet: pass agent.compile()"),
        (lambda: entropy_centroid_graph(MODEL), "the agent is of the type ScriptedChat, not a compiled graph"),
        (lambda: entropy_centroid_graph("agent"), "the agent is of the type str, not a compiled graph"),
    ],
)
def test_a_mistake_is_said_where_it_is_made(mistake, said: str):
    with pytest.raises(ConfigurationError) as raised:
        mistake()
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_log_says_what_the_middleware_chose_and_why(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, logger="entcent_agents.step"):
        assert middleware(n=2).invoke({"messages": [("user", "Go.")]})["messages"][-1].text == "b"
    (record,) = caplog.records
    assert (record.step["winner"], record.step["reason"]) == (1, "mean entropy 0.1 is the lowest of 2")
    assert "type" not in record.step
