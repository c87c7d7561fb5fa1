from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entcent_agents.branching import decision_tokens
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.segments import SegmentKind
from tests.branching.turns import CALL, turn


def decided(tokens: list[str]) -> list[tuple[str, str]]:
    return [(tokens[each.token], each.decision) for each in decision_tokens(turn(tokens, [0.0] * len(tokens)))]


def test_a_call_decides_that_it_is_one_and_which_tool_with_which_values():
    assert decided(CALL) == [
        ("<tool_call>", "call"),
        ("find", "tool"),
        ("_all", "tool"),
        ("4", "argument"),
        ("1", "argument"),
    ]


@pytest.mark.parametrize(
    ("tokens", "calls"),
    [
        (["Hello", " you", "."], ["Hello"]),
        (["\n", "Hello", " you", "<|im_end|>"], ["Hello"]),
        (["<think>", "so", "</think>", "\n\n", "Hello"], ["Hello"]),
        (["<think>", "so", "</think>", "\n\n", *CALL], ["<tool_call>"]),
        (["so", "</", "think", ">\n", "<", "tool_call", ">", *CALL[1:]], ["<"]),
        (["I", " will", ".", "\n", *CALL], ["I", "<tool_call>"]),
        (["<think>", "so", "</think>", "I", " will", "\n", *CALL], ["I", "<tool_call>"]),
        (["Look", ":\n", "```json\n", *CALL[2:11], "\n```"], ["Look", "```json\n"]),
        ([*CALL, "\n", *CALL], ["<tool_call>"]),
        ([*CALL, "\n", "Done", "."], ["<tool_call>"]),
    ],
)
def test_the_choice_to_call_is_where_calls_or_the_answer_begin(tokens, calls):
    assert [token for token, decision in decided(tokens) if decision == "call"] == calls


def test_a_tool_name_that_begins_the_turn_within_a_token_decides_the_tool():
    assert decided(["[find", "(x=", "1", ")]"]) == [("[find", "tool"), ("1", "argument")]


def test_turns_of_which_nobody_knows_what_they_say_decide_nothing():
    zeros = np.zeros(3, np.float32)
    unknown = TokenLogprobs(
        text=b"", offsets=np.zeros(4, np.int32), logprob=zeros, entropy=zeros, residual=zeros, confidence=zeros, top_k=5
    )
    assert decision_tokens(unknown) == ()
    assert decision_tokens(turn([], [])) == ()


PIECES = ["<think>", "</think>", "\n", " ", "Hello", *CALL, "[f", "(a=", "'x'", ")]", "```json\n", "<|im_end|>", "é"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=20))
def test_every_token_decides_one_thing_at_most_and_names_and_values_are_always_among_them(tokens):
    logprobs = turn(tokens, [0.0] * len(tokens))
    found = decision_tokens(logprobs)
    places = [each.token for each in found]
    assert places == sorted(set(places))
    assert all(each.kind == logprobs.kind[each.token] for each in found)
    for kind, decision in ((SegmentKind.TOOL_NAME, "tool"), (SegmentKind.TOOL_ARGUMENT, "argument")):
        assert [each.token for each in found if each.decision == decision] == np.flatnonzero(
            logprobs.kind == kind
        ).tolist()
    for each in found:
        if each.decision == "call":
            assert each.kind in (SegmentKind.MARKUP, SegmentKind.ANSWER)
            assert tokens[each.token].strip()
