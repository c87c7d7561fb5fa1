"""Tool calls in the ways small models write them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from entcent_agents.chat.text_tools import as_text, read_calls, tool_prompt

PLAIN = '{"name": "search", "arguments": {"query": "bees", "limit": 2}}'

WAYS = {
    "fenced json": f"Let me see.\n```json\n{PLAIN}\n```",
    "missing closing fence": f"```json\n{PLAIN}",
    "bare": PLAIN,
    "in prose with braces": f"I fill in {{query}} and {{limit}}, don't I? {PLAIN} That {{is}} all.",
    "tool_call markup": f"<tool_call>\n{PLAIN}\n</tool_call>",
    "tools markup": f"<tools>{PLAIN}</tools>",
    "doubled outer braces": "{" + PLAIN + "}",
    "all braces doubled": PLAIN.replace("{", "{{").replace("}", "}}"),
    "trailing commas": '{"name": "search", "arguments": {"query": "bees", "limit": 2,},\n}',
    "Python literals": "{'name': 'search', 'arguments': {'query': 'bees', 'limit': 2}}",
    "single quotes with JSON words": "{'name': 'search', 'arguments': {'query': 'bees', 'limit': 2}, 'strict': true}",
    "arguments as a JSON string": json.dumps({"name": "search", "arguments": '{"query": "bees", "limit": 2}'}),
    "parameters": PLAIN.replace("arguments", "parameters"),
    "args": PLAIN.replace("arguments", "args"),
    "input": '{"tool": "search", "input": {"query": "bees", "limit": 2}}',
    "nested function object": f'{{"type": "function", "function": {PLAIN}}}',
    "list of one call": f"[{PLAIN}]",
    "after broken JSON": f'{{"query": "bees", {PLAIN}',
}


@pytest.mark.parametrize("text", WAYS.values(), ids=WAYS)
def test_a_call_is_read_however_it_is_written(text):
    valid, invalid = read_calls(text, ["search"])
    assert [(call["name"], call["args"]) for call in valid] == [("search", {"query": "bees", "limit": 2})]
    assert invalid == []


STRINGS = {
    "raw newlines": ('{"name": "run", "arguments": {"code": "a\nb\tc"}}', "a\nb\tc"),
    "triple quotes": ('{"name": "run", "arguments": {"code": """say "a"\nb"""}}', 'say "a"\nb'),
    "apostrophes": ("""{"name": "run", "arguments": {"code": "it's, {fine}",},}""", "it's, {fine}"),
    "commas and brackets": ('{"name": "run", "arguments": {"code": "[1, ], {2,}",},}', "[1, ], {2,}"),
    "words of Python": ('{"name": "run", "arguments": {"code": "None, True",},}', "None, True"),
    "backslashes that escape nothing": (r'{"name": "run", "arguments": {"code": "\d+\n"}}', "\\d+\n"),
    "quotes in single quotes": (
        """{'name': 'run', 'arguments': {'code': 'say "a" and it\\'s'}}""",
        'say "a" and it\'s',
    ),
    "doubled braces": ('{{"name": "run", "arguments": {{"code": "x"}}}}', "x"),
    "braces of templates": ('{"name": "run", "arguments": {"code": "{{x}}"}}', "{{x}}"),
}


@pytest.mark.parametrize("text, code", STRINGS.values(), ids=STRINGS)
def test_strings_arrive_as_they_were_meant(text, code):
    (call,) = read_calls(text).valid
    assert call["args"] == {"code": code}


def test_words_of_python_become_json():
    (call,) = read_calls("{'name': 'set', 'arguments': {'a': True, 'b': False, 'c': None, 'd': [1, 2]}}").valid
    assert call["args"] == {"a": True, "b": False, "c": None, "d": [1, 2]}


@pytest.mark.parametrize("text", [f"{PLAIN}\nand\n{PLAIN}", f"[{PLAIN}, {PLAIN}]", f"```json\n{PLAIN}\n```\n{PLAIN}"])
def test_several_calls_are_read_in_order_and_have_ids_of_their_own(text):
    first, second = read_calls(text).valid
    assert first["args"] == second["args"] == {"query": "bees", "limit": 2}
    assert first["id"] != second["id"]


def test_a_known_tool_needs_no_arguments_and_an_unknown_name_does():
    assert [call["args"] for call in read_calls('{"name": "now"}', ["now"]).valid] == [{}]
    assert read_calls('{"name": "Alice", "age": 3}', ["now"]) == ([], [])
    assert [call["name"] for call in read_calls(PLAIN, ["now"]).valid] == ["search"]


