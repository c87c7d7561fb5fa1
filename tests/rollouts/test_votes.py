"""What votes compare: rollouts agree if they did, want and say the same."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage
from langgraph.types import Command

from entcent_agents.rollouts.calls import Call, HeldCall
from entcent_agents.rollouts.ending import Ending
from entcent_agents.rollouts.request import Question


def held(*amounts: int, asks: str | None = None, says: str = "") -> Ending:
    calls = [Call(namespace=says, id=says, tool="pay", arguments={"amount": amount}) for amount in amounts]
    return Ending(
        status="held",
        messages=[AIMessage(says)],
        held=tuple(HeldCall(call=call, idempotent=False) for call in calls),
        questions=(Question(id=says, value=asks),) if asks else (),
    )


def test_held_rollouts_agree_on_what_they_want_to_call_whatever_they_say():
    assert held(5, says="one").vote_key == held(5, says="other").vote_key
    assert len({held(5).vote_key, held(6).vote_key, held(5, 6).vote_key, held(5, 5).vote_key}) == 4


def test_held_rollouts_agree_on_what_they_ask():
    assert held(asks="now?", says="one").vote_key == held(asks="now?", says="other").vote_key
    assert len({held(asks="now?").vote_key, held(asks="never?").vote_key, held(5, asks="now?").vote_key}) == 3


def test_handoffs_agree_on_where_they_lead():
    def to(node: str, says: str = "") -> Any:
        return Ending(status="finished", messages=[AIMessage(says)], handoff=Command(goto=node)).vote_key

    assert to("bob", "one") == to("bob", "other") != to("ann")
