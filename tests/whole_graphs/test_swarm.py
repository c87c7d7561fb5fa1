"""A swarm of two agents, from langgraph-swarm: who is active is state that the next request starts from."""

from __future__ import annotations

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph_swarm import create_handoff_tool, create_swarm

from entcent_agents.effects import EXTERNAL, READ, Effect
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

HANDOFFS = {"transfer_to_alice": READ, "transfer_to_bob": READ}


def swarm(done: list[int]):
    @tool
    def add(a: int, b: int) -> int:
        """Add."""
        done.append(a)
        return a + b

    def alice(index: int):
        first = [says("I know who can", ("transfer_to_bob", {}))]
        return lambda messages: first[since_human(messages)]

    def bob(index: int):
        second = [says(f"I add {index}", ("add", {"a": index, "b": 5})), says(f"bob {index} answers")]
        return lambda messages: second[since_human(messages, "bob")]

    agents = [
        create_agent(ScriptedChat(scripts=scripts(alice)), [add, create_handoff_tool(agent_name="bob")], name="alice"),
        create_agent(ScriptedChat(scripts=scripts(bob)), [add, create_handoff_tool(agent_name="alice")], name="bob"),
    ]
    return create_swarm(agents, default_active_agent="alice").compile()


@ROLLOUTS
@LIVE_OR_HELD
async def test_a_swarm_hands_over_and_the_next_request_finds_who_was_active(n: int, effect: Effect):
    done: list[int] = []
    requests = [{"messages": [HumanMessage("first")]}, {"messages": [HumanMessage("second")]}]
    state = await assert_same_as_alone(swarm(done), requests, n, effects={**HANDOFFS, "add": effect})
    assert state["active_agent"] == "bob"
    texts = [message.text for message in state["messages"]]
    assert texts.count("I know who can") == 1
    assert texts.count(f"bob {winner_of(n)} answers") == 2
    if effect is EXTERNAL:
        assert done == [winner_of(n)] * 4  # two requests, alone and as rollouts