@pytest.mark.parametrize(
    "text",
    ["No call {here}.", 'Data: {"query": "bees"}', "[1, 2, 3]", "```python\nd = {k: v for k, v in x}\n```", "", "{{}}"],
)
def test_what_is_no_call_is_none(text):
    assert read_calls(text, ["search"]) == ([], [])


def test_an_unclosed_call_is_invalid_and_says_what_to_do():
    valid, (broken,) = read_calls('So: {"name": "search", "arguments": {"query": "bees', ["search"])
    assert valid == []
    assert broken["name"] == "search"
    assert broken["args"] == '{"name": "search", "arguments": {"query": "bees'
    assert "close every brace" in broken["error"]


@pytest.mark.parametrize("arguments", ["[1, 2]", '"bees"', "7"])
def test_arguments_that_are_no_object_are_invalid_and_the_error_says_so(arguments):
    valid, (broken,) = read_calls(f'{{"name": "search", "arguments": {arguments}}}', ["search"])
    assert valid == []
    assert "arguments as one JSON object" in broken["error"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
arguments_of_any_kind = st.dictionaries(st.text(), json_values)


@given(arguments_of_any_kind, st.booleans())
def test_any_arguments_survive_a_fenced_block(arguments, ascii_only):
    written = json.dumps({"name": "search", "arguments": arguments}, ensure_ascii=ascii_only)
    (call,) = read_calls(f"Now:\n```json\n{written}\n```\n", ["search"]).valid
    assert call["args"] == arguments


@given(arguments_of_any_kind)
def test_any_arguments_survive_as_python_prints_them_or_are_invalid(arguments):
    valid, invalid = read_calls(repr({"name": "search", "arguments": arguments}), ["search"])
    assert len(valid) + len(invalid) == 1


pieces = st.sampled_from(
    ['{"name": "search"', "{{", "}}", "{", "}", "[", "]", '"', "'", '"""', "\\", ",", ":", "```", "a"]
)


@given(st.text() | st.lists(pieces, max_size=40).map("".join))
def test_reading_never_raises_and_what_it_reads_is_json(text):
    for call in read_calls(text, ["search"]).valid:
        json.dumps(call["args"])


@pytest.mark.parametrize(
    "text", ["[" * 50_000, "{" * 50_000, '{"a":' * 2_000, '[{"a":' * 2_000, '{"a":{1:{2}}}', '"' * 999]
)
def test_degenerate_text_is_read_quickly_and_without_an_error(text):
    assert read_calls(text, ["search"]) == ([], [])


# The conversation as text


SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search\n  the library.",
        "parameters": {
            "properties": {
                "query": {"type": "string"},
                "kind": {"enum": ["book", "film"]},
                "tags": {"type": "array", "items": {"type": "string"}},
                "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                "page": {"type": ["integer", "null"]},
            },
            "required": ["query"],
        },
    },
}


def test_the_prompt_has_one_line_a_tool_and_an_example_that_reads_as_a_call():
    prompt = tool_prompt([SEARCH])
    assert (
        'search(query: string, kind?: "book" | "film", tags?: array of string, limit?: integer | null, '
        "page?: integer | null): Search the library." in prompt
    )
    (call,) = read_calls(prompt).valid
    assert (call["name"], call["args"]) == ("search", {"query": "..."})


def test_the_system_message_is_kept_and_one_is_made_where_there_is_none():
    kept = as_text([SystemMessage("Be brief."), HumanMessage("Hi")], [SEARCH])
    made = as_text([HumanMessage("Hi")], [SEARCH])
    assert kept[0].text.startswith("Be brief.\n\nYou have these tools")
    assert made[0].text.startswith("You have these tools")
    assert [message.type for message in kept] == [message.type for message in made] == ["system", "human"]


def test_calls_and_results_become_text_and_neighbouring_results_one_message():
    call = {"name": "search", "args": {"query": "x"}, "id": "1"}
    texts = as_text(
        [
            HumanMessage("Hi"),
            AIMessage("Look:", tool_calls=[call, call | {"id": "2"}]),
            ToolMessage("one", name="search", tool_call_id="1"),
            ToolMessage("two", tool_call_id="2"),
        ],
        [],
    )
    assert [message.type for message in texts] == ["human", "ai", "human"]
    assert len(read_calls(texts[1].text).valid) == 2
    assert texts[2].text == "<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>"


def test_a_call_that_is_in_the_text_is_not_written_again_and_its_fence_is_closed():
    text = f"Look:\n```json\n{PLAIN}"
    message = AIMessage(text, tool_calls=[{"name": "search", "args": {"query": "bees", "limit": 2}, "id": "1"}])
    (written,) = as_text([message], [])
    assert written.text == f"{text}\n```"
