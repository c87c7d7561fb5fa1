"""Which tokens of a turn are reasoning, answer, names, arguments and markup, in the ways models write."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entcent_agents.logprobs import token_offsets
from entcent_agents.segments import SegmentKind, token_kinds, token_segments

UNKNOWN, MARKUP, REASONING, ANSWER, NAME, ARGUMENT = SegmentKind


def said(tokens: list[bytes]) -> list[tuple]:
    """What each segment covers, markup left out: kind, text, call, path."""
    segments = token_segments(b"".join(tokens), token_offsets(tokens))
    return [
        (kind, b"".join(tokens[start:end]).decode("utf-8", "replace"), call, path)
        for kind, start, end, call, path in segments
        if kind != MARKUP
    ]


def single_bytes(text: str) -> list[bytes]:
    return [bytes([byte]) for byte in text.encode()]


def name(text: str, call: int = 0) -> tuple:
    return (NAME, text, call, ())


def argument(text: str, *path: str | int, call: int = 0) -> tuple:
    return (ARGUMENT, text, call, path)


def answer(text: str) -> tuple:
    return (ANSWER, text, None, ())


def reasoning(text: str) -> tuple:
    return (REASONING, text, None, ())


CALL = '{"name": "search", "arguments": {"query": "bees", "limit": 2}}'
CALLED = [name("search"), argument("bees", "query"), argument("2", "limit")]
AGAIN = [name("search", 1), argument("bees", "query", call=1), argument("2", "limit", call=1)]

FORMATS = {
    "Hermes and Qwen": (f"Sure.\n<tool_call>\n{CALL}\n</tool_call><|im_end|>", [answer("Sure."), *CALLED]),
    "Qwen, two calls": (f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{CALL}\n</tool_call>", CALLED + AGAIN),
    "Qwen3, thinking": (
        f"<think>\nBees, é?\n</think>\n\n<tool_call>\n{CALL}\n</tool_call>",
        [reasoning("Bees, é?"), *CALLED],
    ),
    "Qwen3, told not to think": ("<think>\n\n</think>\n\nTwo.", [answer("Two.")]),
    "Qwen3-Coder": (
        "<tool_call>\n<function=run>\n<parameter=command>\nls -l\n\ncd ..\n</parameter>\n"
        "<parameter=timeout>\n10\n</parameter>\n</function>\n</tool_call>",
        [name("run"), argument("ls -l\n\ncd ..", "command"), argument("10", "timeout")],
    ),
    "Qwen3-Coder, closing tags forgotten": (
        "<function=run>\n<parameter=command>\nls\n<parameter=timeout>\n10\n</function>",
        [name("run"), argument("ls", "command"), argument("10", "timeout")],
    ),
    "Llama, python tag": (
        '<|python_tag|>{"name": "f", "parameters": {"x": true}}; {"name": "g", "parameters": {}}<|eom_id|>',
        [name("f"), argument("true", "x"), name("g", 1)],
    ),
    "Llama, bare": ('{"name": "f", "parameters": {"x": "1"}}<|eot_id|>', [name("f"), argument("1", "x")]),
    "Llama, function tag": ('<function=f>{"x": -1.5e3}</function>', [name("f"), argument("-1.5e3", "x")]),
    "Llama, as Python": (
        '[f(a="x, y", b=[1, 2], c={"d": None}), g()]<|eot_id|>',
        [
            *(name("f"), argument("x, y", "a"), argument("1", "b", 0), argument("2", "b", 1)),
            *(argument("None", "c", "d"), name("g", 1)),
        ],
    ),
    "Mistral, list": (
        f"[TOOL_CALLS][{CALL}, {CALL}]</s>",
        CALLED + AGAIN,
    ),
    "Mistral, name and arguments": (
        '[TOOL_CALLS]f[ARGS]{"x": 1}[TOOL_CALLS]g[CALL_ID]abc[ARGS]{"y": "z"}</s>',
        [name("f"), argument("1", "x"), name("g", 1), argument("z", "y", call=1)],
    ),
    "Mistral, thinking": ("[THINK]Hm.[/THINK]Two.", [reasoning("Hm."), answer("Two.")]),
    "JSON in a fence": (f"See:\n```json\n{CALL}\n```\nDone.", [answer("See:"), *CALLED, answer("Done.")]),
    "JSON in a fence of another name": (f"```python\n{CALL}\n```", CALLED),
    "JSON in a fence that is not closed": (f"```json\n{CALL}", CALLED),
    "JSON within prose": (f"I {{think}} so: {CALL} Fine.", [answer("I {think} so:"), *CALLED, answer("Fine.")]),
    "list of calls": (f"[{CALL},\n {CALL}]", CALLED + AGAIN),
    "doubled braces": (CALL.replace("{", "{{").replace("}", "}}"), CALLED),
    "doubled outer braces": ("{" + CALL + "}", CALLED),
    "as Python prints it": (
        "{'name': 'f', 'arguments': {'a': True, 'b': None, 'c': 'it\\'s',},}",
        [name("f"), argument("True", "a"), argument("None", "b"), argument("it\\'s", "c")],
    ),
    "triple quotes": (
        '{"name": "f", "arguments": {"a": """say "x"\n"""}}',
        [name("f"), argument('say "x"\n', "a")],
    ),
    "other keys": ('{"tool": "f", "input": {"a": 1}}', [name("f"), argument("1", "a")]),
    "nested function": ('{"function": {"name": "f", "args": {"a": 1}}}', [name("f"), argument("1", "a")]),
    "arguments first": ('{"arguments": {"a": 1}, "name": "f"}', [argument("1", "a"), name("f")]),
    "arguments as JSON text": (
        r'{"name": "f", "arguments": "{\"a\": \"b\\nc\", \"d\": [\"\u00e9\", 2]}"}',
        [name("f"), argument(r"b\\nc", "a"), argument(r"\u00e9", "d", 0), argument("2", "d", 1)],
    ),
    "empty values": (
        '{"name": "f", "arguments": {"a": "", "b": [], "c": {}, "d": [{}]}}',
        [name("f"), argument('""', "a"), argument("[]", "b"), argument("{}", "c"), argument("{}", "d", 0)],
    ),
    "markup within a string": (
        '<tool_call>{"name": "f", "arguments": {"a": "</tool_call> ```\\n}"}}</tool_call>',
        [name("f"), argument("</tool_call> ```\\n}", "a")],
    ),
    "no arguments within tags": ('<tool_call>{"name": "now"}</tool_call>', [name("now")]),
}  # fmt: skip


@pytest.mark.parametrize("text, expected", FORMATS.values(), ids=FORMATS)
def test_every_format_is_taken_apart_to_the_byte(text, expected):
    assert said(single_bytes(text)) == expected


CUT = {
    "Hermes": ('<tool_call>\n{"name": "f", "arguments": {"a": "x", "b": "so f', [("x", "a"), ("so f", "b")]),
    "Hermes in a name": ('<tool_call>\n{"name": "f', []),
    "Hermes, end of turn": ('<tool_call>\n{"name": "f", "arguments": {"a": tr<|im_end|>', [("tr", "a")]),
    "Hermes, a quote forgotten": ('<tool_call>{"name": "f", "arguments": {"a": "x}}</tool_call>\n"?"', [("x}}", "a")]),
    "Hermes, a brace forgotten": ('<tool_call>{"name": "f", "arguments": {"a": "x"}</tool_call> {', [("x", "a")]),
    "bare": ('{"name": "f", "parameters": {"a": [1, 23', [("1", "a", 0), ("23", "a", 1)]),
    "after a fence that prose speaks of": ('A ```sql fence: <tool_call>{"name": "f", "input": {"a": "x', [("x", "a")]),
    "fenced": ('```json\n{"name": "f", "arguments": {"a": {"b": "x\\', [("x\\", "a", "b")]),
    "JSON text": (r'{"name": "f", "arguments": "{\"a\": \"so f', [("so f", "a")]),
    "parameters": ("<function=f>\n<parameter=a>\nx\n</parameter>\n<parameter=b>\nso f", [("x", "a"), ("so f", "b")]),
    "a parameter's tag": ("<function=f>\n<parameter=a>\nx\n</parameter>\n<parameter=quer", [("x", "a")]),
    "function's tag": ("<tool_call>\n<function=f", []),
    "as Python": ('[f(a="x", b="so f', [("x", "a"), ("so f", "b")]),
    "as Python, in a key": ('[f(a="x", b', [("x", "a")]),
    "Mistral": ('[TOOL_CALLS]f[ARGS]{"a": 1', [("1", "a")]),
    "Mistral in the name": ("[TOOL_CALLS]f", []),
}  # fmt: skip


@pytest.mark.parametrize("text, leaves", CUT.values(), ids=CUT)
def test_of_a_call_that_is_cut_off_or_broken_the_tokens_so_far_count(text, leaves):
    found = [part for part in said(single_bytes(text)) if part[0] != ANSWER]
    assert found == [name("f"), *(argument(value, *path) for value, *path in leaves)]


NO_CALLS = {
    "prose": "The bees [see 2] know {that} `x[i]`, <b>surely</b>.",
    "JSON": '{"city": "Paris", "population": [2, {"unit": "million"}]}',
    "JSON in a fence": 'Here:\n```json\n{"name": "Alice", "age": 3}\n```\nDone.',
    "a call within other JSON": '{"example": {"name": "f", "arguments": {"a": 1}}}',
    "code": 'So:\n```python\ncall = {"name": "f", "arguments": {"a": 1}}\nx = [f(a=1)]\n```\nThat is all.',
    "a list of code that is not closed": "```js\nconst x = {'name': 'f', 'args': {'a': 1}}",
    "mathematics": "[f(1), g(2)] is a vector",
    "a link": "[f()](https://example.org)",
    "a call of Python within prose": "Write [f(a=1)] there.",
    "an outline of a call": 'Like {"name": "f", "arguments": {...}} it is.',
    "a fence that prose speaks of": "A ```python fence, or ```json, they say.",
    "a tag that prose speaks of": "The <think> tag opens the reasoning.",
    "white space": " \n ",
}


@pytest.mark.parametrize("text", NO_CALLS.values(), ids=NO_CALLS)
def test_what_is_no_call_is_answer_from_end_to_end(text):
    assert said(single_bytes(text)) == [answer(text)]


@pytest.mark.parametrize("tag", ["think", "thinking", "reasoning"])
def test_reasoning_needs_neither_its_opening_nor_its_closing_tag(tag):
    assert said(single_bytes(f"Hm {{x}}.\n</{tag}>\nTwo.")) == [reasoning("Hm {x}."), answer("Two.")]
    assert said(single_bytes(f"<{tag}>\nHm, {CALL}<|im_end|>")) == [reasoning(f"Hm, {CALL}")]
    assert said(single_bytes(f"<{tag}>Hm.</{tag}>Two.\n<{tag}>Or")) == [
        reasoning("Hm."),
        answer("Two."),
        reasoning("Or"),
    ]


def test_a_closing_tag_within_an_argument_ends_no_reasoning():
    call = '{"name": "f", "arguments": {"a": "split(</think>)"}}'
    assert said(single_bytes(call)) == [name("f"), argument("split(</think>)", "a")]
    assert said(single_bytes(f"Hm.</think>{call}")) == [reasoning("Hm."), name("f"), argument("split(</think>)", "a")]


def test_a_call_within_reasoning_is_reasoning_and_the_one_behind_it_is_the_first():
    assert said(single_bytes(f"<think>Say {CALL}</think>{CALL}")) == [reasoning(f"Say {CALL}"), *CALLED]


def test_markup_is_within_a_call_from_its_first_brace_to_its_last_and_outside_else():
    text = f"<tool_call>{CALL}</tool_call>"
    segments = token_segments(text.encode(), np.arange(len(text) + 1))
    covered = [(text[part.start : part.end], part.call) for part in segments if part.kind == MARKUP]
    assert covered[0] == ("<tool_call>", None) and covered[-1] == ("</tool_call>", None)
    assert covered[1:-1] == [
        ('{"name": "', 0),
        ('", "arguments": {"query": "', 0),
        ('", "limit": ', 0),
        ("}}", 0),
    ]


# Tokens


def kinds(*tokens: str | bytes) -> list[SegmentKind]:
    encoded = [token.encode() if isinstance(token, str) else token for token in tokens]
    return [SegmentKind(kind) for kind in token_kinds(b"".join(encoded), token_offsets(encoded))]


def test_a_token_across_spans_belongs_to_the_most_specific_it_touches():
    tokens = ["<think>H", "m.</", "think>\n", '{"', "name", '":"s', 'earch","arg', 'uments":{"q', '":"bees', '"}}']
    assert kinds(*tokens) == [REASONING, REASONING, MARKUP, MARKUP, MARKUP, NAME, NAME, MARKUP, ARGUMENT, MARKUP]
    assert kinds('f"{name}: {', '"name":"f","input":{"a":1}}', " ok") == [ANSWER, ARGUMENT, ANSWER]


def test_tokens_as_a_model_has_them_for_a_call():
    tokens = [
        "<tool_call>",
        "\n",
        '{"',
        "name",
        '":',
        ' "',
        "search",
        '",',
        ' "',
        "arguments",
        '":',
        ' {"',
        "query",
        '":',
    ]
    tokens += [' "', "be", "es", '",', ' "', "limit", '":', " ", "2", "}}\n", "</tool_call>", "<|im_end|>"]
    encoded = [token.encode() for token in tokens]
    assert said(encoded) == CALLED
    assert [SegmentKind(kind) for kind in kinds(*tokens)].count(MARKUP) == len(tokens) - 4


def test_of_two_arguments_in_one_token_it_belongs_to_the_first():
    tokens = [b'{"name":"f","input":{"a":', b"1", b'2,"b":34', b'5,"c":6}}']
    assert said(tokens)[1:] == [
        argument('12,"b":34', "a"),
        argument('5,"c":6}}', "b"),
    ]


@pytest.mark.parametrize("value", ["é", "日本", "🐝", "a é", "日 🐝 b"])
def test_tokens_that_end_inside_a_character_are_arguments_whole(value):
    text = '{"name": "naïve", "arguments": {"été 🐝": "' + value + '"}}'
    assert said(single_bytes(text)) == [name("naïve"), argument(value, "été 🐝")]
    encoded = text.encode()
    for width in (2, 3, 5):
        tokens = [encoded[i : i + width] for i in range(0, len(encoded), width)]
        touched = [part for part in said(tokens) if part[0] == ARGUMENT]
        assert [path for *_, path in touched] == [("été 🐝",)]


def test_tokens_of_no_bytes_are_markup_and_part_neither_words_nor_arguments():
    assert kinds("", "Two", "", ".", "") == [MARKUP, ANSWER, MARKUP, ANSWER, MARKUP]
    tokens = [b'{"name":"f","input":{"a":"x', b"", b'y"}}']
    assert [(part.kind, part.path) for part in token_segments(b"".join(tokens), token_offsets(tokens))] == [
        (ARGUMENT, ("a",)),
        (MARKUP, ()),
        (ARGUMENT, ("a",)),
    ]


def test_bytes_that_are_no_text_are_read_past_and_paths_can_be_printed():
    tokens = [b'\xff\xfe <tool_call>{"name": "f', b"\xe9", b'", "arguments": {"k\xff\\ud800": "\xf0\x9f', b'"}}']
    assert kinds(*tokens) == [NAME, NAME, ARGUMENT, MARKUP]
    (found,) = [part for part in token_segments(b"".join(tokens), token_offsets(tokens)) if part.path]
    assert found.path == ("k??",)


def test_no_tokens_have_no_segments():
    assert token_segments(b"", np.zeros(1, np.int32)) == ()
    assert token_kinds(b"", np.zeros(1, np.int32)).shape == (0,)


# Properties

PIECES = [*(text for text, _ in FORMATS.values()), *(text for text, _ in CUT.values()), *NO_CALLS.values()]
FRAGMENTS = re.findall(r"<[^>]*>|\[\w+\]|[{}\[\]():,\"'\\]|\s+|\w+|```", "".join(PIECES))
texts = st.lists(st.sampled_from(PIECES + sorted(set(FRAGMENTS)) + ["é", "日本", "🐝"]), max_size=12).map("".join)
turns = st.binary() | st.builds(lambda text, end: text.encode() + end, texts, st.just(b"") | st.binary(max_size=4))


def byte_kinds(text: bytes) -> np.ndarray:
    return token_kinds(text, np.arange(len(text) + 1))


@given(turns, st.lists(st.integers(-5, 400)))
def test_segments_of_any_bytes_at_any_offsets_are_in_order_cover_all_and_agree_with_the_kinds(text, offsets):
    offsets = np.array([0, *offsets], np.int32)
    segments = token_segments(text, offsets)
    assert [0, *(part.end for part in segments)] == [*(part.start for part in segments), len(offsets) - 1]
    assert all(part.start < part.end for part in segments)
    assert all(one[:1] + one[3:] != other[:1] + other[3:] for one, other in pairwise(segments))
    found = token_kinds(text, offsets)
    assert found.dtype == np.uint8
    assert found.tolist() == [part.kind for part in segments for _ in range(part.start, part.end)]


@given(turns)
def test_paths_and_calls_belong_to_calls_alone(text):
    for part in token_segments(text, np.arange(len(text) + 1)):
        assert part.kind != UNKNOWN
        assert not part.path or part.kind == ARGUMENT
        assert (part.call is not None) >= (part.kind in (NAME, ARGUMENT))


@given(turns, st.data())
def test_larger_tokens_find_the_same_segments_where_their_edges_are_those_of_segments(text, data):
    exact = token_segments(text, np.arange(len(text) + 1))
    cuts = data.draw(st.lists(st.integers(0, len(text))))
    edges = np.array(sorted({0, len(text), *cuts, *(part.start for part in exact)}), np.int32)
    if len(text):
        larger = token_segments(text, edges)
        assert [part._replace(start=edges[part.start], end=edges[part.end]) for part in larger] == list(exact)


@given(turns, st.lists(st.integers(0, 400)))
def test_any_token_is_of_the_most_specific_kind_among_its_bytes(text, cuts):
    edges = np.array(sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)}), np.int32)
    exact = byte_kinds(text)
    ranks = {MARKUP: 0, REASONING: 1, ANSWER: 1, NAME: 2, ARGUMENT: 3}
    for found, (start, end) in zip(token_kinds(text, edges), pairwise(edges), strict=True):
        assert found == max(exact[start:end], key=lambda kind: ranks[SegmentKind(kind)])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values), st.booleans())
def test_every_value_of_any_arguments_is_found_under_its_path(arguments, ascii_only):
    written = json.dumps({"name": "f", "arguments": arguments}, ensure_ascii=ascii_only)
    found = {path: text for kind, text, _, path in said(single_bytes(written)) if kind == ARGUMENT}
    for path, text in found.items():
        value = arguments
        for key in path:
            value = value[key]
        assert json.dumps(value, ensure_ascii=ascii_only) in (text, f'"{text}"')
    assert len(found) == leaf_count(arguments) - (not arguments)


def leaf_count(value) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return sum(map(leaf_count, inner)) if inner else 1


LOOPS = [
    *("<tool_call>", '<tool_call>{"name": "f", "arguments": {"a": "b}}', '<function=f>{"a": "', "<parameter="),
    *('[{"a":', '{"', "```", "[f(", "a <think>", "</think>\n[f(", '<|x|>[f(a="', '[TOOL_CALLS]f[ARGS]{"a": "'),
    *('{"name": "f", "input": "{\\"', "</think>", " \n", "\\", '"'),
]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_model_in_a_loop_is_read_in_linear_time(loop):
    text = (loop * (200_000 // len(loop))).encode()
    assert token_kinds(text, np.arange(len(text) + 1)).shape == (len(text),)
