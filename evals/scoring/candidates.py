"""The rollouts of a task as selectors see them, and who of them was right."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from entcent_agents.segments import SegmentKind
from entcent_agents.selection import BySignal
from entcent_agents.signals import SIGNALS, SignalName, SignalSettings
from entcent_agents.statistics import auroc
from entcent_agents.trajectory import Rollout, Trajectory
from evals.store import StoredRollout, StoredRun, TaskKey

Part = Literal["whole", "last-turn"]
"""Of a trajectory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRollouts:
    """The rollouts of one task.

    Attributes:
        suite: The task's.
        category: The task's.
        task: Its identifier.
        stored: All rollouts, those that failed or did not finish too.
        rollouts: The same as selectors see them: with the part of the trajectories that is looked at.
        passed: Whether each solved the task.
    """

    suite: str
    category: str
    task: str
    stored: tuple[StoredRollout, ...]
    rollouts: tuple[Rollout, ...]
    passed: tuple[bool, ...]

    @property
    def candidates(self) -> list[int]:
        """Places of the rollouts that finished: no selector may choose another."""
        return [place for place, rollout in enumerate(self.rollouts) if rollout.status == "finished"]

    @property
    def mixed(self) -> bool:
        """Whether some candidates are right and some wrong; other tasks cannot tell selectors apart."""
        return len({self.passed[place] for place in self.candidates}) == 2

    @property
    def random(self) -> float:
        """Expected accuracy of a random candidate; 0 without candidates."""
        found = [self.passed[place] for place in self.candidates]
        return float(np.mean(found)) if found else 0.0

    @property
    def scored_tokens(self) -> float:
        """Of a candidate, the median; 0 without candidates."""
        found = [self.rollouts[place].trajectory.scored_tokens for place in self.candidates]
        return float(np.median(found)) if found else 0.0

    def auroc(self, name: SignalName, settings: SignalSettings) -> float | None:
        """How often a right candidate is better by this signal than a wrong one; None without such pairs."""
        sign = 1.0 if SIGNALS[name].best == "highest" else -1.0
        values: dict[bool, list[float]] = {True: [], False: []}
        signal = BySignal(name, settings=settings)
        for place in self.candidates:
            value = signal.value_of(self.rollouts[place])
            if not isinstance(value, str):  # says why it is not measured: too few tokens are listed, say
                values[self.passed[place]].append(sign * value)
        return auroc(values[True], values[False])


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The tasks of stored runs whose rollouts are all judged.

    Attributes:
        tasks: Those.
        unjudged: How many tasks are left out, because the checker broke on one of their rollouts.
        incomplete: How many are left out, because their run has more rollouts of other tasks: those that are there
            ended first, and are no fair sample.
        repeated: How many tasks are in several runs; the first run that has all rollouts counts.
    """

    tasks: tuple[TaskRollouts, ...]
    unjudged: int
    incomplete: int = 0
    repeated: int = 0


def tasks_of(
    runs: Iterable[StoredRun],
    *,
    part: Part = "whole",
    kinds: Collection[SegmentKind] = (),
    suites: Collection[str] = (),
) -> Known:
    """The tasks of some runs.

    Args:
        runs: What was stored; where two have the same task, the first counts.
        part: Of the trajectories, what selectors see.
        kinds: Where some are given, tokens of these kinds alone.
        suites: Where some are given, tasks of these suites, or suite/category, alone.
    """
    found: dict[TaskKey, Sequence[StoredRollout]] = {}
    partial, repeated = set[TaskKey](), set[TaskKey]()
    for run in runs:
        # Where rollouts branch, tasks differ in how many they have, and all of a task are stored together.
        most = 0 if run.branches else max(map(len, run.tasks.values()))
        for key, stored in run.tasks.items():
            if suites and not {stored[0].suite, category_of(stored[0])} & {*suites}:
                continue
            if len(stored) < most:
                partial.add(key)
            elif key in found:
                repeated.add(key)
            else:
                found[key] = stored
    wanted = list(found.values())
    judged = [stored for stored in wanted if all(one.reward is not None for one in stored)]
    tasks = tuple(
        TaskRollouts(
            suite=stored[0].suite,
            category=stored[0].category,
            task=stored[0].task,
            stored=tuple(stored),
            rollouts=tuple(_seen(one.rollout, part, kinds) for one in stored),
            passed=tuple((one.reward or 0.0) >= 1.0 for one in stored),
        )
        for stored in judged
    )
    return Known(
        tasks=tasks,
        unjudged=len(wanted) - len(judged),
        incomplete=len(partial - found.keys()),
        repeated=len(repeated),
    )


def category_of(one: StoredRollout | TaskRollouts) -> str:
    """Suite and category, as one name."""
    return f"{one.suite}/{one.category}"


def _seen(rollout: Rollout, part: Part, kinds: Collection[SegmentKind]) -> Rollout:
    trajectory = rollout.trajectory
    if part == "last-turn" and len(trajectory.turns) > 1:
        trajectory = Trajectory(turns=trajectory.turns[-1:])
    return replace(rollout, trajectory=trajectory.only(kinds) if kinds else trajectory)
