"""The reader of almost-JSON: what it says, where it stands, what a cut leaves. Calls are in test_text_tools."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entcent_agents.segments.lenient_json import leaves, plain, read_quoted, read_value, read_values

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
containers = st.lists(values) | st.dictionaries(st.text(), values)


@given(containers, st.booleans(), st.sampled_from([None, 2]))
def test_json_is_read_as_json(value, ascii_only, indent):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    read = read_value(f"x{text}]", 1)
    assert plain(read) == value
    assert (read.start, read.end, read.closed) == (1, 1 + len(text), True)


@given(containers)
def test_each_leaf_stands_where_it_says(value):
    text = json.dumps(value)
    for path, leaf in leaves(read_value(text, 0)):
        said = value
        for key in path:
            said = said[key]
        assert json.dumps(said) in (text[leaf.start : leaf.end], f'"{text[leaf.start : leaf.end]}"')


@given(containers, st.data())
def test_of_a_value_that_is_cut_off_the_leaves_so_far_are_read(value, data):
    text = json.dumps(value)
    cut = data.draw(st.integers(1, len(text) - 1))
    read = read_value(text, 0, cut)
    assert (read.closed, read.end) == (False, cut)
    assert [*leaves(read_value(text[:cut], 0))] == [*leaves(read)]
    whole = [(path, leaf) for path, leaf in leaves(read_value(text, 0)) if leaf.end < cut]
    assert [*leaves(read)][: len(whole)] == whole


@given(containers)
def test_json_within_a_string_is_read_at_its_place(value):
    text = json.dumps({"a": json.dumps(value)})
    ((_, string),) = leaves(read_value(text, 0))
    inner = read_quoted(text, string)
    assert inner is not None and plain(inner) == value
    for _, leaf in leaves(inner):
        if isinstance(leaf.content, int | float):
            assert json.loads(text[leaf.start : leaf.end]) == leaf.content


@pytest.mark.parametrize("said", ["bees", "", "{1}", '{"a": 1} and more', '{"a": '])
def test_a_string_that_holds_something_else_is_left_a_string(said):
    text = json.dumps([said])
    ((_, string),) = leaves(read_value(text, 0))
    assert read_quoted(text, string) is None


def test_arguments_in_round_brackets_are_an_object():
    text = 'f(a=1, b = "x", c=[{"d": None}],)!'
    read = read_value(text, 1)
    assert plain(read) == {"a": 1, "b": "x", "c": [{"d": None}]}
    assert text[read.end :] == "!"
    assert not read_value("f(1)", 1).closed and plain(read_value("f(a=1, b", 1)) == {"a": 1}


def test_of_equal_keys_the_last_counts_at_its_own_place():
    assert [(path, leaf.start) for path, leaf in leaves(read_value('{"a": 1, "b": 2, "a": 3}', 0))] == [
        (("b",), 14),
        (("a",), 22),
    ]


@pytest.mark.parametrize(
    "text, value",
    [
        ("[1_000, .5, 1., +2, 007]", [1000, 0.5, 1.0, 2, 7]),
        ("[NaN, Infinity, -Infinity]", [math.nan, math.inf, -math.inf]),
        (f"[{'9' * 5000}]", [math.inf]),
        (r'["\ud83d\udc1d", "\ud83d", "\u00zz", "\x"]', ["🐝", "\ud83d", r"\u00zz", r"\x"]),
        ("""['''a'b''', \"\"\"c\\d\"\"\"]""", ["a'b", "c\\d"]),
        (r"""['it\'s', "it\'s"]""", ["it's", r"it\'s"]),
        ("{{}}", {}),
    ],
)
def test_what_json_does_not_allow_is_read_as_it_was_meant(text, value):
    read = read_value(text, 0)
    assert read.closed and repr(plain(read)) == repr(value)


@pytest.mark.parametrize(
    "text", ["[1 2]", "[,]", "{a: 1}", '{"a" 1}', '{"a": b}', "{{1}}", "[1}", '{{"a": 1}', "[" * 200]
)
def test_what_stops_being_json_is_not_closed(text):
    assert not read_value(text, 0).closed


def test_values_are_found_within_text_and_broken_ones_passed_over():
    text = 'No {1}, [2]; {"a": 1} {{"b": 2}} {"c": {"d": 3} [{"e": 4}] {"f": "'
    assert [plain(value) for value in read_values(text)] == [{"a": 1}, {"b": 2}, {"d": 3}, [{"e": 4}]]


@given(st.text(alphabet="{}[]()\"'\\,:=1-a \n", max_size=40).map("{".__add__))
def test_reading_never_raises_and_leaves_are_in_order(text):
    read = read_value(text, 0)
    ends = [position for _, leaf in leaves(read) for position in (leaf.start, leaf.end)]
    assert ends == sorted(ends) and all(end <= read.end for end in ends)
    plain(read)
