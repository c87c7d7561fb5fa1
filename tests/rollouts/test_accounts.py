"""The accounts of the runs under fire find what is planted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.rollouts.accounts import Effect, audit_effects, audit_requests, audit_samples, audit_writes
from tests.rollouts.script import Asked, Call, Script, calls_in_text, calls_of, unsound_reads

PAY = Call(tool="pay", mark="m1.0", turn=1, result="paid m1.0")
BOOK = Call(tool="book", mark="m1.1", turn=1, result="booked m1.1")
NOTE = Call(tool="note", mark="m0.0", turn=0, result="noted m0.0")
PAID, BOOKED = Effect(tool="pay", mark="m1.0", key="-"), Effect(tool="book", mark="m1.1", key="k")
FIRST = Asked(number=0, digest="first", shared=True, life=0, marks=["a", "b"], used=[])
NEXT = Asked(number=0, digest="next", shared=False, life=0, marks=["c"], used=["a"])


def kinds(account) -> dict[str, int]:
    return dict(account.kinds())


def test_effects_that_happened_once_are_in_order():
    account = audit_effects([PAY, BOOK], [PAID, BOOKED, BOOKED])
    assert not account.violations
    assert account.counts["book: repeated with its key"] == 1


def test_an_effect_that_happened_twice_is_found():
    assert kinds(audit_effects([PAY], [PAID, PAID])) == {"double effect": 1}


def test_an_idempotent_effect_that_came_with_another_key_is_found():
    assert kinds(audit_effects([BOOK], [BOOKED, replace(BOOKED, key="other")])) == {"double effect": 1}


def test_an_effect_of_a_loser_is_found():
    assert kinds(audit_effects([PAY], [PAID, replace(PAID, mark="m2.0")])) == {"loser effect": 1}


def test_an_effect_that_is_only_said_to_have_happened_is_found():
    assert kinds(audit_effects([PAY], [])) == {"lost effect": 1}
    assert not audit_effects([replace(PAY, result="the bank is closed")], []).violations


def test_rows_of_losers_and_rows_that_are_lost_double_or_torn_are_found():
    assert not audit_writes([NOTE], "note", [("m0.0", 1)]).violations
    assert kinds(audit_writes([NOTE], "note", [])) == {"lost write": 1}
    assert kinds(audit_writes([], "note", [("m0.0", 1)])) == {"loser write": 1}
    assert kinds(audit_writes([NOTE], "note", [("m0.0", 1), ("m0.0", 1)])) == {"double write": 1}
    assert kinds(audit_writes([NOTE], "note", [("m0.0", 0)])) == {"torn write": 1}


def test_a_turn_that_was_lost_is_sampled_again_without_complaint():
    account = audit_requests([FIRST, NEXT, replace(FIRST, life=1, marks=["d"])], 2, {0: ["a"]})
    assert not account.violations
    assert account.counts["model requests repeated"] == 1


def test_a_turn_on_record_that_is_sampled_again_is_found():
    account = audit_requests([FIRST, replace(FIRST, life=1, marks=["d"])], 2, {0: ["a", "b"]})
    assert kinds(account) == {"sampled again": 1}


def test_a_turn_that_was_used_and_is_sampled_again_is_found():
    account = audit_requests([FIRST, NEXT, replace(FIRST, life=1, marks=["d", "e"])], 2, {})
    assert kinds(account) == {"sampled again": 1}


def test_a_turn_that_is_sampled_twice_in_one_life_is_found():
    assert kinds(audit_requests([FIRST, NEXT, replace(NEXT, marks=["d"])], 2, {})) == {"sampled again": 1}


def test_more_repeated_requests_after_a_kill_than_there_are_rollouts_are_found():
    turns = [replace(NEXT, digest=name, marks=[name]) for name in ("x", "y", "z")]
    again = [replace(asked, life=1, marks=[f"{asked.digest}2"]) for asked in turns]
    assert kinds(audit_requests([*turns, *again], 2, {})) == {"repeated request": 1}


def test_a_turn_that_did_not_reach_its_rollout_is_sampled_again_without_complaint():
    lost, again = replace(FIRST, marks=["x", "y"]), FIRST
    assert not audit_samples([lost, again, NEXT], 2).violations


def test_a_turn_that_a_rollout_went_on_from_is_not_sampled_again_unnoticed():
    more = replace(FIRST, marks=["d", "e"])
    assert kinds(audit_samples([FIRST, NEXT, more], 2)) == {"sampled again": 1}
    assert not audit_samples([FIRST, NEXT, replace(more, marks=["d"])], 2).violations


def test_a_rollout_that_does_not_see_just_what_it_wrote_is_found():
    look = Call(tool="look", mark="m1.0", turn=1, result='["m0.0"]')
    assert not unsound_reads([NOTE, look])
    assert unsound_reads([NOTE, replace(look, result="[]")])
    assert unsound_reads([NOTE, replace(look, result='["m0.0", "m0.0"]')])
    assert unsound_reads([NOTE, replace(look, result='["m0.0", "m9.0"]')])


def test_calls_in_text_are_those_of_the_api_with_their_results():
    script = Script(seed=1, log=Path(), plans=[[("note", "ask")]])
    (native, text) = (script.reply(7, 0, "m0123456789ab", as_text=as_text) for as_text in (False, True))
    results = ["noted m0123456789ab.0", "told\nmore"]
    ids = [
        {"id": f"m0123456789ab_{i}", "function": {"name": n, "arguments": a}}
        for i, (n, a) in enumerate(native.tool_calls)
    ]
    of_the_api = [
        {"role": "assistant", "content": native.text, "tool_calls": ids},
        *(
            {"role": "tool", "tool_call_id": call["id"], "content": said}
            for call, said in zip(ids, results, strict=True)
        ),
    ]
    told = "\n".join(f"<tool_response>\n{said}\n</tool_response>" for said in results)
    in_text = [{"role": "assistant", "content": text.text}, {"role": "user", "content": told}]
    assert calls_in_text(in_text) == calls_of(of_the_api)
    assert [call.result for call in calls_in_text(in_text)] == results
