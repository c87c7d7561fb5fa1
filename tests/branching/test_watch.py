from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entcent_agents.branching import BranchPolicy, Watch, decision_tokens
from entcent_agents.errors import ConfigurationError
from tests.branching.turns import CALL, DECIDING, TOP_K, call, turn

TOOL, ARGUMENT = 5, 8


def tokens_of(points):
    return [point.token for point in points]


def test_a_point_is_where_the_entropy_is_above_the_threshold_with_all_that_is_known_of_the_alternative():
    logprobs = turn(CALL, [1.0 if i == TOOL else 0.4 for i in range(13)], ["look"] * 13, 0.25, ids=range(13))
    (point,) = Watch(BranchPolicy(threshold=0.5)).points(0, 0, logprobs, room=8)
    assert (point.token, point.decision, point.alternative, point.id) == (TOOL, "tool", b"look", TOOL)
    assert (point.entropy, point.kind) == (1.0, logprobs.kind[TOOL])
    assert point.logprob == pytest.approx(math.log(0.25))


def test_an_entropy_at_the_threshold_is_not_above_it():
    assert Watch(BranchPolicy(threshold=1.0)).points(0, 0, call({TOOL: 1.0}), room=8) == []


def test_the_decision_farthest_above_its_own_threshold_comes_first():
    policy = BranchPolicy(threshold={"call": 2.0, "tool": 0.1, "argument": 1.0}, max_per_turn=3)
    logprobs = call({0: 2.5, TOOL: 0.9, ARGUMENT: 1.6})
    assert tokens_of(Watch(policy).points(0, 0, logprobs, room=8)) == [TOOL, ARGUMENT, 0]
    assert tokens_of(Watch(policy).points(0, 0, logprobs, room=2)) == [TOOL, ARGUMENT]
    assert Watch(policy).points(0, 0, logprobs, room=0) == []


def test_decisions_that_are_not_asked_for_do_not_branch():
    logprobs = call({0: 3.0, TOOL: 1.0, ARGUMENT: 2.0})
    assert tokens_of(Watch(BranchPolicy(decisions=["tool"])).points(0, 0, logprobs, room=8)) == [TOOL]


def test_tokens_without_an_entropy_or_a_likely_alternative_do_not_branch():
    logprobs = turn(
        CALL, [1.0 if i else math.nan for i in range(13)], ["~"] * 13, [0.04 if i < 9 else 0.06 for i in range(13)]
    )
    policy = BranchPolicy(min_probability=0.05, max_per_turn=9, max_per_rollout=9)
    assert tokens_of(Watch(policy).points(0, 0, logprobs, room=9)) == [9]
    likely = turn(CALL, [1.0 if i else math.nan for i in range(13)], ["~" if i != 5 else "" for i in range(13)], 0.3)
    assert tokens_of(Watch(policy).points(0, 0, likely, room=9)) == [6, 8, 9]


def test_without_alternatives_nothing_branches():
    assert Watch(BranchPolicy()).points(0, 0, turn(CALL, [3.0] * 13), room=8) == []


@pytest.mark.parametrize("alternative", ["find", "find_all", 'find_all", "arg'])
def test_an_alternative_that_says_what_the_turn_says_anyway_is_none(alternative):
    assert Watch(BranchPolicy()).points(0, 0, call({TOOL: 2.0}, {TOOL: alternative}), room=8) == []


def test_a_shorter_alternative_is_another_value():
    (point,) = Watch(BranchPolicy()).points(0, 0, call({TOOL: 2.0}, {TOOL: "fin"}), room=8)
    assert point.alternative == b"fin"


def test_two_tokens_that_lead_to_the_same_text_are_one_point():
    logprobs = call({5: 2.0, 6: 3.0}, {5: "find_one", 6: "_one"})
    assert tokens_of(Watch(BranchPolicy()).points(0, 0, logprobs, room=8)) == [6]


