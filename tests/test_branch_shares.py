"""Votes of rollouts that branched: a vote is divided as the model divides its probability, and never multiplied."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entcent_agents.branching import BranchPoint
from entcent_agents.logprobs import TokenLogprobs, token_offsets
from entcent_agents.segments import SegmentKind
from entcent_agents.selection import MajorityVote
from entcent_agents.selection.shares import branch_shares
from entcent_agents.trajectory import Branch, Rollout


def rollout(index: int, parent: int | None = None, at=(0, 0), odds: float | None = None, **settings) -> Rollout:
    method, key = settings.get("method", "continued"), settings.get("came_to", "a")
    branch = None
    if parent is not None:
        branch = Branch(
            parent=parent,
            turn=at[0],
            token=at[1],
            entropy=1.0,
            kind=SegmentKind.ANSWER,
            decision="call",
            method=method,
            odds=odds,
        )
    return Rollout(index=index, thread_id=f"t:{index}", status="finished", vote_key=key, branch=branch)


def test_samples_have_a_vote_each():
    assert branch_shares([rollout(0), rollout(3)]) == {0: 1.0, 3: 1.0}


def test_a_vote_is_divided_as_likely_as_the_tokens_are():
    rollouts = [rollout(0), rollout(1), rollout(2, parent=0, odds=0.25)]
    assert branch_shares(rollouts) == pytest.approx({0: 0.8, 1: 1.0, 2: 0.2})


def test_those_that_branched_at_one_token_divide_it_at_once_and_at_a_later_one_what_is_left():
    together = [rollout(0), rollout(1, 0, (0, 4), 0.5), rollout(2, 0, (0, 4), 0.5)]
    assert branch_shares(together) == pytest.approx({0: 0.5, 1: 0.25, 2: 0.25})
    one_later = [rollout(0), rollout(1, 0, (1, 0), 1.0), rollout(2, 0, (0, 4), 1.0)]
    assert branch_shares(one_later) == pytest.approx({0: 0.25, 1: 0.25, 2: 0.5})


def test_a_branch_of_a_branch_has_part_of_its_share():
    rollouts = [rollout(2, 1, (1, 0), 1.0), rollout(1, 0, (0, 0), 1.0), rollout(0)]
    assert branch_shares(rollouts) == pytest.approx({0: 0.5, 1: 0.25, 2: 0.25})


@pytest.mark.parametrize(
    "unknown", [{"odds": None}, {"odds": 0.01, "method": "resampled"}, {"odds": 0.01, "method": None}]
)
def test_where_nobody_knows_the_odds_or_the_turn_was_made_anew_the_parts_are_equal(unknown):
    assert branch_shares([rollout(0), rollout(1, 0, **unknown)]) == {0: 0.5, 1: 0.5}


def test_a_parent_that_failed_has_its_part_all_the_same():
    rollouts = [rollout(0), rollout(2, parent=1, odds=0.25), rollout(3, parent=2, odds=1.0)]
    assert branch_shares(rollouts) == pytest.approx({0: 1.0, 2: 0.1, 3: 0.1})


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3), st.floats(0.0, 10.0) | st.none()), max_size=12))
def test_shares_of_all_that_go_back_to_one_sample_add_up_to_its_vote(branches):
    rollouts = [rollout(0)]
    for index, (parent, token, odds) in enumerate(branches, 1):
        rollouts.append(rollout(index, parent % index, (0, token), odds))
    shares = branch_shares(rollouts)
    assert math.fsum(shares.values()) == pytest.approx(1.0)
    assert all(0.0 <= share <= 1.0 for share in shares.values())
    assert shares == branch_shares(rollouts[::-1])


def test_many_unlikely_branches_do_not_outvote_two_samples():
    samples = [rollout(0, came_to="likely"), rollout(1, came_to="likely")]
    branches = [rollout(i, i % 2, (0, i), 0.1, came_to="unlikely") for i in range(2, 8)]
    selection = MajorityVote().select([*samples, *branches])
    assert selection.winner in (0, 1)
    assert "(weight 1.5" in selection.reason


@pytest.mark.parametrize(
    ("parents", "odds"), [(math.log(0.6), 0.5), (math.nan, None), (-math.inf, None), (-9999.0, None)]
)
def test_odds_are_those_of_the_distribution_that_both_tokens_are_from(parents, odds):
    turn = TokenLogprobs(
        text=b"ab",
        offsets=token_offsets([b"a", b"b"]),
        logprob=np.array([0.0, parents], np.float32),
        entropy=np.ones(2, np.float32),
        residual=np.zeros(2, np.float32),
        confidence=np.ones(2, np.float32),
        top_k=2,
    )
    point = BranchPoint(
        token=1,
        entropy=1.0,
        kind=SegmentKind.ANSWER,
        decision="call",
        alternative=b"c",
        logprob=math.log(0.3),
    )
    assert point.odds(turn) == (odds and pytest.approx(odds))
