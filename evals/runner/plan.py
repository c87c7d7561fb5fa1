"""Which groups of rollouts a run has yet to make."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from entcent_agents.branching import BranchPolicy, allocate
from evals.runner.group import GroupSize
from evals.runner.settings import RunSettings
from evals.store import TaskKey
from evals.suites.protocol import Task

LOWERED: Final = 0.5
"""In the second pass of tasks known to be unsolved, thresholds are this much of those of the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    """A group of rollouts.

    Attributes:
        task: Whose.
        size: How many.
        missing: The numbers of those that are not stored; None: all.
        policy: When they branch; None: they do not.
    """

    task: Task
    size: GroupSize
    missing: frozenset[int] | None = None
    policy: BranchPolicy | None = None


def first_pass(
    tasks: Sequence[Task], settings: RunSettings, stored: Mapping[TaskKey, Collection[int]]
) -> list[GroupPlan]:
    """Every task of which rollouts are missing.

    Args:
        tasks: Of the run.
        settings: Of the run.
        stored: The numbers of the rollouts that are there.
    """
    if settings.branches:
        size = GroupSize(initial=min(settings.initial, settings.n), most=settings.n)
        # Rollouts that branch are stored together: a task has all of them, or none.
        return [GroupPlan(task=task, size=size, policy=settings.policy) for task in tasks if not stored.get(_key(task))]
    rollouts = settings.rollouts
    size = GroupSize(initial=rollouts, most=rollouts, candidates=settings.candidates)
    wanted = frozenset(range(rollouts))
    missing = [(task, wanted.difference(stored.get(_key(task), ()))) for task in tasks]
    return [GroupPlan(task=task, size=size, missing=those) for task, those in missing if those]


def second_pass(
    tasks: Sequence[Task],
    settings: RunSettings,
    stored: Mapping[TaskKey, Collection[int]],
    solved: Collection[TaskKey],
) -> list[GroupPlan]:
    """The tasks that get what others did not use of their `n` rollouts, where their second pass is not stored yet.

    By what the first pass used alone, so that a run that was stopped in the second one goes on with the same shares.
    Without labels tasks that used all of theirs share; with labels those that no rollout of theirs solved.

    Args:
        tasks: Of the run; the first pass of all of them is stored.
        settings: Of the run.
        stored: The numbers of the rollouts that are there; those of the second pass start at `n`.
        solved: Tasks that the first pass solved; looked at in mode adaptive-labels alone.
    """
    used = {_key(task): sum(number < settings.n for number in stored[_key(task)]) for task in tasks}
    unsolved = [key for key in used if key not in solved] if settings.uses_labels else None
    more = allocate(used, settings.n, unsolved=unsolved)
    policy = _lowered(settings.policy) if settings.uses_labels else settings.policy
    return [
        GroupPlan(
            task=task,
            size=GroupSize(initial=min(settings.initial, extra), most=extra, first=settings.n, again=1),
            policy=policy,
        )
        for task in tasks
        if (extra := more.get(_key(task), 0)) and len(stored[_key(task)]) == used[_key(task)]
    ]


def _lowered(policy: BranchPolicy) -> BranchPolicy:
    threshold = policy.threshold
    if isinstance(threshold, Mapping):
        return replace(policy, threshold={name: value * LOWERED for name, value in threshold.items()})
    return replace(policy, threshold=threshold * LOWERED)


def _key(task: Task) -> TaskKey:
    return (task.suite, task.id)
