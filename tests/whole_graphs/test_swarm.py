"""A swarm of two agents, from langgraph-swarm: who is active is state that the next request starts from."""

from __future__ import annotations

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph_swarm import create_handoff_tool, create_swarm

from entcent_agents.effects import READ
from entcent_agents.testing import ScriptedChat
from tests.whole_graphs.comparing import ROLLOUTS, assert_same_as_alone, says, scripts, since_human, winner_of

EFFECTS = {name: READ for name in ("add", "transfer_to_alice", "transfer_to_bob")}


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


def swarm():
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
async def test_a_swarm_hands_over_and_the_next_request_finds_who_was_active(n: int):
    requests = [{"messages": [HumanMessage("first")]}, {"messages": [HumanMessage("second")]}]
    state = await assert_same_as_alone(swarm(), requests, n, effects=EFFECTS)
    assert state["active_agent"] == "bob"
    texts = [message.text for message in state["messages"]]
    assert texts.count("I know who can") == 1
    assert texts.count(f"bob {winner_of(n)} answers") == 2
