"""What a text says: tool calls that are written in it, answers without the thoughts before them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entcent_agents.outcomes import outcome_key
from entcent_agents.recordings.texts import said_in
from tests.recordings.samples import one, read, written

ARGUMENTS = {"city": "São Paulo", "days": 3, "units": {"b": [1, None], "a": True}}
TURNED = dict(reversed(ARGUMENTS.items()))
CALL = outcome_key([("weather", ARGUMENTS)], "")


def call(said: Any, **keys: str) -> str:
    return json.dumps({keys.get("name", "name"): "weather", keys.get("arguments", "arguments"): said})


SAME_CALL = {
    "tag": f"<tool_call>{call(ARGUMENTS)}</tool_call>",
    "tag, other order": f"<tool_call>\n{call(TURNED)}\n</tool_call>",
    "after a thought": f"<think>I need the weather</think>\n<tool_call>{call(ARGUMENTS)}</tool_call>",
    "after prose": f"Let me look.\n<tool_call>{call(TURNED)}</tool_call><|im_end|>",
    "arguments as text": f"<tool_call>{call(json.dumps(ARGUMENTS))}</tool_call>",
    "block": f"```json\n{call(TURNED)}\n```",
    "bare": call(ARGUMENTS, arguments="parameters"),
    "list": f"[{call(ARGUMENTS, name='tool', arguments='args')}]",
    "function": f"<function=weather>{json.dumps(TURNED)}</function>",
    "named": f"[TOOL_CALLS]weather[ARGS]{json.dumps(ARGUMENTS)}",
    "named, with an id": f"[TOOL_CALLS]weather[CALL_ID]abc123[ARGS]{json.dumps(TURNED)}</s>",
    "keywords": '[weather(days=3, city="São Paulo", units={"a": True, "b": [1, None]})]',
    "Python's words": f"<tool_call>{ ({'name': 'weather', 'arguments': TURNED}) }</tool_call>",
}


def key_of(text: str, tmp_path: Any, **options: Any) -> str | None:
    (found,) = read(written(tmp_path / "f", one("llama", content=text, task="t")), **options)["t"]
    return found.rollout.vote_key


@pytest.mark.parametrize("text", SAME_CALL.values(), ids=SAME_CALL)
def test_a_call_in_the_text_is_the_call_whoever_wrote_it(text, tmp_path):
    assert key_of(text, tmp_path) == CALL


@pytest.mark.parametrize("shape", ["chat", "completion", "llama", "entropy_results"])
def test_every_shape_of_text_is_looked_into(shape, tmp_path):
    line = one(shape, task="t")
    if shape == "chat":
        line["choices"][0]["message"] = {"content": SAME_CALL["tag"]}
    elif shape == "completion":
        line["choices"][0]["text"] = SAME_CALL["tag"]
    else:
        line["content" if shape == "llama" else "generated_text"] = SAME_CALL["tag"]
    (found,) = read(written(tmp_path / "f", line))["t"]
    assert found.rollout.vote_key == CALL


def test_parameters_in_tags_are_the_arguments():
    parameters = [("path", "a b"), ("lines", "3"), ("options", '{"b": 1, "a": 2}'), ("broken", "[1,")]
    body = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in parameters)
    calls, answer = said_in(f"<tool_call>\n<function=edit>\n{body}</function>\n</tool_call>")
    assert calls == [("edit", {"path": "a b", "lines": "3", "options": {"a": 2, "b": 1}, "broken": "[1,"})]
    assert answer == ""


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("[f(a=1), g()]", [("f", {"a": 1}), ("g", {})]),
        ("<function=f></function>", [("f", {})]),
        ('<tool_call>{"name": "f"}</tool_call>', [("f", None)]),
        ('<tool_call>{"arguments": {"a": 1}}</tool_call>', [("", {"a": 1})]),
        ('<tool_call>{"name": "f", "arguments": {"a": 12', [("f", '{"a": 12')]),
        ("<tool_call></tool_call>", []),
    ],
)
def test_calls_that_lack_something(text, calls):
    assert said_in(text) == (calls, "")


def test_a_call_that_is_cut_off_is_another_one(tmp_path):
    whole = '<tool_call>{"name": "f", "arguments": {"a": 12}}</tool_call>'
    assert key_of(whole[:42], tmp_path) not in (None, key_of(whole, tmp_path))


def test_other_thoughts_do_not_make_another_answer(tmp_path):
    texts = [
        "<think>Lyon?</think>Paris",
        "<think>\nNo.\n</think>\n\n paris.",
        "Of course</think>Paris<|im_end|>",
        "Paris",
    ]
    assert {key_of(text, tmp_path) for text in texts} == {outcome_key([], "Paris")}


def test_only_the_answer_is_searched(tmp_path):
    number = re.compile(r"\d+")
    assert key_of("<think>1 or 2</think>It is 3", tmp_path, answer=number) == outcome_key([], "3")
    assert key_of("<think>1 or 2</think>No idea", tmp_path, answer=number) is None


@pytest.mark.parametrize("text", ["<think>never done", "<think>a</think>", "<think>a</think>\n..."])
def test_thoughts_without_an_answer_are_no_outcome(text, tmp_path):
    assert key_of(text, tmp_path) is None


def test_json_that_calls_nothing_is_an_answer(tmp_path):
    text = '{"city": "Paris", "people": 2000000}'
    assert key_of(text, tmp_path) == outcome_key([], text)


@pytest.mark.parametrize("arguments", [json.dumps(TURNED), ARGUMENTS])
def test_the_former_function_call_is_one_call(arguments, tmp_path):
    line = one("chat", task="t")
    line["choices"][0]["message"] = {"content": None, "function_call": {"name": "weather", "arguments": arguments}}
    (found,) = read(written(tmp_path / "f", line))["t"]
    assert found.rollout.vote_key == CALL


def test_what_the_server_says_was_called_counts_before_what_is_written(tmp_path):
    line = one("chat", task="t")
    line["choices"][0]["message"] = {
        "content": SAME_CALL["tag"],
        "tool_calls": [{"function": {"name": "other", "arguments": "{}"}}],
        "function_call": {"name": "third", "arguments": "{}"},
    }
    (found,) = read(written(tmp_path / "f", line))["t"]
    assert found.rollout.vote_key == outcome_key([("other", {})], "")


PIECES = (
    *("<tool_call>", "</tool_call>", "<think>", "</think>", "[TOOL_CALLS]", "[ARGS]", "<function=f>", "</function>"),
    *(
        "<parameter=a>",
        "</parameter>",
        '{"name": "f", "arguments": ',
        '{"a": 1',
        "}",
        "{{",
        "[f(a=",
        ")]",
        "```",
        "☃",
        "\n",
    ),
)


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12))
def test_any_text_says_something_or_nothing(pieces):
    calls, answer = said_in("".join(pieces))
    assert outcome_key(calls, answer) == outcome_key(calls, answer)
