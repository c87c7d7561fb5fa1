"""A supervisor with two workers, from langgraph-supervisor."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph_supervisor import create_supervisor

from entcent_agents.effects import EXTERNAL, READ, Effect
from entcent_agents.rollouts.isolation import Graph
from entcent_agents.testing import ScriptedChat
from tests.whole_graphs.comparing import (
    LIVE_OR_HELD,
    ROLLOUTS,
    assert_same_as_alone,
    says,
    scripts,
    since_human,
    winner_of,
)

# The package is built on what LangGraph has moved elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore:.*has been moved to .langchain.agents:DeprecationWarning")
HANDOFFS = {"transfer_to_adder": READ, "transfer_to_reader": READ}


def supervised(output_mode: str, done: list[Any]) -> Graph:
    @tool
    def add(a: int, b: int) -> int:
        """Add."""
        done.append((a, b))
        return a + b

    @tool
    def look_up(what: str) -> str:
        """Look something up."""
        done.append(what)
        return f"{what} is known"

    def boss(index: int):
        turns = [says("ask", ("transfer_to_reader", {})), says("sum", ("transfer_to_adder", {})), says(f"done {index}")]
        return lambda messages: turns[since_human(messages, "boss")]

    def worker(index: int, name: str, call: tuple):
        turns = [says(f"{name} {index}", call), says(f"{name} {index} says")]
        return lambda messages: turns[messages[-1].type == "tool" and messages[-1].name == call[0]]

    adder = create_agent(
        ScriptedChat(scripts=scripts(lambda i: worker(i, "adder", ("add", {"a": i, "b": 1})))), [add], name="adder"
    )
    reader = create_agent(
        ScriptedChat(scripts=scripts(lambda i: worker(i, "reader", ("look_up", {"what": f"w{i}"})))),
        [look_up],
        name="reader",
    )
    return create_supervisor(
        [adder, reader], model=ScriptedChat(scripts=scripts(boss)), supervisor_name="boss", output_mode=output_mode
    ).compile()


@ROLLOUTS
@LIVE_OR_HELD
async def test_a_supervisor_hands_over_to_its_workers_and_answers(n: int, effect: Effect):
    done: list[Any] = []
    requests = [{"messages": [HumanMessage("first")]}, {"messages": [HumanMessage("second")]}]
    state = await assert_same_as_alone(
        supervised("full_history", done), requests, n, effects={**HANDOFFS, "add": effect, "look_up": effect}
    )
    texts = [message.text for message in state["messages"]]
    assert texts[-1] == f"done {winner_of(n)}" and texts.count(f"reader {winner_of(n)} says") == 2
    assert str(winner_of(n) + 1) in texts
    if effect is EXTERNAL:
        assert done == [f"w{winner_of(n)}", (winner_of(n), 1)] * 4  # two requests, alone and as rollouts


@ROLLOUTS
@LIVE_OR_HELD
async def test_a_supervisor_that_keeps_last_messages_alone(n: int, effect: Effect):
    state = await assert_same_as_alone(
        supervised("last_message", []),
        [{"messages": [HumanMessage("first")]}],
        n,
        effects={**HANDOFFS, "add": effect, "look_up": effect},
    )
    assert f"w{winner_of(n)} is known" not in [message.text for message in state["messages"]]
