"""Budgets and prices, and the meter that keeps calls below them: pure, so it is tried in every order."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from entcent_agents.budget import Amount, Budget, Meter, Prices
from entcent_agents.errors import ConfigurationError


def tokens(number: int) -> Amount:
    return Amount(tokens=number)


def calls_of(decisions) -> list[tuple[Any, bool]]:
    return [(decision.call, decision.refusal is None) for decision in decisions]


@pytest.mark.parametrize(
    "limits",
    [{"max_tokens": 0}, {"max_rollouts": 0}, {"max_cost": -1.0}, {"max_seconds": float("nan")}, {"max_cost": 1.0}],
)
def test_limits_that_leave_nothing_and_a_cost_without_prices_are_refused(limits):
    with pytest.raises(ConfigurationError, match=f"^budget: {next(iter(limits))}"):
        Budget(**limits)


@pytest.mark.parametrize(
    "limits",
    [
        *({"max_tokens": limit} for limit in ("5", 5.5, 2e4, float("nan"), float("inf"))),
        *({"max_seconds": limit} for limit in ("1", timedelta(seconds=1), float("inf"))),
        *({"prices": prices} for prices in ({"m": 0.5}, {"m": (0.5, 1.5)}, Prices(prompt=1, generated=1), None)),
    ],
    ids=str,
)
def test_limits_that_are_no_such_numbers_and_prices_of_another_form_are_refused_in_our_words(limits):
    with pytest.raises(ConfigurationError, match=f"^budget: {next(iter(limits))}=.* must be "):
        Budget(**limits)


@pytest.mark.parametrize("price", ["1", float("nan"), -1.0])
def test_prices_that_are_no_prices_are_refused(price):
    with pytest.raises(ConfigurationError, match=f"^prices: generated={price!r} must be a finite number, at least 0$"):
        Prices(prompt=1.0, generated=price)


def test_a_call_costs_what_it_read_wrote_and_found_cached():
    prices = Prices(prompt=1.0, generated=4.0, cached=0.5)
    assert prices.cost(prompt_tokens=1_000_000, generated_tokens=500_000, cached_tokens=400_000) == pytest.approx(2.8)
    assert Prices(prompt=1.0, generated=4.0).cost(
        prompt_tokens=1_000_000, generated_tokens=0, cached_tokens=1_000_000
    ) == pytest.approx(1.0)


def test_the_most_that_a_call_costs_is_with_the_dearer_of_read_and_cached():
    assert Prices(prompt=1.0, generated=2.0, cached=3.0).most(prompt_tokens=10, generated_tokens=5) == pytest.approx(
        40e-6
    )
    assert Prices(prompt=1.0, generated=2.0, cached=0.1).most(prompt_tokens=10, generated_tokens=5) == pytest.approx(
        20e-6
    )


def test_what_a_call_did_not_use_makes_room_for_the_next():
    meter = Meter(Budget(max_tokens=100))
    assert calls_of(meter.ask("a", tokens(80))) == [("a", True)]
    assert calls_of(meter.ask("b", tokens(80))) == []
    assert calls_of(meter.settle("a", tokens(20))) == [("b", True)]
    assert (meter.spent, meter.reserved) == (tokens(20), tokens(80))


def test_a_call_of_which_nobody_knows_what_it_used_is_charged_all_of_it():
    meter = Meter(Budget(max_tokens=100))
    meter.ask("a", tokens(80))
    meter.ask("b", tokens(30))
    assert calls_of(meter.settle("a", None)) == [("b", False)]
    assert meter.spent == tokens(80)


def test_a_call_that_nothing_can_make_room_for_is_refused_at_once_and_told_why():
    meter = Meter(Budget(max_tokens=100), tokens(50))
    meter.ask("a", tokens(10))
    (decision,) = meter.ask("b", tokens(51))
    assert (
        decision.refusal == "max_tokens=100: 50 are spent, 10 reserved, and the call may use 51 (prompt and max_tokens)"
    )


def test_the_refusal_names_the_limit_that_is_in_the_way():
    meter = Meter(Budget(max_tokens=100, max_cost=0.5, prices={"m": Prices(prompt=1, generated=1)}))
    (decision,) = meter.ask("a", Amount(tokens=10, cost=0.75))
    assert (
        decision.refusal == "max_cost=0.5: 0 is spent, 0 reserved, and the call may cost 0.75 (prompt and max_tokens)"
    )


def test_small_calls_do_not_pass_a_large_one_that_waits():
    meter = Meter(Budget(max_tokens=100))
    meter.ask("a", tokens(60))
    assert calls_of(meter.ask("large", tokens(90))) == []
    assert calls_of(meter.ask("small", tokens(5))) == []
    assert calls_of(meter.settle("a", tokens(0))) == [("large", True), ("small", True)]


def test_one_that_cannot_wait_is_decided_on_at_once():
    meter = Meter(Budget(max_tokens=100))
    meter.ask("a", tokens(60))
    assert calls_of(meter.ask("b", tokens(50), waits=False)) == [("b", False)]
    assert calls_of(meter.ask("c", tokens(40), waits=False)) == [("c", True)]


def test_whoever_gives_up_lets_the_next_go():
    meter = Meter(Budget(max_tokens=100))
    meter.ask("a", tokens(60))
    meter.ask("b", tokens(90))
    meter.ask("c", tokens(40))
    assert calls_of(meter.withdraw("b")) == [("c", True)]
    assert calls_of(meter.withdraw("a")) == []
    assert meter.reserved == tokens(40)
    assert meter.settle("a", tokens(60)) == []
    assert meter.spent == tokens(0)


LIMIT = 100
PRICES = {"m": Prices(prompt=1, generated=1)}


class MeterMachine(RuleBasedStateMachine):
    """Calls that ask, end and give up in any order, against what they have the right to expect."""

    open_calls: Bundle[int] = Bundle("open_calls")

    def __init__(self) -> None:
        super().__init__()
        self.meter = Meter(Budget(max_tokens=LIMIT, max_cost=LIMIT / 2, prices=PRICES))
        self.number = 0
        self.most: dict[int, Amount] = {}
        self.turns: dict[int, int] = {}
        self.waiting: list[int] = []
        self.running: set[int] = set()
        self.spent = Amount()

    def heed(self, decisions) -> None:
        for decision in decisions:
            call = decision.call
            if call in self.waiting:
                first = min(self.waiting, key=lambda call: (-self.turns[call], call))
                assert call == first, "who is further along, then who came first"
                self.waiting.remove(call)
            if decision.refusal is None:
                self.running.add(call)
            else:
                least = self.spent + self.most[call]
                assert least.tokens > LIMIT or least.cost > LIMIT / 2, "it might have had room"

    @rule(
        target=open_calls,
        size=st.integers(0, 120),
        cost=st.integers(0, 60),
        waits=st.booleans(),
        turns=st.integers(0, 2),
    )
    def ask(self, size: int, cost: int, waits: bool, turns: int):
        self.number += 1
        self.turns[self.number] = turns
        self.most[self.number] = Amount(tokens=size, cost=float(cost))
        if waits:
            self.waiting.append(self.number)
            self.heed(self.meter.ask(self.number, self.most[self.number], turns=turns))
        else:
            (decision,) = self.meter.ask(self.number, self.most[self.number], waits=False)
            if decision.refusal is None:
                self.running.add(self.number)
        return self.number if self.number in {*self.waiting, *self.running} else multiple()

    @rule(call=consumes(open_calls), share=st.floats(0, 1), known=st.booleans())
    def end(self, call: int, share: float, known: bool) -> None:
        most = self.most[call]
        used = Amount(tokens=int(most.tokens * share), cost=float(int(most.cost * share))) if known else None
        if call in self.running:
            self.running.remove(call)
            self.spent += most if used is None else used
            self.heed(self.meter.settle(call, used))
        elif call in self.waiting:
            self.waiting.remove(call)
            self.heed(self.meter.withdraw(call))

    @invariant()
    def nothing_is_ever_over_the_limit(self) -> None:
        assert self.meter.spent == self.spent
        assert self.meter.reserved == sum((self.most[call] for call in self.running), Amount())
        whole = self.meter.spent + self.meter.reserved
        assert whole.tokens <= LIMIT
        assert whole.cost <= LIMIT / 2

    @precondition(lambda self: self.waiting)
    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        assert self.running, "a call waits, and none is under way that could make room"


TestMeter = MeterMachine.TestCase