def test_rollouts_with_the_same_prompt_do_not_branch_into_the_same_text_twice():
    watch = Watch(BranchPolicy())
    assert watch.points(0, 0, call({TOOL: 2.0}), room=8, prompt="p")
    assert watch.points(1, 0, call({TOOL: 2.0}), room=8, prompt="p") == []
    assert watch.points(2, 0, call({TOOL: 2.0}), room=8, prompt="another")
    assert watch.points(3, 0, call({TOOL: 2.0}), room=8)


def test_what_came_from_the_parent_is_neither_seen_nor_branched_at_again():
    watch = Watch(BranchPolicy(threshold=0.5, percentile=0.0, min_seen=4))
    assert watch.points(0, 0, call({TOOL: 2.0, 9: 3.0}), room=8, reused=TOOL + 1) == []  # three were seen
    assert tokens_of(watch.points(1, 0, call({TOOL: 2.0}), room=8)) == [TOOL]


def test_a_turn_and_a_rollout_branch_no_oftener_than_the_policy_says():
    watch = Watch(BranchPolicy(max_per_turn=2, max_per_rollout=3))
    high = call(dict.fromkeys(DECIDING, 2.0))
    assert [len(watch.points(0, number, high, room=8)) for number in range(3)] == [2, 1, 0]
    assert len(watch.points(1, 0, high, room=8)) == 2
    assert watch.points(1, 0, high, room=8) == []  # the same turn once more


def test_a_running_percentile_waits_for_enough_tokens_and_then_counts_beside_the_threshold():
    policy = BranchPolicy(threshold=0.1, percentile=80.0, min_seen=10)
    watch = Watch(policy)
    assert watch.points(0, 0, call({5: 1.0, 8: 2.0}), room=8) == []  # five were seen
    # Of 0 0 0 0 0 0 1 1 2 2.5 the 80th percentile is 1.2.
    assert tokens_of(watch.points(1, 0, call({5: 2.5, 8: 1.0}), room=8)) == [5]
    strict = Watch(BranchPolicy(threshold=2.6, percentile=80.0, min_seen=1))
    assert strict.points(0, 0, call({5: 2.5}), room=8) == []


def test_habit_raises_the_bound_within_the_turn_and_fades_over_the_next_ones():
    policy = BranchPolicy(threshold=0.5, habit_penalty=1.0, habit_decay=0.5)
    watch = Watch(policy)
    assert tokens_of(watch.points(0, 0, call({0: 1.6, 5: 1.5}), room=8)) == [0]  # 1.5 is not above 0.5 + 1
    assert watch.points(0, 1, call({5: 1.0}), room=8) == []  # above 0.5 + 0.5 it would have to be
    assert tokens_of(watch.points(0, 2, call({5: 0.8}), room=8)) == [5]  # 0.5 + 0.25
    assert tokens_of(watch.points(1, 2, call({5: 0.6}), room=8)) == [5]


def test_a_branch_inherits_its_parents_habit_as_it_was_in_the_turn_it_left():
    watch = Watch(BranchPolicy(threshold=0.5, habit_penalty=1.0, max_per_rollout=1))
    assert watch.points(0, 0, call({5: 2.0}), room=8)
    watch.begin(1, parent=0, turn=0)
    assert watch.points(1, 0, call({8: 1.5}), room=8, reused=6) == []
    assert watch.points(1, 1, call({8: 1.1}), room=8)  # the parent's cap is not its own
    watch.begin(2, parent=1, turn=0)
    assert watch.points(2, 1, call({8: 1.1}), room=8)  # what its parent did in turn 1 came later


