"""Runs are compared task by task, in all that their rollouts took, and branches are set beside their parents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from entcent_agents.segments import SegmentKind
from entcent_agents.selection import named_selectors
from entcent_agents.trajectory import Branch, Usage
from evals.cli.scoring import made_by
from evals.errors import EvaluationError
from evals.scoring.branches import branch_lines, without_second_pass
from evals.scoring.candidates import TaskRollouts, tasks_of
from evals.scoring.comparing import COSTS, accuracies, at_equal_tokens, compare, shared
from evals.store import StoredRollout, StoredRun
from tests.evals.test_scores import stored, task_of, telling


def test_runs_are_compared_with_the_first_on_the_tasks_they_share():
    first = [telling("x", [True, False]), telling("y", [True, False]), telling("z", [True, True])]
    second = [telling("y", [False, False]), telling("x", [True, True])]
    third = [telling("x", [False, False]), telling("y", [True, False])]
    runs = shared([first, second, third])
    assert [[task.task for task in run] for run in runs] == [["x", "y"]] * 3
    figures = {one.name: one for one in compare(runs, accuracies(named_selectors()), seed=0)}
    assert [mean.mean for mean in figures["pass@1"].means] == [0.5, 0.5, 0.25]
    assert [mean.mean for mean in figures["pass@1"].differences] == [0.0, -0.25]
    assert [mean.mean for mean in figures["pass@k"].means] == [1.0, 0.5, 0.5]
    assert figures["lowest mean entropy"].means[0].mean == 1.0
    assert figures["lowest mean entropy"].differences[0].mean == -0.5
    with pytest.raises(EvaluationError, match="no judged task in common"):
        shared([first, [telling("elsewhere", [True])]])


def taking(tokens: int, task: TaskRollouts) -> TaskRollouts:
    """The same, each rollout of so many tokens."""
    usage = Usage(prompt_tokens=10, generated_tokens=tokens)
    taken = [replace(one, rollout=replace(one.rollout, usage=usage)) for one in task.stored]
    return replace(task, stored=tuple(taken))


def test_a_run_is_set_beside_as_many_rollouts_of_the_first_as_generate_its_tokens():
    first = [taking(10, telling("x", [True, False, False, False])), taking(10, telling("y", [False] * 4))]
    other = [taking(15, telling("x", [True])), taking(5, telling("y", [True]))]
    found = at_equal_tokens(first, other, seed=0)
    assert found
    assert (found.generated_tokens, found.samples) == (10.0, 1.0)
    assert (found.fewer.mean, found.found.mean, found.difference.mean) == (0.125, 1.0, 0.875)
    between = at_equal_tokens(first, [taking(25, telling("x", [True])), taking(5, telling("y", [True]))], seed=0)
    assert between and (between.samples, between.fewer.mean) == (1.5, (0.25 + 0.5) / 2 / 2)
    more = at_equal_tokens(first, [taking(90, telling("x", [True])), taking(90, telling("y", [True]))], seed=0)
    assert more and (more.samples, more.fewer.mean) == (4.0, 0.5)
    assert at_equal_tokens([branching()], [branching()], seed=0) is None


def branching() -> TaskRollouts:
    """Two rollouts, and three branches of the first: of its only turn, and of that of a branch."""
    calls = [["go", {"to": "a"}], ["go", {"to": "b"}], ["go", {"to": "a"}], ["stay", {}], ["go", {"to": "a"}]]
    rewards, parents = (False, True, False, True, False), (None, None, 0, 0, 3)
    rollouts: list[StoredRollout] = []
    for index, (call, right, parent) in enumerate(zip(calls, rewards, parents, strict=True)):
        one = stored("t", index, right, outcome=str(call))
        branch = None
        if parent is not None:
            decision: Any = "argument" if index == 2 else "tool"
            branch = Branch(
                parent=parent,
                turn=0,
                token=4,
                entropy=index / 4,
                kind=SegmentKind.TOOL_NAME,
                decision=decision,
                method="continued",
            )
        usage = Usage(prompt_tokens=10, generated_tokens=2 + index, reused_tokens=5 if branch else 0)
        rollout = replace(one.rollout, branch=branch, usage=usage, seconds=2.0)
        replies = [{"text": "", "calls": [call]}]
        rollouts.append(replace(one, rollout=rollout, replies=replies, ended_at=100.0 + 10 * (index == 4)))
    return task_of(*rollouts)


def test_costs_are_those_of_all_rollouts_and_time_in_which_none_ran_is_none():
    figures = {name: figure(branching()) for name, figure in COSTS.items()}
    assert figures == {
        "rollouts": 5,
        "generated tokens": 2 + 3 + 4 + 5 + 6,
        "reused tokens": 15,
        "prompt tokens": 50,
        "seconds": 4.0,
        "distinct call sequences": 3,
        "distinct outcomes": 3,
    }


def test_branches_are_counted_by_decision_and_set_beside_their_parents():
    argument, tool, everything = branch_lines([branching()])
    assert (argument.decision, argument.branches, argument.other_calls, argument.entropy) == ("argument", 1, 0, 0.5)
    assert (tool.decision, tool.branches, tool.other_calls, tool.other_tools) == ("tool", 2, 2, 2)
    assert (tool.other_outcomes, tool.better, tool.worse) == (2, 1, 1)
    assert (everything.decision, everything.branches, everything.other_calls) == ("all", 3, 2)
    assert branch_lines([telling("x", [True])]) == []


def test_tasks_of_a_run_that_branches_are_whole_however_many_rollouts_they_have():
    few, many = stored("few", 0, True), [stored("many", i, True) for i in range(3)]
    tasks = {("s", "few"): (few,), ("s", "many"): tuple(many)}
    for settings, known in (({"mode": "branching", "initial": 1}, 2), ({"mode": "parallel"}, 1)):
        found = tasks_of([StoredRun(path=Path(), settings=settings, tasks=tasks)])
        assert (len(found.tasks), found.incomplete) == (known, 2 - known)


def of_mode(mode: str, *tasks: TaskRollouts) -> StoredRun:
    settings = {"mode": mode, "n": 2, "initial": 1}
    return StoredRun(path=Path("x.parquet"), settings=settings, tasks={("s", one.task): one.stored for one in tasks})


def test_an_adaptive_run_says_which_tasks_wait_for_what_others_did_not_use():
    few, used_up = telling("few", [True]), telling("used up", [True, False])
    assert without_second_pass(of_mode("adaptive", few, used_up)) == 1
    assert without_second_pass(of_mode("adaptive", few, telling("used up", [True, False, False]))) == 0
    assert without_second_pass(of_mode("adaptive-labels", few, used_up)) == 0, "both are solved"
    assert without_second_pass(of_mode("adaptive-labels", few, telling("used up", [False, False]))) == 1
    assert without_second_pass(of_mode("branching", few, used_up)) == 0


def test_what_was_made_with_labels_or_branches_is_named():
    task = telling("x", [True, True])
    assert made_by([of_mode("adaptive-labels", task)]).keys() == {"not independent", "labels"}
    assert made_by([of_mode("adaptive", task)]).keys() == {"not independent"}
    plain = StoredRun(path=Path(), settings={"mode": "parallel"}, tasks={("s", "x"): task.stored})
    assert made_by([plain]) == {}
