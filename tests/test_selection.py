"""Selectors: who may win, who abstains, and what the result says about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from entcent_agents.errors import LogprobsMissingError
from entcent_agents.phases import PhaseConfig
from entcent_agents.selection import (
    BySignal,
    Chain,
    First,
    LowestCentroid,
    LowestMeanEntropy,
    MajorityVote,
    Selection,
    WeightedVote,
    default_selector,
    rank,
    require_scorable,
)
from entcent_agents.signals import SignalSettings
from entcent_agents.testing import scripted_logprobs
from entcent_agents.trajectory import Rollout, Trajectory, Turn


def entropy(early: bool, tokens: int = 300) -> np.ndarray:
    """Two phases, at the beginning or at the end, on a quiet floor."""
    values = np.random.default_rng(0).uniform(0.0, 0.05, tokens)
    for start in (5, 25) if early else (tokens - 40, tokens - 15):
        values[start : start + 8] = 1.5
    return values


def rollout(index: int, values: Sequence[float] = (), *, generated: int = 0, top_k: int = 10, vote: str | None = None):
    turn = Turn(
        message_id=f"m{index}",
        generated_tokens=generated or len(values) or 50,
        logprobs=scripted_logprobs(values, top_k),
    )
    return Rollout(
        index=index, thread_id=f"t:{index}", status="finished", trajectory=Trajectory(turns=(turn,)), vote_key=vote
    )


def names(selections: Sequence[Selection]) -> list[str]:
    return [selection.selector for selection in selections]


LATE, EARLY = entropy(early=False), entropy(early=True)


def test_the_lowest_centroid_wins_where_it_means_something():
    selection = LowestCentroid().select([rollout(0, LATE), rollout(1, EARLY), rollout(2, LATE)])
    assert (selection.winner, selection.selector) == (1, "lowest centroid")
    assert [candidate.rank for candidate in selection.candidates] == [2, 1, 3]
    assert selection.candidates[1].value < 0.2 < 0.8 < selection.candidates[0].value


OUTSIDE = {
    "too few scored tokens": (entropy(early=True, tokens=90), {}, "90 scored tokens below 100"),
    "no phases": (np.zeros(300), {}, "0 phases below 2"),
    "low coverage": (EARLY, {"generated": 400}, "coverage 0.75 below 0.90"),
    "no log-probabilities": ((), {}, "no log-probabilities"),
}


@pytest.mark.parametrize("values, more, why", OUTSIDE.values(), ids=OUTSIDE)
def test_lowest_centroid_abstains_below_each_floor_and_says_which(values, more, why):
    selection = LowestCentroid().select([rollout(i, values, **more) for i in range(4)])
    assert selection.winner is None and selection.tied == ()
    assert why in selection.reason
    assert {candidate.reason for candidate in selection.candidates} == {why}


def test_lowest_centroid_needs_half_of_the_rollouts_to_be_valid_and_two_at_least():
    def winner(valid: int, of: int) -> int | None:
        rollouts = [rollout(i, LATE if i < valid else ()) for i in range(of)]
        return LowestCentroid().select(rollouts).winner

    assert [winner(1, 1), winner(2, 2), winner(2, 4), winner(3, 5)] == [0, 0, 0, 0]
    assert [winner(1, 2), winner(1, 3), winner(1, 4), winner(2, 5)] == [None] * 4


def test_asked_for_by_name_without_a_floor_it_ranks_the_shortest_too():
    selector = LowestCentroid(min_scored_tokens=0)
    assert selector.select([rollout(0, entropy(False, 100)), rollout(1, entropy(True, 100))]).winner == 1
    assert selector.select([rollout(0), rollout(1), rollout(2, LATE)]).winner == 2
    assert selector.select([rollout(0, LATE), rollout(1, EARLY, top_k=5)]).winner == 1


def test_without_a_floor_of_tokens_missing_log_probabilities_still_never_win():
    uncovered = [rollout(0, LATE), rollout(1, EARLY, generated=4000)]
    assert LowestCentroid(min_scored_tokens=0).select(uncovered).winner == 0


@pytest.mark.parametrize("selector", [LowestMeanEntropy(), WeightedVote()], ids=lambda s: s.name)
def test_entropies_of_different_k_do_not_compare(selector):
    mixed = [replace(rollout(0, LATE), vote_key="a"), replace(rollout(1, EARLY, top_k=5), vote_key="a")]
    assert selector.select(mixed).winner is None


def test_centroids_of_different_k_do_not_compare():
    selection = LowestCentroid().select([rollout(0, LATE), rollout(1, EARLY, top_k=5)])
    assert selection.winner is None and "top-k" in selection.reason
    turns = tuple(rollout(0, EARLY, top_k=k).trajectory.turns[0] for k in (5, 10))
    mixed = [Rollout(index=i, thread_id="t", status="finished", trajectory=Trajectory(turns=turns)) for i in range(2)]
    assert LowestCentroid().select(mixed).winner is None


@pytest.mark.parametrize("selector", [LowestCentroid(min_scored_tokens=0), LowestCentroid(), LowestMeanEntropy()])
def test_missing_logprobs_never_win(selector):
    rollouts = [rollout(0), rollout(1, np.full(300, np.nan)), rollout(2, LATE), rollout(3, EARLY)]
    selection = selector.select(rollouts)
    assert selection.winner in (2, 3)
    assert [candidate.value for candidate in selection.candidates[:2]] == [None, None]
    assert selector.select(rollouts[:2]).winner is None


def test_an_uncovered_trajectory_has_no_value_however_low_its_entropy():
    selection = LowestMeanEntropy().select([rollout(0, [0.0] * 50, generated=100), rollout(1, [2.0] * 100)])
    assert selection.winner == 1
    assert selection.candidates[0].value is None
    assert selection.candidates[0].reason == "coverage 0.50 below 0.90"


def test_ties_go_to_the_lower_mean_entropy_then_to_the_earlier():
    rollouts = [rollout(5, [1.0]), rollout(6, [0.5]), rollout(7, [0.5]), rollout(8)]
    selection = rank("constant", rollouts, lambda _: 1.0)
    assert selection.winner == 6
    assert selection.tied == (6, 7, 5, 8)
    assert [candidate.rank for candidate in selection.candidates] == [3, 1, 2, 4]


def test_the_same_input_gives_the_same_choice():
    rollouts = [rollout(i, np.roll(LATE, i * 7), vote="ab"[i % 2]) for i in range(6)]
    for selector in (default_selector(), LowestCentroid(), WeightedVote(), LowestMeanEntropy()):
        assert len({repr(selector.select(rollouts)) for _ in range(5)}) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_number_never_wins(value):
    selection = rank("broken", [rollout(0), rollout(1)], lambda one: value if one.index == 0 else 3.0)
    assert selection.winner == 1
    assert str(value) in selection.candidates[0].reason


def test_the_majority_wins_and_in_it_the_lowest_mean_entropy():
    rollouts = [
        rollout(0, [0.1] * 9, vote="b"),
        rollout(1, [2.0] * 9, vote="a"),
        rollout(2, [1.0] * 9, vote="a"),
        rollout(3),
    ]
    selection = MajorityVote().select(rollouts)
    assert (selection.winner, selection.tied) == (2, (2, 1))
    assert selection.reason == "2 of 4 rollouts came to this outcome (weight 2)"
    assert selection.candidates[3].reason == "no outcome to vote for"


def test_a_weighted_vote_counts_certainty_and_not_what_is_uncovered():
    rollouts = [
        rollout(0, [3.0] * 9, vote="a"),
        rollout(1, [3.0] * 9, vote="a"),
        rollout(2, [0.1] * 9, vote="b"),
        rollout(3, [0.2] * 9, vote="b"),
        rollout(4, vote="a"),
        rollout(5, [0.0] * 9, generated=90, vote="a"),
    ]
    assert MajorityVote().select(rollouts).winner == 0  # of its outcome, 5 is surest, but hardly covered
    selection = WeightedVote().select(rollouts)
    assert selection.winner == 2
    assert [candidate.reason for candidate in selection.candidates[4:]] == [
        "no log-probabilities",
        "coverage 0.10 below 0.90",
    ]


@pytest.mark.parametrize("vote", [MajorityVote(), WeightedVote()], ids=lambda vote: vote.name)
def test_a_vote_without_agreement_abstains(vote):
    apart = [rollout(i, [1.0] * 9, vote=str(i)) for i in range(3)]
    assert vote.select(apart).winner is None
    assert vote.select(apart).reason == "no two rollouts came to the same outcome"
    assert vote.select([rollout(0, [1.0]), rollout(1, [1.0])]).winner is None
    assert vote.select(apart[:1]).winner == 0


def test_a_chain_reports_who_abstained_and_why():
    selection = default_selector().select([rollout(0, [1.0] * 9), rollout(1, [0.5] * 9)])
    assert (selection.winner, selection.selector) == (1, "lowest mean entropy")
    assert names(selection.abstained) == [
        "vote weighted by centroid from 100 tokens",
        "lowest centroid",
        "vote weighted by mean entropy",
    ]
    assert selection.abstained[0].reason == "the median rollout has 9 scored tokens, below 100"
    assert "9 scored tokens below 100" in selection.abstained[1].reason
    assert selection.abstained[2].reason == "no outcome to vote for"


def test_on_long_trajectories_the_default_elects_an_outcome_and_takes_its_lowest_centroid():
    rollouts = [rollout(0, LATE, vote="a"), rollout(1, EARLY, vote="b"), rollout(2, EARLY, vote="a")]
    selection = default_selector().select(rollouts)
    assert selection.winner == 2
    assert selection.selector == "vote weighted by centroid from 100 tokens, then lowest centroid"
    alone = default_selector().select([rollout(i, LATE if i else EARLY, vote=str(i)) for i in range(3)])
    assert (alone.winner, alone.selector) == (0, "lowest centroid")


def test_without_any_logprobs_the_default_takes_the_majority_else_the_first_and_says_so():
    selection = default_selector().select([rollout(4), rollout(5)])
    assert (selection.winner, selection.selector, len(selection.abstained)) == (4, "first", 5)
    voted = [replace(rollout(index), vote_key=key) for index, key in enumerate(["a", "b", "b"])]
    selection = default_selector().select(voted)
    assert (selection.winner, selection.selector, len(selection.abstained)) == (1, "majority vote, then first", 4)


def test_a_chain_in_a_chain_forgets_nobody():
    inner = Chain((LowestCentroid(), MajorityVote()))
    outer = Chain((Chain((LowestCentroid(),)), inner, Chain((LowestMeanEntropy(), First()))))
    selection = outer.select([rollout(0), rollout(1)])
    assert selection.selector == "first"
    assert names(selection.abstained) == [
        "lowest centroid",
        "lowest centroid",
        "majority vote",
        "lowest mean entropy",
    ]


def test_a_chain_in_which_everybody_abstains_abstains():
    selection = Chain((LowestCentroid(), MajorityVote())).select([rollout(0), rollout(1)])
    assert (selection.winner, selection.selector) == (None, "lowest centroid, then majority vote")
    assert selection.reason == (
        "lowest centroid: 0 of 2 rollouts are within its validity, 2 are needed (no log-probabilities); "
        "majority vote: no outcome to vote for"
    )
    assert names(selection.abstained) == ["lowest centroid", "majority vote"]
    assert Chain(()).select([rollout(0)]).reason == "the chain is empty"


def test_rollouts_without_a_single_logprob_are_refused_with_the_settings_to_change():
    with pytest.raises(LogprobsMissingError) as caught:
        require_scorable([rollout(0), rollout(1, [float("nan")])])
    assert str(caught.value) == (
        "none of 2 rollouts carries log-probabilities: ask the model for them (ChatLogprobs always does; "
        "with_logprobs(model) sets the other models), use a server that gives them, set cache=False on a "
        "model that LangChain's cache answers for, or pass on_unscorable='fallback' to select without"
    )
    require_scorable([rollout(0), rollout(1, [0.5])])


class FewestTokens:
    name = "fewest tokens"

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        return rank(self.name, rollouts, lambda rollout: rollout.trajectory.generated_tokens)


def test_a_selector_of_one_s_own_is_five_lines_and_chains_with_the_others():
    rollouts = [rollout(0, [1.0] * 9), rollout(1, [1.0] * 3), rollout(2, [1.0] * 5)]
    assert FewestTokens().select(rollouts).winner == 1
    chained = LowestCentroid().then(FewestTokens()).select(rollouts)
    assert (chained.winner, chained.selector, chained.reason) == (1, "fewest tokens", "value 3 is the lowest of 3")


def test_a_selection_is_json_able():
    record = json.loads(
        json.dumps(default_selector().select([rollout(0), rollout(1, [1.0])]).to_dict(), allow_nan=False)
    )
    assert record["winner"] == 1
    assert set(record) == {"winner", "selector", "reason", "candidates", "tied", "steps"}
    assert record["reason"] == "mean entropy 1 is the lowest of 1"
    assert record["candidates"][0] == {"rollout": 0, "value": None, "rank": None, "reason": "no log-probabilities"}
    assert record["steps"][0]["selector"] == "vote weighted by centroid from 100 tokens"
    assert record["tied"] == [1]


def test_a_chain_ranks_who_it_asked_first_and_the_others_as_before():
    rollouts = [
        rollout(0, [2.0] * 9, vote="a"),
        rollout(1, vote="a"),
        rollout(2, [1.0] * 9, vote="a"),
        rollout(3, [0.0] * 9, vote="b"),
        rollout(4, [3.0] * 9, vote="c"),
        rollout(5, [3.0] * 9, vote="c"),
    ]
    selection = MajorityVote().then(LowestMeanEntropy()).select(rollouts)
    assert [candidate.rank for candidate in selection.candidates] == [2, 3, 1, 6, 4, 5]
    assert (selection.winner, selection.tied) == (2, (2,))


def test_nothing_is_tied_in_an_abstention():
    apart = [rollout(i, [1.0] * 9, vote=str(i)) for i in range(3)]
    mixed = [rollout(0, LATE), rollout(1, EARLY, top_k=5)]
    for selection in (
        MajorityVote().select(apart),
        LowestMeanEntropy().select(mixed),
        LowestCentroid().select(apart),
        LowestCentroid().select([rollout(0, LATE), rollout(1)]),
    ):
        assert (selection.winner, selection.tied) == (None, ())
    few = LowestCentroid().select([rollout(0, LATE), rollout(1)])
    assert few.reason == "1 of 2 rollouts are within its validity, 2 are needed (no log-probabilities)"


def test_ranking_nobody_or_nothing():
    nobody = Selection(winner=None, selector="x", reason="no rollouts")
    assert rank("x", [], lambda _: 1.0) == nobody
    assert rank("x", [rollout(0)], lambda _: None).candidates[0].reason == "no value"


def test_a_floor_is_met_where_it_is_equalled():
    assert LowestMeanEntropy(min_coverage=0.5).select([rollout(0, [1.0] * 4, generated=8)]).winner == 0
    full = LowestCentroid(min_coverage=1.0, quorum=1.0, min_scored_tokens=300)
    assert full.select([rollout(0, LATE), rollout(1, EARLY)]).winner == 1
    assert full.select([rollout(0, LATE), rollout(1, EARLY), rollout(2)]).winner is None


def test_phases_are_counted_with_the_settings_given():
    values = [2.0, 0.0, 1.0, 0.0] * 10
    loose = SignalSettings(phases=PhaseConfig(top_percent=50, bottom_percent=50, consecutive_low=1))
    many = LowestCentroid(min_scored_tokens=1, min_phases=20, settings=loose)
    assert many.select([rollout(0, values)]).winner == 0
    assert LowestCentroid(min_scored_tokens=1, min_phases=20).select([rollout(0, values)]).winner is None
    one_phase = [0.0] * 50 + [2.0] + [0.0] * 50
    assert LowestCentroid(min_scored_tokens=0).select([rollout(0, one_phase)]).winner == 0
    assert BySignal("centroid").select([rollout(0, [1.0] * 9)]).reason == "no centroid"
