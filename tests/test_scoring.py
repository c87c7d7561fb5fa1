"""Scoring recorded candidates: rewards, abstentions, intervals, the null control."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import pytest

from entcent_agents.errors import MissingExtraError
from entcent_agents.recordings import Recorded
from entcent_agents.scoring.summary import summarise
from entcent_agents.scoring.tasks import TaskScore, score_task
from entcent_agents.selection import BySignal, First, LowestCentroid, LowestMeanEntropy, MajorityVote, WeightedVote
from entcent_agents.signals import SignalSettings
from entcent_agents.statistics import mean_over_tasks, means_over_tasks
from entcent_agents.testing import scripted_logprobs
from entcent_agents.trajectory import Rollout, Trajectory, Turn

SELECTORS = {
    "entropy": LowestMeanEntropy(),
    "centroid": LowestCentroid(),
    "majority": MajorityVote(),
    "weighted": WeightedVote(),
    "first": First(),
}


def recorded(entropy: float, reward: float | None, vote: str, *, task: str = "t", tokens: int = 5) -> Recorded:
    turn = Turn(message_id="", generated_tokens=tokens, logprobs=scripted_logprobs([entropy] * tokens))
    rollout = Rollout(index=9, thread_id="x", status="finished", trajectory=Trajectory(turns=(turn,)), vote_key=vote)
    return Recorded(task=task, rollout=rollout, reward=reward, source=f"file:{entropy}")


def score(*candidates: Recorded, shuffles: int = 0, seed: int = 0) -> TaskScore:
    rng = np.random.default_rng(seed)
    found = score_task(candidates, SELECTORS, SignalSettings(), shuffles=shuffles, rng=rng)
    assert found is not None
    return found


def test_each_selector_is_rewarded_for_what_it_chose():
    found = score(recorded(2.0, 0, "a"), recorded(1.0, 1, "b"), recorded(1.5, 0, "a"))
    assert found.rewards == (0, 1, 0)
    assert {name: found.selections[name].winner for name in SELECTORS} == {
        "entropy": 1,
        "centroid": None,
        "majority": 2,
        "weighted": 1,  # exp(-1) against exp(-2) + exp(-1.5)
        "first": 0,
    }
    assert found.reward("entropy") == 1
    assert found.reward("first") == 0
    assert found.random_reward == pytest.approx(1 / 3)


@pytest.mark.parametrize("status", ["failed", "unfinished"])
def test_a_rollout_that_did_not_finish_is_no_candidate(status: str):
    bad = recorded(0.01, 1, "a")
    bad = replace(bad, rollout=replace(bad.rollout, status=status))
    found = score(bad, recorded(1.0, 0, "a"))
    assert (len(found.candidates), found.left_out, found.rewards) == (1, 1, (0,))
    rng = np.random.default_rng(0)
    assert score_task([bad], SELECTORS, SignalSettings(), shuffles=1, rng=rng) is None


def test_an_abstention_counts_as_a_random_choice():
    found = score(recorded(2.0, 0, "a"), recorded(1.0, 1, "b"))
    assert found.selections["centroid"].winner is None
    assert found.reward("centroid") == 0.5


def test_candidates_are_numbered_within_their_task_and_measured():
    found = score(recorded(2.0, 1, "a"), recorded(1.0, None, "b"))
    assert [one["candidate"] for one in found.candidates] == [0, 1]
    assert found.candidates[0]["signals"]["mean_entropy"] == 2.0
    assert found.candidates[0]["signals"]["centroid"] is None
    assert found.candidates[1]["reward"] is None
    assert found.rewards is None and found.null_rewards == {}
    assert summarise([found]) is None


def test_shuffled_trajectories_take_the_information_out_of_a_signal_and_leave_the_votes():
    tasks = [
        score(
            *(recorded(0.1 + i, float(i == 0), "right" if i < 2 else f"wrong {i}", task=f"{t}") for i in range(4)),
            shuffles=40,
            seed=t,
        )
        for t in range(30)
    ]
    summary = summarise(tasks)
    assert summary is not None
    by_name = {one.selector: one for one in summary.selectors}
    assert by_name["entropy"].reward.mean == 1.0
    assert by_name["entropy"].null == pytest.approx(0.25, abs=0.04)
    assert by_name["majority"].null == pytest.approx(0.5, abs=0.05)  # one of the two that agree
    assert by_name["first"].null == by_name["first"].reward.mean == 1.0  # it reads no trajectory
    assert by_name["centroid"].decided == 0 and by_name["centroid"].null == 0.25
    assert (summary.tasks, summary.mixed_tasks) == (30, 30)
    assert summary.oracle.mean == 1.0 and summary.random.mean == 0.25


def test_differences_are_paired_by_task():
    easy = [score(recorded(1.0, 1, "a"), recorded(2.0, 1, "b"), seed=i) for i in range(10)]
    hard = [score(recorded(1.0, 0, "a"), recorded(2.0, 0, "b"), seed=i) for i in range(10)]
    summary = summarise(easy + hard)
    assert summary is not None
    entropy = next(one for one in summary.selectors if one.selector == "entropy")
    assert entropy.reward.low < 0.5 < entropy.reward.high  # tasks differ
    assert entropy.gain == (0.0, 0.0, 0.0)  # no task does
    assert summary.mixed_tasks == 0
    assert math.isnan(entropy.null)


def test_tasks_without_every_reward_are_left_out():
    complete = score(recorded(1.0, 1, "a"), recorded(2.0, 0, "b"))
    summary = summarise([complete, score(recorded(1.0, None, "a"), recorded(2.0, 0, "b"))])
    assert summary is not None and summary.tasks == 1


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for i in range(100):
        estimate = mean_over_tasks((rng.random(60) < 0.3).astype(float).tolist(), seed=i)
        covered += estimate.low <= 0.3 <= estimate.high
    assert 88 <= covered <= 100


def test_one_task_has_no_interval_and_equal_values_one_without_width():
    assert mean_over_tasks([0.7])[0] == 0.7 and math.isnan(mean_over_tasks([0.7]).low)
    assert mean_over_tasks([1.0, 1.0, 1.0]) == (1.0, 1.0, 1.0)


def test_several_means_share_their_draws_of_tasks_and_are_those_of_each_alone():
    rng = np.random.default_rng(4)
    rows = rng.random((5, 30))
    together = means_over_tasks(rows, seed=7)
    assert np.allclose(together, [mean_over_tasks(row.tolist(), seed=7) for row in rows], rtol=1e-12)
    pool = [rng.choice(rows[0], 30).mean() for _ in range(20_000)]
    assert together[0][1:] == pytest.approx(np.quantile(pool, [0.025, 0.975]).tolist(), abs=0.01)


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingExtraError, match=r"entcent-agents\[evals\]"):
        mean_over_tasks([0.0, 1.0])


def test_a_signal_selector_over_many_candidates_agrees_with_its_signal_table():
    candidates = [recorded(h, None, "a") for h in (0.3, 0.1, 0.2)]
    found = score_task(
        candidates,
        {"mean": BySignal("mean_entropy")},
        SignalSettings(),
        shuffles=3,
        rng=np.random.default_rng(0),
    )
    assert found is not None
    ranked = [one.rank for one in found.selections["mean"].candidates]
    assert ranked == [3, 1, 2]
