"""What is decided about a call, from every state its record can be in; no store takes part."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from entcent_agents.errors import ConfigurationError, LedgerAnswerError
from entcent_agents.ledger import (
    Answer,
    Done,
    EffectRecord,
    Failed,
    GivenUp,
    InDoubt,
    LedgerSettings,
    Outcome,
    Pending,
    State,
)
from entcent_agents.ledger.decision import Change, Claim, claim, complete, doubt, renew, resolve, withdraw
from entcent_agents.ledger.outcome import CHANGED, CRASHED
from entcent_agents.ledger.values import StoredValue
from tests.ledger.samples import NOW, SETTINGS, a_call, claimed

PAID = StoredValue(text='"paid"')
MADE = {State.DONE, State.FAILED, State.GIVEN_UP, State.IN_DOUBT}
KIND = {State.DONE: Done, State.FAILED: Failed, State.GIVEN_UP: GivenUp, State.IN_DOUBT: InDoubt}


def a_record(state: State, *, idempotent: bool, attempt: int = 1, lease_until: float = 0.0) -> EffectRecord:
    return replace(
        claimed(a_call(idempotent=idempotent)).record,
        state=state,
        attempt=attempt,
        lease_until=lease_until,
        result=PAID if state is State.DONE else None,
        error="ValueError: no" if state is State.FAILED else None,
    )


def asked(record: EffectRecord, *, idempotent: bool = False) -> Change[Claim | Outcome]:
    return claim([record], NOW, a_call(idempotent=idempotent), SETTINGS)


def test_a_first_call_is_recorded_before_it_is_made():
    change = claim([], NOW, a_call(), SETTINGS)
    assert isinstance(change.answer, Claim)
    assert change.put == change.answer.record
    assert (change.put.state, change.put.attempt, change.put.lease_until) == (State.INTENT, 1, NOW + 30)


@pytest.mark.parametrize(
    ("state", "was", "now", "lease", "attempt"),
    list(product(State, [False, True], [False, True], [NOW - 1, NOW, NOW + 1], [1, 2, 3, 4])),
)
def test_every_state_leads_to_one_thing(state: State, was: bool, now: bool, lease: float, attempt: int):
    record = a_record(state, idempotent=was, attempt=attempt, lease_until=lease)
    change = asked(record, idempotent=now)
    if state in MADE:
        assert type(change.answer) is KIND[state]
        assert change.put is None
    elif state is State.CLEARED:
        assert isinstance(change.answer, Claim)
    elif lease > NOW:
        assert change == Change(answer=Pending(retry_after_seconds=lease - NOW, reason="the call is being made"))
    elif was and now and attempt < SETTINGS.max_attempts:
        assert isinstance(change.answer, Claim)
    else:
        assert isinstance(change.answer, InDoubt)
        assert change.put == replace(record, state=State.IN_DOUBT, reason=CRASHED, changed_at=NOW)
    if isinstance(change.answer, Claim):
        assert change.put is not None
        assert (change.put.attempt, change.put.idempotency_key) == (attempt + 1, record.idempotency_key)
        assert change.put.idempotent == (was and now)
    assert change.remove is None


@pytest.mark.parametrize(("state", "idempotent"), list(product(State, [False, True])))
def test_another_call_at_the_same_position_is_in_doubt_whatever_became_of_the_first(state: State, idempotent: bool):
    first = a_record(state, idempotent=idempotent)
    other = a_call(arguments={"amount": 6}, idempotent=idempotent)
    change = claim([first], NOW, other, SETTINGS)
    assert isinstance(change.answer, InDoubt)
    assert change.answer.others == (first,)
    assert change.put is not None
    assert (change.put.state, change.put.reason, change.put.attempt) == (State.IN_DOUBT, CHANGED, 0)
    assert change.put.digest == other.digest != first.digest
    cleared = resolve([first, change.put], NOW, Answer(doubt_id=change.put.doubt_id, decision="run"), SETTINGS).put
    assert cleared is not None
    assert isinstance(claim([first, cleared], NOW, other, SETTINGS).answer, Claim)
    assert claim([first, cleared], NOW, a_call(idempotent=idempotent), SETTINGS).put != cleared  # the first stays so


def test_equal_arguments_are_one_call_and_the_tool_call_id_is_no_part_of_it():
    first = a_call(arguments={"to": "Ann", "amount": 5.0})
    again = a_call(arguments='{"amount": 5, "to": "Ann"}')
    assert (first.digest, first.idempotency_key) == (again.digest, again.idempotency_key)
    assert first.digest != a_call(arguments={"to": "Ann", "amount": 6}).digest
    assert first.digest != a_call(tool="refund", arguments={"to": "Ann", "amount": 5}).digest
    assert first.idempotency_key != a_call(arguments={"to": "Ann", "amount": 5}, ordinal=1).idempotency_key


def test_digest_and_key_are_the_same_in_every_process_and_release():
    # SHA-256 of the text [["pay",{"amount":5}]], taken with another program.
    assert a_call().digest == "eecff0356127391fa27568c5672f02171ebd917a74b0f8e435f79712536eb72c"
    assert a_call().idempotency_key == "b8ed0769-ee33-5908-b0a9-92c4a71e28fe"


@pytest.mark.parametrize(("state", "came"), list(product(State, [PAID, "ValueError: no"])))
def test_the_truth_about_the_latest_attempt_is_welcome_until_a_result_is_decided(state: State, came: StoredValue | str):
    claim_ = claimed(a_call())
    record = replace(claim_.record, state=state, reason="some doubt")
    change = complete([record], NOW + 99, claim_, came)
    if state in {State.INTENT, State.IN_DOUBT, State.CLEARED}:
        assert change.put == change.answer
        assert change.answer.state is (State.DONE if came is PAID else State.FAILED)
        assert (change.answer.reason, change.answer.changed_at) == (None, NOW + 99)
    else:
        assert change == Change(answer=record)


@pytest.mark.parametrize("state", list(State))
def test_an_attempt_that_was_followed_by_another_changes_nothing(state: State):
    claim_ = claimed(a_call(idempotent=True))
    later = replace(claim_.record, state=state, attempt=2, lease_until=NOW + 60)
    assert complete([later], NOW, claim_, PAID) == Change(answer=later)
    assert doubt([later], NOW, claim_, "reset") == Change(answer=later)
    assert withdraw([later], NOW, claim_) == Change(answer=False)
    assert renew([later], NOW, claim_, SETTINGS) == Change(answer=False)


@pytest.mark.parametrize("came", [PAID, "ValueError: no"])
def test_what_came_of_a_call_is_recorded_even_where_its_record_was_removed(came: StoredValue | str):
    change = complete([], NOW, claimed(a_call()), came)
    assert change.put == change.answer
    assert change.answer.settled
    assert doubt([], NOW, claimed(a_call()), "reset").put is not None


def test_a_stopped_call_is_in_doubt_unless_it_may_be_repeated():
    once, often = claimed(a_call()), claimed(a_call(idempotent=True))
    assert doubt([once.record], NOW, once, "reset").answer.state is State.IN_DOUBT
    free = doubt([often.record], NOW, often, "reset").put
    assert free is not None
    again = asked(free, idempotent=True).answer
    assert isinstance(again, Claim)
    assert again.record.attempt == 2
    assert again.record.idempotency_key == often.record.idempotency_key


@pytest.mark.parametrize("state", [state for state in State if state is not State.INTENT])
def test_a_doubt_changes_nothing_that_was_decided_meanwhile(state: State):
    claim_ = claimed(a_call())
    record = replace(claim_.record, state=state)
    assert doubt([record], NOW, claim_, "reset") == Change(answer=record)
    assert withdraw([record], NOW, claim_) == Change(answer=False)
    assert renew([record], NOW, claim_, SETTINGS) == Change(answer=False)


def test_a_lease_is_renewed_as_long_as_it_runs_and_no_longer():
    claim_ = claimed(a_call())
    renewed = renew([claim_.record], NOW + 29, claim_, SETTINGS).put
    assert renewed == replace(claim_.record, lease_until=NOW + 59)
    assert renew([claim_.record], NOW + 30, claim_, SETTINGS) == Change(answer=False)


def test_an_intent_that_nothing_came_of_is_taken_back():
    first = claimed(a_call())
    assert withdraw([first.record], NOW, first) == Change(answer=True, remove=first.record)
    cleared = a_record(State.CLEARED, idempotent=False)
    second = claimed(a_call(), records=(cleared,))
    back = withdraw([second.record], NOW, second).put
    assert back == replace(cleared, changed_at=NOW)


def test_an_intent_whose_lease_ran_out_is_not_taken_back_for_somebody_may_have_been_asked():
    first = claimed(a_call())
    assert withdraw([first.record], NOW + 30, first) == Change(answer=False)


@pytest.mark.parametrize(
    ("decision", "state"), [("happened", State.DONE), ("run", State.CLEARED), ("give up", State.GIVEN_UP)]
)
def test_a_person_decides_a_doubt_once(decision: str, state: State):
    record = a_record(State.IN_DOUBT, idempotent=False)
    answer = Answer.from_dict(
        {"doubt_id": record.doubt_id, "decision": decision, "result": {"paid": 5}, "by": "ann", "reason": "I looked"}
    )
    put = resolve([record], NOW, answer, SETTINGS).put
    assert put is not None
    assert (put.state, put.answered_by, put.reason) == (state, "ann", "I looked")
    assert (put.result is not None) == (state is State.DONE)
    assert resolve([put], NOW, answer, SETTINGS) == Change(answer=None)


def test_an_answer_that_is_given_again_does_not_count_for_a_later_doubt_about_the_same_call():
    record = a_record(State.IN_DOUBT, idempotent=False)
    answer = Answer(doubt_id=record.doubt_id, decision="run")
    cleared = resolve([record], NOW, answer, SETTINGS).put
    assert cleared is not None
    second = claimed(a_call(), records=(cleared,))
    crashed = asked(replace(second.record, lease_until=NOW)).put
    assert crashed is not None
    assert crashed.state is State.IN_DOUBT
    assert resolve([crashed], NOW, answer, SETTINGS) == Change(answer=None)
    assert crashed.doubt_id != record.doubt_id


def test_a_call_that_is_being_made_cannot_be_decided_and_one_whose_lease_ran_out_can():
    intent = claimed(a_call()).record
    answer = Answer(doubt_id=intent.doubt_id, decision="give up")
    assert resolve([intent], NOW + 29, answer, SETTINGS).put is None
    assert resolve([intent], NOW + 30, answer, SETTINGS).put is not None


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("yes", "must be a mapping, not str"),
        ({"doubt_id": "1", "decision": "perhaps"}, "not 'perhaps'"),
        ({"doubt_id": "1", "decision": "happened"}, "needs the result"),
        ({"decision": "run"}, "doubt_id must be text"),
        ({"doubt_id": "1", "decision": "run", "by": 5}, "by must be text"),
        ({"doubt_id": "1", "decision": "run", "why": "?"}, "has no why"),
    ],
)
def test_what_is_no_answer_is_refused(answer: object, says: str):
    with pytest.raises(LedgerAnswerError, match=says):
        Answer.from_dict(answer)


@pytest.mark.parametrize("wrong", [{"lease_seconds": 0}, {"lease_seconds": float("inf")}, {"max_attempts": 0}])
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]):
    with pytest.raises(ConfigurationError, match="above 0"):
        LedgerSettings(**wrong)  # pyright: ignore[reportArgumentType]
