"""Results of tool calls, in forms that outlive a process."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.messages import ToolMessage
from langgraph.types import Command

from entcent_agents.rollouts.calls import Call, HeldCall, restored, stored

CALL = Call(namespace="tools:1", id="call_1", tool="send", arguments={"to": "x", "n": 5.0})
MESSAGE = ToolMessage("sent", tool_call_id="call_1", name="send", artifact={"id": 7})


@pytest.mark.parametrize("result", [MESSAGE, Command(update={"messages": [MESSAGE]}, goto="there"), {"a": [1]}, "text"])
def test_a_result_comes_back_as_it_was(result: Any):
    assert restored(json.loads(json.dumps(stored(result))), CALL) == result


def test_a_result_answers_the_call_that_asks_for_it():
    other = Call(namespace="tools:1", id="call_9", tool="send", arguments=CALL.arguments)
    assert restored(stored(MESSAGE), other).tool_call_id == "call_9"


@pytest.mark.parametrize(("given", "content"), [("sent", "sent"), ({"id": 7}, '{"id": 7}'), (None, "null")])
def test_what_a_person_gives_is_the_tools_answer(given: Any, content: str):
    message = restored(given, CALL)
    assert (message.content, message.tool_call_id, message.name) == (content, "call_1", "send")


def test_what_cannot_be_packed_is_its_text():
    assert restored(stored(object), CALL).content == "<class 'object'>"


def test_what_is_too_long_is_cut_and_says_so():
    kept = stored(ToolMessage("é" * 10_000, tool_call_id="call_1"), max_characters=4_000)
    assert len(json.dumps(kept)) <= 4_000
    assert restored(kept, CALL).content.endswith("… [cut: 500 of 10000 characters]")


def test_equal_arguments_have_equal_digests_and_a_held_call_comes_back_as_it_was():
    assert CALL.digest == Call(namespace="", id="", tool="send", arguments={"n": 5, "to": "x"}).digest
    held = HeldCall(call=CALL, idempotent=True).at("thread", 2, 1)
    assert HeldCall.from_dict(json.loads(json.dumps(held.to_dict()))) == held
    assert held.at("another", 0, 0) == held