def test_a_branch_that_was_not_made_leaves_its_place_and_its_count():
    watch = Watch(BranchPolicy(threshold=0.5, habit_penalty=1.0, max_per_rollout=1))
    (point,) = watch.points(0, 0, call({5: 2.0}), room=8, prompt="asked")
    assert watch.points(1, 0, call({5: 2.0}), room=8, prompt="asked") == []
    watch.take_back(0, 0, call({5: 2.0}), point, prompt="asked")
    assert watch.points(1, 0, call({5: 2.0}), room=8, prompt="asked") == [point]
    assert watch.points(0, 1, call({5: 1.1}), room=8, prompt="later")  # neither the cap nor the habit is there


def opening(first: float, at: float, *, tokens: int = 20) -> object:
    """A turn whose first 20 tokens have this mean entropy; its call comes behind them."""
    texts = [*["word "] * tokens, "\n", *CALL]
    entropies = [first] * tokens + [0.0] * 14
    entropies[tokens + 1 + TOOL] = at
    return turn(texts, entropies, [f"~{i}" for i in range(len(texts))])


def test_a_turn_after_a_tool_branches_where_it_begins_less_certain_than_the_first_one():
    rise = 0.1 * math.log(TOP_K)
    policy = BranchPolicy(threshold=9.0, after_tool=0.1)
    watch = Watch(policy)
    assert watch.points(0, 0, opening(0.2, 1.0), room=8) == []  # there is nothing to compare it with
    assert tokens_of(watch.points(0, 1, opening(0.2 + 1.01 * rise, 1.0), room=8)) == [21 + TOOL]
    assert watch.points(0, 2, opening(0.2 + 0.99 * rise, 1.0), room=8) == []
    assert Watch(BranchPolicy(threshold=9.0)).points(0, 1, opening(3.0, 1.0), room=8) == []


def test_a_rise_counts_after_a_tool_alone_and_in_a_beginning_of_ones_own():
    policy = BranchPolicy(threshold=9.0, after_tool=0.1)
    watch = Watch(policy)
    watch.points(0, 0, turn(["Hello"], [0.0], ["Bye"]), room=8)
    assert watch.points(0, 1, opening(2.0, 1.0), room=8) == []  # nothing was called
    assert watch.points(0, 2, opening(2.0, 1.0), room=8)
    watch.begin(1, parent=0, turn=2)
    assert watch.points(1, 2, opening(2.0, 1.0), room=8, reused=22) == []  # the rise was the parent's
    assert watch.points(1, 3, opening(2.0, 1.0), room=8)


def test_a_branch_that_leaves_the_turn_of_a_call_is_not_after_it_yet():
    watch = Watch(BranchPolicy(threshold=9.0, after_tool=0.1))
    watch.points(0, 0, turn(["Hello"], [0.0], ["Bye"]), room=8)
    watch.points(0, 1, opening(2.0, 1.0), room=8)
    watch.begin(1, parent=0, turn=1)
    assert watch.points(1, 2, opening(2.0, 1.0), room=8) == []


def test_a_resumed_watch_goes_on_as_one_that_was_never_interrupted():
    policy = BranchPolicy(threshold=0.1, percentile=80.0, min_seen=10, habit_penalty=0.4, after_tool=0.05)
    turns = [call({5: 2.0, 9: 1.5}), call({5: 1.0, 8: 2.2}), call({0: 0.9, 8: 2.4}), opening(1.0, 0.5)]
    for cut in range(1, 4):
        whole, resumed = Watch(policy), Watch(policy)
        for number in range(cut):
            found = whole.points(0, number, turns[number], room=8)
            resumed.recall(0, number, turns[number], branches=len(found))
        for number in range(cut, 4):
            assert resumed.points(0, number, turns[number], room=8) == whole.points(0, number, turns[number], room=8)


def request(seed):
    """Turns of some rollouts, in the order in which they are seen."""
    random = np.random.default_rng(seed)
    for _ in range(random.integers(1, 7)):
        texts = [*random.choice([*CALL, "Hello", " "], random.integers(0, 8)), *CALL]
        entropy = random.uniform(0, 3, len(texts)).round(1)
        entropy[random.random(len(texts)) < 0.1] = math.nan
        others = random.choice(["", "find", "look", "_all", "4"], len(texts)).tolist()
        logprobs = turn(texts, entropy.tolist(), others, random.uniform(0.01, 0.5, len(texts)).tolist())
        yield int(random.integers(3)), int(random.integers(3)), logprobs


