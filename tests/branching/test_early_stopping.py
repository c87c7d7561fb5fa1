from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entcent_agents.branching.stopping import EarlyStopping, leading_posterior, leading_share
from entcent_agents.confidence import lowest_group_confidence
from entcent_agents.errors import ConfigurationError

outcomes = st.lists(st.sampled_from(["a", "b", "c", None]), max_size=10)


def test_what_is_not_asked_for_ends_nothing():
    prunes, agrees = EarlyStopping(keep_percent=50.0), EarlyStopping(consensus="share")
    assert not prunes.agrees(["a"] * 8)
    assert agrees.floor([np.ones(5)] * 8) is None
    assert not agrees.prunes(np.zeros(5000), agrees.floor([np.ones(5000)] * 8))


@pytest.mark.parametrize(
    ("consensus", "ended", "agrees"),
    [
        ("share", ["a"] * 3, False),  # the warm-up is not over
        ("share", ["a"] * 4, True),
        ("share", ["a"] * 4 + ["b"], False),  # 0.8
        ("share", ["a"] * 4 + [None], False),
        ("share", ["a"] * 19 + ["b"], True),  # 0.95
        ("posterior", ["a"] * 4, True),  # 1 - 1/32
        ("posterior", ["a"] * 5 + ["b"], False),  # 1 - 8/128
        ("posterior", ["a"] * 6 + ["b"], True),  # 1 - 9/256
        ("posterior", [None] * 5, False),
    ],
)
def test_a_request_ends_once_its_rollouts_agree(consensus, ended, agrees):
    assert EarlyStopping(consensus=consensus).agrees(ended) is agrees


def beta_below_half(a: int, b: int) -> Fraction:
    """The density of Beta(a, b) integrated from 0 to 1/2, term by term."""
    density = [Fraction(math.comb(b - 1, i) * (-1) ** i, a + i) for i in range(b)]
    whole = Fraction(math.factorial(a - 1) * math.factorial(b - 1), math.factorial(a + b - 1))
    return sum(term * Fraction(1, 2) ** (a + i) for i, term in enumerate(density)) / whole


@settings(deadline=None)
@given(st.integers(0, 12), st.integers(0, 12))
def test_the_posterior_is_the_upper_half_of_a_beta_distribution(one, other):
    first, second = max(one, other), min(one, other)
    votes = ["a"] * one + ["b"] * other
    assert leading_posterior(votes) == pytest.approx(float(1 - beta_below_half(first + 1, second + 1)), abs=1e-12)


@settings(deadline=None)
@given(outcomes, st.randoms())
def test_agreement_lies_between_zero_and_one_whatever_the_order_and_grows_with_the_leader(votes, random):
    shuffled = random.sample(votes, len(votes))
    for measure in (leading_share, leading_posterior):
        assert 0 <= measure(votes) <= 1
        assert measure(shuffled) == measure(votes)
    named = [vote for vote in votes if vote is not None]
    if named:
        leader = max(sorted(set(named)), key=named.count)
        assert leading_share([*votes, leader]) >= leading_share(votes)
        assert leading_posterior([*votes, leader]) >= leading_posterior(votes)


def test_the_floor_is_the_confidence_that_the_share_to_be_kept_reached_in_the_warm_up():
    stopping = EarlyStopping(keep_percent=75.0, warm_up=5, window=2)
    ended = [np.array([level, level, 9.0]) for level in (1.0, 2.0, 3.0, 4.0, 5.0)]
    assert stopping.floor(ended[:4]) is None
    assert stopping.floor(ended) == 2.0
    assert stopping.floor([np.array([math.nan]), *ended]) == 2.0  # it shows nothing
    assert stopping.floor([*ended, np.array([0.1, 0.1])]) == 2.0  # the first ones set it


def test_a_rollout_is_pruned_once_a_whole_group_of_it_is_below_the_floor():
    stopping = EarlyStopping(keep_percent=75.0, window=2)
    assert not stopping.prunes([1.0], 2.0)
    assert not stopping.prunes([1.0, math.nan], 2.0)
    assert not stopping.prunes([1.0, 3.0], 2.0)
    assert stopping.prunes([5.0, 1.0, 2.9, 5.0], 2.0)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 100))
def test_of_the_warm_up_itself_pruning_keeps_at_least_the_share_that_it_means_to(seed, keep):
    random = np.random.default_rng(seed)
    ended = [random.uniform(0, 9, random.integers(4, 9)) for _ in range(8)]
    stopping = EarlyStopping(keep_percent=keep, warm_up=8, window=3)
    floor = stopping.floor(ended)
    kept = [confidence for confidence in ended if not stopping.prunes(confidence, floor)]
    assert len(kept) >= math.floor(8 * keep / 100)
    assert all(lowest_group_confidence(confidence, 3) >= floor for confidence in kept)
    assert kept


@pytest.mark.parametrize(
    "wrong",
    [
        {"consensus": "most"},
        {"agreement": 1.1},
        {"warm_up": 0},
        {"warm_up": 2.5},
        {"keep_percent": -1},
        {"window": 0},
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        EarlyStopping(**wrong)


def test_settings_that_would_stop_nothing_are_refused():
    with pytest.raises(ConfigurationError, match="set consensus, keep_percent or both"):
        EarlyStopping(agreement=0.5)
