"""Mixed tasks taken together: what every selector and signal is worth in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from entcent_agents.signals import SIGNALS, SignalName
from entcent_agents.statistics import Estimate, means_over_tasks
from evals.scoring.views import VIEWS, Measures, View, ViewMeasures
from evals.store.record import TaskKey

LEAST_TASKS: Final = 5
"""Mixed tasks below which nothing is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedTask:
    """A mixed task of one run.

    Attributes:
        key: The task.
        groups: Names of what it is counted in.
        tokens: Scored, of the median candidate.
        phases: High-entropy phases of the median candidate.
        rationale: Tokens of prose of the median candidate; None where it calls no tool.
        measures: What selectors and signals are worth in it.
    """

    key: TaskKey
    groups: tuple[str, ...]
    tokens: float
    phases: float
    rationale: float | None
    measures: Measures


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorFigure:
    """What a selector is worth in a cell.

    Attributes:
        view: The tokens that it saw.
        selector: Its name.
        tasks: Over how many tasks: those that have such tokens.
        decided: In how many of them it chose.
        gain: Accuracy minus that of a random candidate, paired by task; an abstention counts as a random candidate.
        null: The same with shuffled trajectories, the mean; None without shuffles.
    """

    view: View
    selector: str
    tasks: int
    decided: int
    gain: Estimate
    null: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalFigure:
    """What a signal knows in a cell.

    Attributes:
        view: The tokens that it was taken from.
        signal: Its name.
        tasks: Over how many tasks: those in which a right and a wrong candidate have it.
        auroc: How often a right candidate is better by it than a wrong one of the same task; 0.5 is chance.
    """

    view: View
    signal: SignalName
    tasks: int
    auroc: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Some tasks together.

    Attributes:
        name: Which.
        tasks: How many are mixed; one that is in several runs counts once, with its mean.
        selectors: Of each view; without those that decided in fewer than `LEAST_TASKS` tasks.
        signals: Of each view; without those that fewer tasks have.
    """

    name: str
    tasks: int
    selectors: Sequence[SelectorFigure]
    signals: Sequence[SignalFigure]


def cell_of(name: str, mixed: Sequence[MixedTask], selectors: Iterable[str], seed: int) -> Cell:
    """These tasks together.

    Args:
        name: Of these tasks.
        mixed: Those.
        selectors: Their names.
        seed: Of the bootstrap.
    """
    tasks = len({task.key for task in mixed})
    if tasks < LEAST_TASKS:
        return Cell(name=name, tasks=tasks, selectors=(), signals=())
    asked: list[tuple[View, str]] = [(view, one) for view in VIEWS for one in selectors]
    chosen = [one for one in asked if _decided(mixed, *one) >= LEAST_TASKS]
    measured: list[tuple[View, SignalName]] = [(view, one) for view in VIEWS for one in SIGNALS]
    gains = [_by_task(mixed, view, lambda found, one=one: found.gains[one]) for view, one in chosen]
    nulls = [_by_task(mixed, view, lambda found, one=one: found.nulls.get(one)) for view, one in chosen]
    aurocs = [_by_task(mixed, view, lambda found, one=one: found.aurocs.get(one)) for view, one in measured]
    return Cell(
        name=name,
        tasks=tasks,
        selectors=[
            SelectorFigure(
                view=view,
                selector=one,
                tasks=len(column),
                decided=_decided(mixed, view, one),
                gain=gain,
                null=_mean(null.values()),
            )
            for (view, one), column, null, gain in zip(chosen, gains, nulls, _estimates(gains, seed), strict=True)
        ],
        signals=[
            SignalFigure(view=view, signal=one, tasks=len(column), auroc=auroc)
            for (view, one), column, auroc in zip(measured, aurocs, _estimates(aurocs, seed), strict=True)
            if len(column) >= LEAST_TASKS
        ],
    )


def _by_task(
    mixed: Sequence[MixedTask], view: View, value: Callable[[ViewMeasures], float | None]
) -> dict[TaskKey, float]:
    """The value of each task that has one; the mean over its runs."""
    found: defaultdict[TaskKey, list[float]] = defaultdict(list)
    for task in mixed:
        if view in task.measures and (one := value(task.measures[view])) is not None:
            found[task.key].append(one)
    return {key: float(np.mean(values)) if len(values) > 1 else values[0] for key, values in found.items()}


def _decided(mixed: Sequence[MixedTask], view: View, selector: str) -> int:
    return len({task.key for task in mixed if view in task.measures and selector in task.measures[view].decided})


def _estimates(columns: Sequence[Mapping[TaskKey, float]], seed: int) -> list[Estimate]:
    """Of each column its mean over its tasks; those that have the same tasks share their draws."""
    alike: defaultdict[tuple[TaskKey, ...], list[int]] = defaultdict(list)
    for place, column in enumerate(columns):
        alike[tuple(column)].append(place)
    found: dict[int, Estimate] = {}
    for keys, places in alike.items():
        if keys:
            rows = [[*columns[place].values()] for place in places]
            found.update(zip(places, means_over_tasks(rows, seed=seed), strict=True))
    return [found.get(place, Estimate(np.nan, np.nan, np.nan)) for place in range(len(columns))]


def _mean(values: Iterable[float]) -> float | None:
    found = [*values]
    return float(np.mean(found)) if found else None
