"""Outcomes: what is equal, and what is not."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entcent_agents.outcomes import canonical_answer, canonical_calls, outcome_key

EQUAL_CALLS = {
    "keys in another order": ('{"a": 1, "b": [1, 2]}', '{"b": [1, 2], "a": 1}'),
    "text and mapping": ('{"a": {"c": null, "b": true}}', {"a": {"b": True, "c": None}}),
    "whole numbers": ('{"a": 1}', '{"a": 1.0}'),
    "whole numbers, deep": ({"a": [1, {"b": 2}]}, {"a": (1.0, {"b": 2.0})}),
    "spacing": ('{"a":1}', ' { "a" : 1 } '),
    "escapes": ('{"a": "\\u00e9"}', {"a": "é"}),
    "no arguments": ("", "{}"),
    "nothing": (None, {}),
    "not JSON": ("{a: 1}", "{a: 1}"),
    "large numbers": ('{"a": 1e16}', {"a": 10**16}),
}
OTHER_CALLS = {
    "another value": ('{"a": 1}', '{"a": 2}'),
    "lists in another order": ('{"a": [1, 2]}', '{"a": [2, 1]}'),
    "number and text": ('{"a": 1}', '{"a": "1"}'),
    "number and truth": ('{"a": 1}', '{"a": true}'),
    "fractions": ('{"a": 1}', '{"a": 1.5}'),
    "not JSON, spacing": ("{a: 1}", "{a:1}"),
    "not JSON, and JSON that says the same": ("abc", '"abc"'),
    "nothing and null": ({}, {"a": None}),
    "case": ('{"a": "A"}', '{"a": "a"}'),
}


@pytest.mark.parametrize(("one", "other"), EQUAL_CALLS.values(), ids=EQUAL_CALLS)
def test_calls_that_are_equal(one, other):
    assert canonical_calls([("f", one)]) == canonical_calls([("f", other)])


@pytest.mark.parametrize(("one", "other"), OTHER_CALLS.values(), ids=OTHER_CALLS)
def test_calls_that_are_not(one, other):
    assert canonical_calls([("f", one)]) != canonical_calls([("f", other)])


def test_names_order_and_number_of_calls_count():
    f, g = ("f", {}), ("g", {})
    assert len({canonical_calls(calls) for calls in ([f], [g], [f, g], [g, f], [f, f], [])}) == 6


@pytest.mark.parametrize("arguments", ["[" * 100_000, "9" * 5000, '{"a": NaN', "\ud800", '{"a": "\\ud800"}'])
def test_arguments_that_nobody_can_parse_are_still_an_outcome(arguments):
    assert outcome_key([("f", arguments)], "") == outcome_key([("f", arguments)], "other")


@pytest.mark.parametrize("answer", ["Paris", " PARIS. ", "paris..", "\uff30\uff41ris", "paris。", "\nparis\t"])
def test_answers_that_are_equal(answer):
    assert canonical_answer(answer) == "paris"


def test_answers_that_are_not():
    answers = ["Paris", "Paris, France", "3.5", "35", "", "no", "-3"]
    assert len({canonical_answer(answer) for answer in answers}) == len(answers)


@pytest.mark.parametrize("half", ["ｶﾞ", "\uff9e", "ﾊﾟﾘ", "\uffe8"])
def test_half_width_forms_are_their_full_width_ones(half):
    assert canonical_answer(half) == unicodedata.normalize("NFKC", half)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("10²", "102"),
        ("2¹⁰", "210"),
        ("x₁", "x1"),
        ("①", "1"),
        ("½", "1\u20442"),
        ("Ⅷ", "VIII"),
        ("㎏", "kg"),
        ("™", "TM"),
    ],
)
def test_what_only_looks_alike_is_another_answer(one, other):
    assert outcome_key([], one) != outcome_key([], other)


def test_composed_and_decomposed_letters_are_equal():
    assert canonical_answer("E\u0301") == canonical_answer("é") == "é"


def test_an_answer_is_never_a_call():
    answer = canonical_calls([("f", {})])
    assert answer == canonical_answer(answer) == '[["f",{}]]'
    assert outcome_key([], answer) != outcome_key([("f", {})], "")


@given(st.text())
def test_the_canonical_form_of_an_answer_is_its_own(text):
    once = canonical_answer(text)
    assert canonical_answer(once) == once


@pytest.mark.parametrize("answer", ["", "  \n", "...", " . "])
def test_no_answer_is_no_outcome(answer):
    assert outcome_key([], answer) is None


def test_calls_count_before_answers():
    assert outcome_key([("f", {})], "one") == outcome_key([("f", "{}")], "two", re.compile("three"))
    assert outcome_key([], "one") not in (None, outcome_key([], "two"), outcome_key([("one", {})], ""))


@pytest.mark.parametrize(
    ("pattern", "answer", "found"),
    [
        (r"\d+", "First 12, then 13.", "13"),
        (r"boxed\{([^}]*)\}", r"\boxed{1} and \boxed{ Two }", "two"),
        (r"is (\d+)|boxed\{(.*)\}", r"is 4, \boxed{5}", "5"),
        (r"is (\d+)|boxed\{(.*)\}", r"\boxed{5}, is 4", "4"),
        (r"(?:is) \d", "is 4", "is 4"),
        (r"(x)?y", "y", "y"),
    ],
)
def test_a_pattern_finds_the_answer(pattern, answer, found):
    assert outcome_key([], answer, re.compile(pattern)) == outcome_key([], found)


@pytest.mark.parametrize(("pattern", "answer"), [("x", "no"), (r"boxed\{(.*)\}", r"\boxed{}")])
def test_a_pattern_that_finds_nothing_is_no_outcome(pattern, answer):
    assert outcome_key([], answer, re.compile(pattern)) is None


def test_a_key_is_a_digest_of_16_bytes():
    assert re.fullmatch("[0-9a-f]{32}", outcome_key([], "Paris") or "")
