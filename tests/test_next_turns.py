"""Choosing among next turns: equal ones are one outcome, with the votes of all."""

from __future__ import annotations

import math

import pytest

from entcent_agents.errors import ConfigurationError
from entcent_agents.selection import (
    BordaVote,
    BySignal,
    First,
    LowestCentroid,
    LowestMeanEntropy,
    MajorityVote,
    WeightedVote,
)
from entcent_agents.selection.asking import chosen
from entcent_agents.testing import scripted_logprobs
from entcent_agents.trajectory import Rollout, Trajectory, Turn


def candidate(index: int, key: str | None, entropy: float) -> Rollout:
    turn = Turn(message_id=str(index), generated_tokens=30, logprobs=scripted_logprobs([entropy] * 30))
    return Rollout(index=index, thread_id="", status="finished", trajectory=Trajectory(turns=(turn,)), vote_key=key)


CANDIDATES = [candidate(0, "a", 0.1), candidate(1, "b", 0.5), candidate(2, "b", 0.4), candidate(3, None, 0.3)]


def test_the_one_that_the_selector_prefers_stands_for_those_that_came_to_the_same():
    selection, outcomes = chosen(LowestMeanEntropy(), CANDIDATES)
    assert [(outcome.index, outcome.votes) for outcome in outcomes] == [(0, 1), (2, 2), (3, 1)]
    assert selection.winner == 0


def test_the_votes_of_all_count():
    selection, _ = chosen(MajorityVote(), CANDIDATES)
    assert selection.winner == 2
    assert selection.reason == "2 of 4 rollouts came to this outcome (weight 2)"


def test_in_a_weighted_vote_an_outcome_weighs_as_often_as_it_has_votes():
    selection, _ = chosen(WeightedVote(BySignal("mean_entropy")), CANDIDATES)
    values = {candidate.rollout: candidate.value for candidate in selection.candidates}
    assert values[0] == pytest.approx(math.exp(-0.1))
    assert values[2] == pytest.approx(2 * math.exp(-0.4))
    assert selection.winner == 2


def test_in_a_borda_vote_too_with_the_weights_of_all_that_came_to_it():
    selection, _ = chosen(BordaVote(BySignal("mean_entropy"), power=1.0), CANDIDATES[:3])
    assert {candidate.rollout: candidate.value for candidate in selection.candidates} == {0: 3.0, 2: 2.0 + 1.0}


def test_candidates_without_an_outcome_are_not_the_same():
    _, outcomes = chosen(First(), [candidate(0, None, 0.1), candidate(1, None, 0.2)])
    assert [outcome.votes for outcome in outcomes] == [1, 1]


def test_where_all_came_to_the_same_nobody_has_to_decide():
    selection, outcomes = chosen(LowestCentroid(), [candidate(0, "a", 0.1), candidate(1, "a", 0.2)])
    assert (selection.winner, selection.reason, len(outcomes)) == (0, "all candidates came to the same", 1)


def test_where_they_did_not_a_selector_that_abstains_is_an_error():
    with pytest.raises(ConfigurationError, match=r"First\(\)"):
        chosen(LowestCentroid(), CANDIDATES)
