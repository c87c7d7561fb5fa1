"""Every selector against a case worked out by hand; the source of each method is in its docstring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from entcent_agents.errors import ConfigurationError
from entcent_agents.logprobs import TokenLogprobs, token_offsets
from entcent_agents.phases import PhaseConfig
from entcent_agents.segments import SegmentKind
from entcent_agents.selection import (
    BordaVote,
    BySignal,
    Candidate,
    EntropyConsensus,
    First,
    Keep,
    Longest,
    LowestCentroid,
    LowestMeanEntropy,
    MajorityVote,
    OnSegments,
    RandomChoice,
    Selection,
    Selector,
    Shortest,
    WeightedVote,
    WhereLong,
    named_selectors,
)
from entcent_agents.signals import SIGNALS, SignalSettings, signal_table
from entcent_agents.trajectory import Rollout, Trajectory, Turn

WINDOW_2 = SignalSettings(phases=PhaseConfig(top_percent=20, bottom_percent=50, consecutive_low=1), window=2)


def turn(
    entropy: Sequence[float],
    *,
    logprob: Sequence[float] | None = None,
    confidence: Sequence[float] | None = None,
    tokens: Sequence[bytes] = (),
    top_k: int = 2,
) -> Turn:
    column = np.array(entropy, np.float32)
    tokens = list(tokens) or [b"."] * len(column)
    return Turn(
        message_id="m",
        generated_tokens=len(column),
        logprobs=TokenLogprobs(
            text=b"".join(tokens),
            offsets=token_offsets(tokens),
            logprob=-column if logprob is None else np.array(logprob, np.float32),
            entropy=column,
            residual=np.zeros_like(column),
            confidence=column.copy() if confidence is None else np.array(confidence, np.float32),
            top_k=top_k,
        ),
    )


def rollout(index: int, *turns: Turn, vote: str | None = None) -> Rollout:
    return Rollout(
        index=index, thread_id=f"t:{index}", status="finished", trajectory=Trajectory(turns=turns), vote_key=vote
    )


def values(selection: Selection) -> list[float | None]:
    return [candidate.value for candidate in selection.candidates]


THREE = [
    rollout(0, turn([0, 2, 0, 0, 0], logprob=[-1, -1, -1, -1, -1], confidence=[3, 2, 1, 2, 5]), vote="a"),
    rollout(1, turn([0, 0, 0, 2, 1], logprob=[-4, 0, 0, 0, 0], confidence=[3, 3, 3, 3, 3]), vote="b"),
    rollout(2, turn([0, 0, 3, 0]), vote="b"),
]
"""With top 20 % and bottom 50 %: phases (1, 1), (3, 2), (2, 1)."""

BY_HAND: dict[str, tuple[list[float], int]] = {
    "centroid": ([1.5 / 5, 4 / 5, 2.5 / 4], 0),
    "centroid_from_starts": ([1 / 5, 3 / 5, 2 / 4], 0),
    "centroid_moment": ([1 / 5, 6 / 5, 2 / 4], 0),
    "centroid_raw": ([2 * 1 / (5 * 2), (2 * 3 + 1 * 4) / (5 * 3), 3 * 2 / (4 * 3)], 0),
    "mean_entropy": ([2 / 5, 3 / 5, 3 / 4], 0),
    "tail_entropy": ([0.0, 1.5, 1.5], 0),
    "peak_entropy": ([2 * 0.996, 1 + 0.996, 3 * 0.997], 0),  # at 99.9 %, between the two highest
    "mean_logprob": ([-1.0, -4 / 5, -3 / 4], 2),
    "sum_logprob": ([-5.0, -4.0, -3.0], 2),
    "perplexity": ([math.e, math.exp(4 / 5), math.exp(3 / 4)], 2),
    "mean_confidence": ([13 / 5, 3.0, 3 / 4], 1),
    "tail_confidence": ([3.5, 3.0, 1.5], 0),
    "lowest_group_confidence": ([1.5, 3.0, 0.0], 1),
    "bottom_confidence": ([1.5, 3.0, 0.0], 1),
    "self_certainty": ([13 / 5 - math.log(2), 3 - math.log(2), 3 / 4 - math.log(2)], 1),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_every_signal_selects_as_worked_out_by_hand(name):
    expected, winner = BY_HAND[name]
    selection = BySignal(name, settings=WINDOW_2).select(THREE)
    assert values(selection) == pytest.approx(expected, rel=1e-6)
    assert selection.winner == winner
    assert selection.candidates[winner].rank == 1


def test_a_signal_table_has_one_row_for_each_trajectory_and_nan_where_nothing_is():
    table = signal_table([one.trajectory for one in THREE] + [Trajectory()], settings=WINDOW_2)
    assert set(table) == set(SIGNALS)
    for name, column in table.items():
        assert column[:3] == pytest.approx(BY_HAND[name][0], rel=1e-6)
        assert math.isnan(column[3])


def test_a_quantity_that_was_not_recorded_gives_no_signal_of_it():
    unknown = [math.nan] * 3
    recorded = [rollout(i, turn([1, 2, 1], logprob=unknown, confidence=unknown)) for i in range(2)]
    assert LowestMeanEntropy().select(recorded).winner == 0
    assert BySignal("perplexity").select(recorded).reason == "no log-probabilities of the sampled tokens"
    assert BySignal("tail_confidence").select(recorded).reason == "no top-k log-probabilities"


def test_the_majority_is_tied_and_the_next_selector_chooses_in_it():
    rollouts = [
        rollout(0, turn([0, 0, 0, 2, 0]), vote="a"),
        rollout(1, turn([2, 0, 0, 0, 0]), vote="b"),
        rollout(2, turn([0, 2, 0, 0, 0]), vote="a"),
    ]
    alone = MajorityVote().select(rollouts)
    assert (alone.winner, alone.tied, values(alone)) == (0, (0, 2), [2.0, 1.0, 2.0])
    then = MajorityVote().then(BySignal("centroid", settings=WINDOW_2)).select(rollouts)
    assert (then.winner, then.selector) == (2, "majority vote, then lowest centroid")
    assert then.reason == "2 of 3 rollouts came to this outcome (weight 2); then centroid 0.3 is the lowest of 2"
    assert values(then) == [2.0, 1.0, 2.0]
    assert [candidate.rank for candidate in then.candidates] == [2, 3, 1]
    assert [values(step) for step in then.steps] == [[2.0, 1.0, 2.0], pytest.approx([0.7, 0.3])]


def test_the_next_selector_is_asked_about_all_where_the_previous_abstained():
    apart = [rollout(0, turn([2, 0, 1]), vote="a"), rollout(1, turn([1, 0, 1]), vote="b")]
    selection = MajorityVote().then(LowestMeanEntropy()).select(apart)
    assert (selection.winner, selection.selector) == (1, "lowest mean entropy")
    assert [step.selector for step in selection.abstained] == ["majority vote"]


def test_a_tie_that_the_rest_of_the_chain_cannot_break_goes_to_who_led_it():
    rollouts = [rollout(i, vote="a") for i in range(3)]
    selection = MajorityVote().then(LowestCentroid()).select(rollouts)
    assert (selection.winner, selection.selector, selection.tied) == (0, "majority vote", (0, 1, 2))


WEIGHTS: dict[str, tuple[Any, list[float]]] = {
    "centroid": ("centroid", [1 - 0.3, 1 - 0.8 + 1 - 0.625, 1 - 0.8 + 1 - 0.625]),
    "mean_entropy": ("mean_entropy", [math.exp(-0.4), *[math.exp(-0.6) + math.exp(-0.75)] * 2]),
    "tail_confidence": ("tail_confidence", [3.5, 4.5, 4.5]),
    "sum_logprob": ("sum_logprob", [math.exp(-2), *[math.exp(-1) + 1] * 2]),
    "mean_logprob": ("mean_logprob", [math.exp(-1), *[math.exp(-0.8) + math.exp(-0.75)] * 2]),
    "perplexity": ("perplexity", [math.exp(-1), *[math.exp(-0.8) + math.exp(-0.75)] * 2]),
}


@pytest.mark.parametrize("signal, votes", WEIGHTS.values(), ids=WEIGHTS)
def test_weighted_votes_add_up_as_worked_out_by_hand(signal, votes):
    selection = WeightedVote(BySignal(signal, settings=WINDOW_2)).select(THREE)
    assert values(selection) == pytest.approx(votes, rel=1e-6)
    assert (selection.winner, selection.tied) == ((1, (1, 2)) if votes[1] > votes[0] else (0, (0,)))


def test_the_vote_of_a_likely_sequence_outweighs_two_unlikely_ones():
    rollouts = [
        rollout(0, turn([1], logprob=[-1000]), vote="a"),
        rollout(1, turn([1], logprob=[-1001]), vote="a"),
        rollout(2, turn([1], logprob=[-999]), vote="b"),
    ]
    selection = WeightedVote(BySignal("sum_logprob")).select(rollouts)
    assert selection.winner == 2
    assert values(selection) == pytest.approx([math.exp(-1) + math.exp(-2)] * 2 + [1.0])


def test_who_has_no_outcome_weighs_on_nobody_else_s_vote():
    rollouts = [
        rollout(0, turn([1], logprob=[-1])),
        rollout(1, turn([1], logprob=[-900]), vote="a"),
        rollout(2, turn([1], logprob=[-2000]), vote="b"),
        rollout(3, turn([1], logprob=[-2000]), vote="b"),
    ]
    selection = WeightedVote(BySignal("sum_logprob")).select(rollouts)
    assert selection.winner == 1
    assert values(selection) == [None, 1.0, 0.0, 0.0]


def test_a_vote_in_which_everybody_weighs_nothing_elects_nobody():
    rollouts = [rollout(i, turn([1], confidence=[0]), vote=v) for i, v in enumerate("aaab")]
    selection = WeightedVote(BySignal("mean_confidence")).select(rollouts)
    assert (selection.winner, selection.tied, selection.reason) == (None, (), "every vote weighs 0")


def test_the_order_of_the_voters_breaks_no_tie():
    rng = np.random.default_rng(0)
    for _ in range(100):
        weights = rng.uniform(0, 3, 3).round(3)
        rows = [rollout(i, turn([h]), vote="a") for i, h in enumerate(weights)]
        rows += [rollout(3 + i, turn([h]), vote="b") for i, h in enumerate(weights[::-1])]
        assert len(WeightedVote().select(rows).tied) == 6


def test_likelihood_needs_neither_alternatives_nor_one_k():
    unknown = [math.nan] * 2
    rollouts = [
        rollout(0, turn(unknown, logprob=[-2, -2], confidence=unknown, top_k=5)),
        rollout(1, turn([1, 1], logprob=[-1, -1], top_k=20)),
        rollout(2, turn([1, 1], logprob=[-3, -3], top_k=5)),
    ]
    selection = BySignal("perplexity").select(rollouts)
    assert (selection.winner, values(selection)) == (1, pytest.approx([math.exp(2), math.e, math.exp(3)]))
    assert BySignal("mean_entropy").select(rollouts).reason == "turns differ in top-k: they do not compare"


def test_borda_votes_weigh_by_rank():
    selection = BordaVote(BySignal("mean_confidence"), power=2).select(THREE)
    assert values(selection) == [4.0, 10.0, 10.0]  # ranks 2, 1, 3 of 3: (3 - r + 1)^2
    assert selection.winner == 1
    root = BordaVote(BySignal("mean_confidence")).select(THREE)
    assert values(root) == pytest.approx([math.sqrt(2), math.sqrt(3) + 1, math.sqrt(3) + 1])
    assert values(BordaVote(BySignal("mean_confidence"), power=0).select(THREE)) == [1.0, 2.0, 2.0]


def test_equal_ranks_share_their_places_in_a_borda_vote():
    rollouts = [rollout(i, turn([1.0]), vote=v) for i, v in enumerate("aab")]
    assert values(BordaVote(BySignal("mean_confidence"), power=1).select(rollouts)) == [4.0, 4.0, 2.0]


def test_a_filter_leaves_the_best_share_tied_and_the_next_chooses_among_them():
    rollouts = [rollout(i, turn([h, 0, h]), vote=v) for i, (h, v) in enumerate(zip((3, 1, 2, 4), "aaba", strict=True))]
    half = Keep(LowestMeanEntropy())
    assert (half.select(rollouts).winner, half.select(rollouts).tied) == (1, (1, 2))
    assert half.then(Longest()).select(rollouts).winner == 1
    assert half.then(MajorityVote()).select(rollouts).reason.startswith("2 of 4 stay by mean entropy")
    assert half.then(MajorityVote()).select(rollouts).winner == 1
    deepconf = Keep(BySignal("mean_confidence"), share=0.5).then(WeightedVote(BySignal("mean_confidence")))
    assert set(deepconf.select(rollouts).tied) == {0, 3}  # both say "a"
    assert deepconf.select(rollouts).winner == 0  # in it the lower mean entropy
    assert [len(Keep(LowestMeanEntropy(), share=share).select(rollouts).tied) for share in (0.01, 0.6, 0.9, 1)] == [
        1,
        2,
        4,
        4,
    ]


def test_consensus_is_closest_to_the_mean_profile():
    rollouts = [
        rollout(0, turn([4, 4, 0, 0])),
        rollout(1, turn([2, 2])),
        rollout(2, turn([0, 0, 3, 3])),
    ]
    # profiles of two points: (4, 0), (2, 2), (0, 3); mean (2, 5/3)
    two = EntropyConsensus(points=2).select(rollouts[:2])
    assert (two.winner, two.reason) == (None, "2 profiles are no consensus, 3 are needed")
    assert EntropyConsensus(points=3).select(rollouts).candidates[1].reason == "2 scored tokens below 3"
    selection = EntropyConsensus(points=2).select(rollouts)
    squares = [4 + (5 / 3) ** 2, (1 / 3) ** 2, 4 + (4 / 3) ** 2]
    assert values(selection) == pytest.approx([math.sqrt(square / 2) for square in squares], rel=1e-6)
    assert selection.winner == 1


def test_baselines():
    rollouts = [rollout(7, turn([1, 1])), rollout(8, turn([1])), rollout(9, turn([1, 1, 1]))]
    assert First().select(rollouts) == Selection(
        winner=7,
        selector="first",
        reason="the first to stand",
        candidates=tuple(Candidate(rollout=7 + i, value=float(i), rank=i + 1) for i in range(3)),
        tied=(7,),
    )
    assert First().select([]) == Selection(winner=None, selector="first", reason="no rollouts")
    assert Shortest().select(rollouts).reason == "number of generated tokens 1 is the lowest of 3"
    assert Shortest().select(rollouts).winner == 8
    assert Longest().select(rollouts).winner == 9
    assert Longest().select([Rollout(index=0, thread_id="", status="finished")]).reason == "no tokens"
    assert Longest().select(rollouts).reason == "number of generated tokens 3 is the highest of 3"


def test_a_random_choice_is_the_same_for_the_same_rollouts_and_fair_over_many():
    def winner(request: int, seed: int = 0) -> int | None:
        rollouts = [Rollout(index=i, thread_id=f"{request}:{i}", status="finished") for i in range(4)]
        return RandomChoice(seed).select(rollouts).winner

    selection = RandomChoice(5).select([Rollout(index=i, thread_id=f"{i}", status="finished") for i in range(3)])
    assert (selection.selector, selection.reason) == ("random", "drawn with seed 5")
    assert sorted(candidate.rank or 0 for candidate in selection.candidates) == [1, 2, 3]
    assert [candidate.value for candidate in selection.candidates if candidate.rank == 1] == [0.0]
    assert selection.tied == (selection.winner,)
    drawn = [winner(request) for request in range(400)]
    assert drawn == [winner(request) for request in range(400)]
    assert drawn != [winner(request, seed=1) for request in range(400)]
    assert all(60 < drawn.count(i) < 140 for i in range(4))


def test_a_selector_over_segments_sees_those_tokens_alone():
    tokens = [b'{"name": "', b"find", b'", "arguments": {"x": ', b"41", b"}}"]
    sure_of_the_argument = rollout(0, turn([3, 3, 3, 0.1, 3], tokens=tokens))
    unsure = rollout(1, turn([0, 0, 0, 2, 0], tokens=tokens))
    rollouts = [sure_of_the_argument, unsure]
    assert LowestMeanEntropy().select(rollouts).winner == 1
    selection = OnSegments(LowestMeanEntropy(), {SegmentKind.TOOL_ARGUMENT}).select(rollouts)
    assert (selection.winner, selection.selector) == (0, "lowest mean entropy over tool argument tokens")
    assert values(selection) == pytest.approx([0.1, 2.0])
    chained = OnSegments(MajorityVote().then(LowestMeanEntropy()), {SegmentKind.TOOL_ARGUMENT}).select(rollouts)
    assert chained.selector == "lowest mean entropy over tool argument tokens"
    assert [step.selector for step in chained.steps] == [
        "majority vote over tool argument tokens",
        "lowest mean entropy over tool argument tokens",
    ]
    without = [rollout(0, turn([1], tokens=[b"hello"]))]
    assert OnSegments(LowestMeanEntropy(), {SegmentKind.TOOL_NAME}).select(without).winner is None


def test_one_vote_is_taken_on_long_trajectories_and_another_on_short_ones():
    chain = WhereLong(Longest(), min_scored_tokens=4).then(Shortest())
    lengths = {0: 9, 1: 4, 2: 1}
    long = chain.select([rollout(i, turn([1.0] * tokens)) for i, tokens in lengths.items()])
    assert (long.winner, long.selector) == (0, "longest from 4 tokens")
    assert len([value for value in values(long) if value is not None]) == 3, "no rollout is dropped for its own length"
    short = chain.select([rollout(i, turn([1.0] * (tokens - (tokens == 4)))) for i, tokens in lengths.items()])
    assert (short.winner, short.selector) == (2, "shortest")
    (abstained,) = short.abstained
    assert abstained.reason == "the median rollout has 3 scored tokens, below 4"
    assert WhereLong(First()).select([]).winner is None


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: BySignal("centroids"), "no signal is called 'centroids'"),
        (lambda: BySignal("centroid", min_coverage=1.5), "min_coverage=1.5"),
        (lambda: BySignal("centroid", quorum=float("nan")), "quorum=nan"),
        (lambda: LowestCentroid(min_scored_tokens=-1), "min_scored_tokens=-1"),
        (lambda: WeightedVote(BySignal("centroid_moment")), "'centroid_moment'"),
        (lambda: BordaVote(power=-1), "power=-1"),
        (lambda: Keep(LowestMeanEntropy(), share=0), "share=0"),
        (lambda: EntropyConsensus(points=1), "points=1"),
        (lambda: OnSegments(First(), frozenset()), "kinds is empty"),
        (lambda: OnSegments(First(), ["answer"]), "is no set of SegmentKind"),
        (lambda: OnSegments(First(), SegmentKind.ANSWER), "is no set of SegmentKind"),
        (lambda: WhereLong(First(), min_scored_tokens=-1), "min_scored_tokens=-1"),
        (lambda: WeightedVote("mean_entropy"), "by='mean_entropy' is no BySignal"),
        (lambda: BordaVote(First()), "is no BySignal"),
        (lambda: Keep("mean_entropy"), "is no BySignal"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_value_seen(make, said):
    with pytest.raises(ConfigurationError, match=said):
        make()


INTRINSIC: list[Selector] = [
    LowestCentroid(min_scored_tokens=0),
    *(BySignal(name, settings=WINDOW_2) for name in SIGNALS),
    *(WeightedVote(BySignal(name, settings=WINDOW_2)) for name, signal in SIGNALS.items() if signal.weights),
    BordaVote(),
    Keep(LowestMeanEntropy()),
    EntropyConsensus(points=5),
    OnSegments(LowestMeanEntropy(), frozenset({SegmentKind.ANSWER})),
    OnSegments(WeightedVote(), frozenset({SegmentKind.ANSWER})),
    WhereLong(LowestMeanEntropy(), min_scored_tokens=8),
]
entropies = arrays(np.float32, st.integers(5, 40), elements=st.floats(0, 2, width=32))


@pytest.mark.parametrize("selector", INTRINSIC, ids=lambda selector: selector.name)
@settings(max_examples=25, deadline=None)
@given(data=st.lists(entropies, min_size=3, max_size=5), blind=st.integers(0, 4), partly=st.booleans())
def test_a_candidate_without_logprobs_never_wins_an_intrinsic_selection(selector, data, blind, partly):
    rollouts = [rollout(i, turn(h), vote="same") for i, h in enumerate(data)]
    blind %= len(rollouts)
    lost = Turn(message_id="m", generated_tokens=900)
    rollouts[blind] = rollout(blind, *((turn(data[blind]), lost) if partly else (lost,)), vote="same")
    selection = selector.select(rollouts)
    assert selection.winner != blind
    assert selection.candidates[blind].value is None and selection.candidates[blind].reason


@pytest.mark.parametrize("selector", named_selectors(WINDOW_2).values(), ids=named_selectors())
@settings(max_examples=25, deadline=None)
@given(data=st.data(), rows=st.lists(entropies, min_size=2, max_size=5))
def test_the_order_of_the_candidates_matters_in_ties_alone(selector, data, rows):
    if selector.name in ("first", "random"):
        return
    rollouts = [rollout(i, turn(h), vote="ab"[i % 2]) for i, h in enumerate(rows)]
    shuffled = data.draw(st.permutations(rollouts))
    one, other = selector.select(rollouts), selector.select(shuffled)
    assert {candidate.rollout: candidate.value for candidate in one.candidates} == pytest.approx(
        {candidate.rollout: candidate.value for candidate in other.candidates}
    )
    assert (one.winner is None) == (other.winner is None)
    if one.winner != other.winner:
        value = {candidate.rollout: candidate.value for candidate in one.candidates}
        assert value[one.winner] == pytest.approx(value[other.winner])


@pytest.mark.parametrize("name, selector", named_selectors().items())
def test_every_named_selector_survives_what_it_cannot_score(name, selector):
    for rollouts in ([rollout(0)], [rollout(0), rollout(1, vote="a")], [rollout(0, turn([math.nan] * 3))]):
        selection = selector.select(rollouts)
        assert selection.winner is not None or selection.reason
        assert len(selection.candidates) in (0, len(rollouts))


def test_the_catalogue_is_what_its_names_say():
    centroid, any_centroid = LowestCentroid(settings=WINDOW_2), BySignal("centroid", settings=WINDOW_2)
    entropy, tail = LowestMeanEntropy(settings=WINDOW_2), BySignal("tail_confidence", settings=WINDOW_2)
    named = {
        "default chain": WhereLong(WeightedVote(any_centroid), min_scored_tokens=100).then(
            centroid, WeightedVote(entropy), entropy, MajorityVote(), First()
        ),
        "lowest centroid, with floors": centroid,
        "lowest centroid": any_centroid,
        "lowest centroid from starts": BySignal("centroid_from_starts", settings=WINDOW_2),
        "lowest centroid moment": BySignal("centroid_moment", settings=WINDOW_2),
        "lowest raw-entropy centroid": BySignal("centroid_raw", settings=WINDOW_2),
        "lowest mean entropy": BySignal("mean_entropy", settings=WINDOW_2),
        "lowest tail entropy": BySignal("tail_entropy", settings=WINDOW_2),
        "lowest peak entropy": BySignal("peak_entropy", settings=WINDOW_2),
        "highest mean log-probability": BySignal("mean_logprob", settings=WINDOW_2),
        "highest log-probability": BySignal("sum_logprob", settings=WINDOW_2),
        "lowest perplexity": BySignal("perplexity", settings=WINDOW_2),
        "highest mean confidence": BySignal("mean_confidence", settings=WINDOW_2),
        "highest tail confidence": tail,
        "highest lowest group confidence": BySignal("lowest_group_confidence", settings=WINDOW_2),
        "highest bottom-10 % confidence": BySignal("bottom_confidence", settings=WINDOW_2),
        "highest self-certainty (top-k)": BySignal("self_certainty", settings=WINDOW_2),
        "entropy consensus": EntropyConsensus(),
        "majority vote": MajorityVote(),
        "vote weighted by mean entropy": WeightedVote(entropy),
        "vote weighted by centroid": WeightedVote(any_centroid),
        "vote weighted by tail confidence": WeightedVote(tail),
        "vote weighted by log-probability": WeightedVote(BySignal("sum_logprob", settings=WINDOW_2)),
        "Borda vote by self-certainty (top-k)": BordaVote(BySignal("self_certainty", settings=WINDOW_2)),
        "DeepConf vote (best 90% by tail confidence)": Keep(tail, share=0.9).then(WeightedVote(tail)),
        "best half by mean entropy, then lowest centroid": Keep(entropy, share=0.5).then(any_centroid),
        "majority vote, then lowest centroid": MajorityVote().then(any_centroid),
        "first": First(),
        "random": RandomChoice(),
        "shortest": Shortest(),
        "longest": Longest(),
    }
    assert dict(named_selectors(WINDOW_2)) == named
    assert list(named_selectors(WINDOW_2)) == list(named)
    assert named_selectors()["lowest centroid, with floors"] == LowestCentroid()


def test_a_borda_vote_prefers_the_outcome_of_the_best_ranked():
    rollouts = [
        rollout(i, turn([h]), vote=v) for i, (h, v) in enumerate(zip((0.1, 0.2, 0.3, 0.4), "abba", strict=True))
    ]
    lowest = BordaVote(LowestMeanEntropy(), power=2).select(rollouts)
    assert (values(lowest), lowest.selector) == ([17.0, 13.0, 13.0, 17.0], "Borda vote by mean entropy")
    highest = BordaVote(BySignal("mean_logprob"), power=1).select(rollouts[:3])
    assert (highest.winner, values(highest)) == (0, [3.0, 3.0, 3.0])
    assert BordaVote(LowestMeanEntropy(), power=1).select(rollouts[1:]).winner == 1
    assert values(BordaVote(LowestMeanEntropy(), power=1).select(rollouts[1:])) == [5.0, 5.0, 1.0]
    assert values(BordaVote(BySignal("mean_entropy"), power=1).select(rollouts[:3])) == [3.0, 3.0, 3.0]
    assert values(BordaVote(BySignal("sum_logprob"), power=2).select(rollouts[:3])) == [9.0, 5.0, 5.0]


def test_ranks_by_values_of_different_k_are_no_votes_but_likelihoods_are():
    mixed = [rollout(i, turn([1.0 + i], top_k=k), vote="a") for i, k in enumerate((5, 20))]
    for vote in (BordaVote(LowestMeanEntropy()), WeightedVote(LowestMeanEntropy())):
        assert vote.select(mixed).reason == "turns differ in top-k: they do not compare"
    for vote in (BordaVote(BySignal("mean_logprob")), WeightedVote(BySignal("mean_logprob"))):
        assert vote.select(mixed).winner == 0


def test_consensus_says_what_it_compared():
    rollouts = [rollout(i, turn([1.0 * i, 1.0])) for i in range(3)]
    selection = EntropyConsensus(points=2).select(rollouts)
    assert (selection.selector, selection.tied) == ("entropy consensus", (1,))
    assert selection.reason == "distance to the mean profile 0 is the lowest of 3"
    lost = rollout(3, turn([1.0, 1.0]), Turn(message_id="m", generated_tokens=8))
    assert EntropyConsensus(points=2).select([*rollouts, lost]).candidates[3].reason == "coverage 0.20 below 0.90"
    few = EntropyConsensus(points=2).select(rollouts[:2])
    assert (few.selector, few.tied) == ("entropy consensus", ())


def test_names_are_kept_in_results():
    rollouts = [rollout(i, turn([1.0] * (i + 1))) for i in range(2)]
    for selector in (Shortest(), Longest(), Keep(LowestMeanEntropy()), First(), RandomChoice(), BySignal("perplexity")):
        assert selector.select(rollouts).selector == selector.name
    with pytest.raises(ConfigurationError, match=r"^share=1.5 is not above 0 and at most 1$"):
        Keep(LowestMeanEntropy(), share=1.5)
    with pytest.raises(ConfigurationError, match="^kinds is empty: name at least one kind of segment$"):
        OnSegments(First(), frozenset())


def test_a_drawn_vote_says_so_and_leaves_both_outcomes_tied():
    rollouts = [rollout(i, turn([1.0]), vote=v) for i, v in enumerate("aabb")]
    selection = MajorityVote().select(rollouts)
    assert selection.tied == (0, 1, 2, 3)
    assert selection.reason == "2 of 4 rollouts came to this outcome (weight 2), and as many to 1 other"
