"""Any history of callers that crash, stall, come back late, and of people who answer, once or again and again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from entcent_agents.ledger import Answer, Done, EffectRecord, Failed, InDoubt, LedgerSettings, MemoryLedger, State
from entcent_agents.ledger.decision import Change, Claim, claim, complete, doubt, renew, withdraw
from entcent_agents.ledger.perform import settle
from entcent_agents.ledger.values import StoredValue
from tests.ledger.samples import a_call

T = TypeVar("T")

SETTINGS = LedgerSettings(lease_seconds=10.0, max_attempts=3)
ONCE, OTHER, OFTEN = a_call(), a_call(arguments={"amount": 6}), a_call(ordinal=1, idempotent=True)
CALLS = [ONCE, OTHER, OFTEN]
OFTEN_ASKED = [ONCE, ONCE, OFTEN, OFTEN, OTHER]
"""Histories are long only where they come back to the same call."""


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of what never waits."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("a ledger in memory waits for nothing")


@dataclass
class Caller:
    """Somebody who holds a claim and has, or has not yet, made the call."""

    number: int
    claim: Claim
    called: bool = False


class Histories(RuleBasedStateMachine):
    """Callers do what they like with their claims, as slowly as they like; the ledger must keep the promise."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.ledger = MemoryLedger(clock=lambda: self.now)
        self.numbers = count()
        self.callers: list[Caller] = []
        self.answers: list[tuple[Any, Answer]] = []
        self.effects: Counter[str] = Counter()  # by idempotency key
        self.cleared: Counter[str] = Counter()
        self.spent: set[str] = set()  # ids of doubts whose answer cleared a call
        self.told: dict[str, Any] = {}

    @rule(call=st.sampled_from(OFTEN_ASKED), called=st.booleans(), seconds=st.sampled_from([0.0, 0.0, 11.0]))
    def ask(self, call: Any, called: bool, seconds: float) -> None:
        self.now += seconds
        outcome = at_once(self.ledger.transact(call.position, partial(claim, call=call, settings=SETTINGS)))
        if isinstance(outcome, Claim):
            assert outcome.record.idempotency_key == call.idempotency_key
            self.callers.append(Caller(next(self.numbers), outcome))
            if called:
                self._call(self.callers[-1])
        elif isinstance(outcome, Done | Failed):
            said = outcome.value if isinstance(outcome, Done) else outcome.error
            assert self.told.setdefault(call.digest + str(call.position), said) == said
        elif isinstance(outcome, InDoubt):
            assert (call.position, outcome.record.doubt_id) in [
                (record.position, record.doubt_id) for record in at_once(self.ledger.unsettled())
            ]

    @precondition(lambda self: self.callers)
    @rule(data=st.data(), how=st.sampled_from(["call", "complete", "complete", "fail", "doubt", "withdraw", "renew"]))
    def go_on(self, data: Any, how: str) -> None:
        caller = data.draw(st.sampled_from(self.callers))
        record = caller.claim.record
        if how == "call" and not caller.called:
            self._call(caller)
        elif how == "renew":
            step = partial(renew, claim=caller.claim, settings=SETTINGS)
            at_once(self.ledger.transact(record.position, step))
        elif how == "withdraw" and not caller.called:
            self._end(caller, partial(withdraw, claim=caller.claim))
        elif how == "complete" and caller.called:
            value = StoredValue(text=str(caller.number))
            self._end(caller, partial(complete, claim=caller.claim, came=value))
        elif how == "fail" and caller.called:
            self._end(caller, partial(complete, claim=caller.claim, came=f"ValueError: {caller.number}"))
        elif how == "doubt":
            self._end(caller, partial(doubt, claim=caller.claim, reason="reset"))

    def _call(self, caller: Caller) -> None:
        caller.called = True
        self.effects[caller.claim.record.idempotency_key] += 1

    def _end(self, caller: Caller, step: Any) -> None:
        at_once(self.ledger.transact(caller.claim.record.position, step))
        self.callers.remove(caller)

    @precondition(lambda self: at_once(self.ledger.unsettled()))
    @rule(data=st.data(), decision=st.sampled_from(["run", "run", "happened", "give up"]))
    def answer(self, data: Any, decision: Any) -> None:
        record = data.draw(st.sampled_from(at_once(self.ledger.unsettled())))
        self.answers.append((record, Answer(doubt_id=record.doubt_id, decision=decision, result="by hand")))
        self._settle(*self.answers[-1])

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def answer_again(self, data: Any) -> None:
        record, answer = data.draw(st.sampled_from(self.answers))
        self._settle(record, answer)

    def _settle(self, record: EffectRecord, answer: Answer) -> None:
        settled = at_once(settle(self.ledger, record.position, answer))
        if settled is not None and settled.state is State.CLEARED:
            assert answer.doubt_id not in self.spent  # one answer clears one attempt, however often it is given
            self.spent.add(answer.doubt_id)
            self.cleared[settled.idempotency_key] += 1

    @invariant()
    def nothing_happens_twice_unless_it_may_or_a_person_said_so(self) -> None:
        for call in CALLS:
            times = self.effects[call.idempotency_key]
            if call.idempotent:
                assert times <= SETTINGS.max_attempts + self.cleared[call.idempotency_key]
            else:
                assert times <= 1 + self.cleared[call.idempotency_key]

    @invariant()
    def of_two_calls_at_one_position_the_second_happens_only_if_a_person_said_so(self) -> None:
        made = [call for call in (ONCE, OTHER) if self.effects[call.idempotency_key]]
        assert len(made) <= 1 + sum(bool(self.cleared[call.idempotency_key]) for call in made)

    @invariant()
    def what_happened_stays_on_record(self) -> None:
        for call in CALLS:
            if self.effects[call.idempotency_key]:
                found = at_once(self.ledger.transact(call.position, lambda records, now: Change(answer=list(records))))
                assert call.digest in [record.digest for record in found]


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
