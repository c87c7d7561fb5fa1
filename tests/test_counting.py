"""Whose tokens are whose, by hand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage

from entcent_agents.chat.counting import generated_tokens, shares
from entcent_agents.chat.model import ChatLogprobs
from tests.chat_server import Reply, Token, says


@pytest.mark.parametrize(
    ("listed", "unlisted", "counted", "generated"),
    [
        ([20], [0], 21, [21]),  # one end token that is not listed
        ([20], [5], 20, [20]),  # a count for one choice is believed
        ([20], [5], 0, [25]),  # a count of nothing is none
        ([20], [5], None, [25]),
        ([20, 19, 19], [0, 0, 0], 60, [21, 20, 19]),
        ([20, 5, 5], [0, 15, 15], 20, [20, 20, 20]),  # the first choice was counted alone
        ([100, 0], [0, 48], 150, [101, 49]),  # one choice came without log-probabilities
    ],
)
def test_tokens_of_choices(listed, unlisted, counted, generated):
    assert generated_tokens(listed, unlisted, counted) == generated


@given(st.integers(0, 10**6), st.integers(1, 64))
def test_shares_add_up_and_differ_by_one_at_most(total, parts):
    found = shares(total, parts)
    assert sum(found) == total
    assert len(found) == parts
    assert max(found) - min(found) <= 1


async def test_a_choice_whose_tokens_are_partly_listed_is_not_taken_for_complete(serve):
    whole = says(" ".join(["word"] * 20))
    partly = Reply(tokens=whole.tokens, listed=5)
    server = serve(lambda request: [whole, partly, partly], counts="first")
    model = ChatLogprobs(model="scripted", base_url=server.base_url, max_retries=0)
    answers = await model.agenerate_n("Hi", 3, tools=[{"name": "f", "description": "", "parameters": {}}])
    coverages = [
        answer.token_logprobs.scored_tokens / answer.message.usage_metadata["output_tokens"] for answer in answers
    ]
    assert coverages[0] == 1.0
    assert all(coverage < 0.5 for coverage in coverages[1:])


async def test_a_native_call_that_is_not_listed_counts_against_coverage(serve):
    call = ("search", json.dumps({"query": "x" * 200}))
    server = serve([Reply(tokens=[Token(says="ok", probabilities=(0.5, 0.5))], tool_calls=[call])], counts=False)
    model = ChatLogprobs(model="scripted", base_url=server.base_url, max_retries=0)
    (answer,) = await model.agenerate_n("Hi", 1, tools=[{"name": "search", "description": "", "parameters": {}}])
    assert answer.token_logprobs.scored_tokens == 1
    assert answer.message.usage_metadata["output_tokens"] > 40


def body(logprobs: dict) -> Reply:
    message = {"role": "assistant", "content": "yes", "reasoning_content": "hm"}
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "stop"}
    return Reply(raw=json.dumps({"choices": [choice], "usage": {"completion_tokens": 2}}).encode())


async def test_tokens_of_reasoning_come_before_those_of_the_answer(serve):
    entry = Token(says="yes", probabilities=(0.5, 0.5)).entry()
    thought = Token(says="hm", probabilities=(0.5, 0.5)).entry()
    server = serve([body({"content": [entry], "reasoning_content": [thought]})])
    model = ChatLogprobs(model="scripted", base_url=server.base_url, max_retries=0)
    result = await model.agenerate([[HumanMessage("Hi")]], tools=[{"type": "function", "function": {"name": "f"}}])
    assert result.generations[0][0].token_logprobs.text == b"hmyes"
    assert result.generations[0][0].token_logprobs.scored_tokens == 2


async def test_parallel_lists_in_a_chat_answer_keep_all_alternatives(serve):
    top = [{"yes": -1.0, "no": -1.1, "so": -1.2}]
    server = serve([body({"tokens": ["yes"], "token_logprobs": [-1.0], "top_logprobs": top})])
    model = ChatLogprobs(model="scripted", base_url=server.base_url, max_retries=0)
    result = await model.agenerate([[HumanMessage("Hi")]], tools=[{"type": "function", "function": {"name": "f"}}])
    assert result.generations[0][0].token_logprobs.top_k == 3
    assert result.generations[0][0].token_logprobs.scored_tokens == 1