policies = st.builds(
    BranchPolicy,
    threshold=st.floats(0, 2),
    percentile=st.none() | st.floats(0, 100),
    min_seen=st.integers(1, 20),
    habit_penalty=st.floats(0, 1),
    max_per_turn=st.integers(1, 4),
    max_per_rollout=st.integers(1, 5),
    after_tool=st.none() | st.floats(-1, 1),
)


@settings(deadline=None)
@given(policies, st.integers(0, 2**32), st.integers(0, 8))
def test_points_keep_to_the_policy_whatever_the_turns(policy, seed, room):
    watch, again = Watch(policy), Watch(policy)
    made: dict[tuple[int, int], int] = {}
    texts = set()
    for rollout, number, logprobs in request(seed):
        points = watch.points(rollout, number, logprobs, room=room, prompt=number)
        assert again.points(rollout, number, logprobs, room=room, prompt=number) == points
        room -= len(points)
        made[rollout, number] = made.get((rollout, number), 0) + len(points)
        decisions = {each.token: each.decision for each in decision_tokens(logprobs)}
        for point in points:
            assert decisions[point.token] == point.decision
            assert point.entropy == logprobs.entropy[point.token]
            assert math.exp(point.logprob) >= policy.min_probability * (1 - 1e-6)
            assert point.alternative != logprobs.token(point.token)
            assert point.entropy > policy.bound(point.decision) or policy.after_tool is not None
            text = number, logprobs.text[: logprobs.offsets[point.token]] + point.alternative
            assert text not in texts
            texts.add(text)
        if policy.after_tool is None:
            above = [point.entropy - policy.bound(point.decision) for point in points]
            assert above == sorted(above, reverse=True)
    assert room >= 0
    assert max(made.values()) <= policy.max_per_turn
    for rollout in range(3):
        assert sum(count for (owner, _), count in made.items() if owner == rollout) <= policy.max_per_rollout


@settings(deadline=None)
@given(st.floats(0.1, 5), st.integers(0, 6), st.integers(0, 3), st.integers(0, 3))
def test_habit_never_grows_while_nothing_branches(penalty, number, before, now):
    policy = BranchPolicy(habit_penalty=penalty)
    branches = {0: before, number: now}
    assert 0 <= policy.habit(number + 1, branches) <= policy.habit(number, branches)
    assert policy.habit(number, branches) <= penalty * sum(branches.values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": -0.1},
        {"threshold": math.nan},
        {"threshold": math.inf},
        {"threshold": "0.5"},
        {"threshold": {"call": 1.0, "tool": 1.0}},
        {"threshold": {"call": 1.0, "tool": 1.0, "argument": 1.0, "answer": 1.0}},
        {"threshold": {"call": 1.0, "tool": 1.0, "argument": None}},
        {"percentile": 100.5},
        {"percentile": True},
        {"min_seen": 0},
        {"decisions": []},
        {"decisions": ["answer"]},
        {"decisions": "tool"},
        {"min_probability": 0.0},
        {"min_probability": 1.1},
        {"habit_penalty": -1.0},
        {"habit_decay": 1.5},
        {"max_per_turn": 0},
        {"max_per_rollout": 2.5},
        {"after_tool": 1.5},
    ],
)
def test_a_policy_that_cannot_work_is_refused_by_the_name_of_its_setting(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        BranchPolicy(**wrong)


def test_numbers_of_numpy_are_numbers():
    assert BranchPolicy(threshold=np.float64(0.3), max_per_turn=np.int64(2)).bound("tool") == 0.3
