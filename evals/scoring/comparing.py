"""Two runs on the same tasks, paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from entcent_agents.selection import Selector
from entcent_agents.statistics import Estimate, mean_over_tasks
from evals.errors import EvaluationError
from evals.scoring.candidates import TaskRollouts
from evals.scoring.choosing import choose, most_common


class Compared(NamedTuple):
    """One figure of both runs."""

    name: str
    first: Estimate
    second: Estimate
    difference: Estimate


def shared(
    first: Sequence[TaskRollouts], second: Sequence[TaskRollouts]
) -> tuple[list[TaskRollouts], list[TaskRollouts]]:
    """The tasks that are in both, in one order.

    Raises:
        EvaluationError: Where there are none.
    """
    of_second = {(task.suite, task.task): task for task in second}
    pairs = [(task, of_second[task.suite, task.task]) for task in first if (task.suite, task.task) in of_second]
    if not pairs:
        raise EvaluationError("the two runs have no judged task in common: there is nothing to compare")
    return [one for one, _ in pairs], [other for _, other in pairs]


def compare(
    first: Sequence[TaskRollouts], second: Sequence[TaskRollouts], selectors: Mapping[str, Selector], *, seed: int
) -> list[Compared]:
    """Every figure of both, tasks in the same order; the differences are paired by task."""
    figures = {name: _figures(name, first, selectors) for name in ("pass@1", "cons@n", *selectors) if name != "random"}
    others = {name: _figures(name, second, selectors) for name in figures}
    return [
        Compared(
            name,
            mean_over_tasks(figures[name], seed=seed),
            mean_over_tasks(others[name], seed=seed),
            mean_over_tasks([b - a for a, b in zip(figures[name], others[name], strict=True)], seed=seed),
        )
        for name in figures
    ]


def _figures(name: str, tasks: Sequence[TaskRollouts], selectors: Mapping[str, Selector]) -> list[float]:
    match name:
        case "pass@1":
            return [float(np.mean(task.passed)) for task in tasks]
        case "cons@n":
            return [most_common(task, range(len(task.rollouts))) for task in tasks]
        case _:
            return [choose(selectors[name], task, range(len(task.rollouts))).accuracy for task in tasks]
