"""Everything that is said of stored runs: pass rates, selectors, signals, sizes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from entcent_agents.selection import Selector
from entcent_agents.signals import SIGNALS, SignalName, SignalSettings
from entcent_agents.statistics import Estimate, mean_over_tasks, means_over_tasks
from evals.scoring.candidates import TaskRollouts, category_of
from evals.scoring.choosing import Resampling, TaskChoices, choices
from evals.scoring.passing import PassRates, pass_rates


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorLine:
    """One selector over all tasks.

    Attributes:
        selector: Its name.
        decided: In how many tasks it did not abstain.
        accuracy: Over all tasks; an abstention counts as a random candidate.
        mixed: Over mixed tasks; None without any.
        gain: The same minus that of a random candidate, paired by task.
        null: Over mixed tasks, with shuffled trajectories; None without shuffles.
        sizes: By number of rollouts: accuracy over all tasks that have so many.
    """

    selector: str
    decided: int
    accuracy: Estimate
    mixed: Estimate | None
    gain: Estimate | None
    null: float | None
    sizes: Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalLine:
    """One signal: does it know right from wrong within a task?

    Attributes:
        signal: Its name.
        tasks: With pairs of a right and a wrong candidate that have a value.
        auroc: Mean over those tasks; 0.5 is chance, above it the good end is right. None without tasks.
    """

    signal: SignalName
    tasks: int
    auroc: Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All of it; `settings` is what it was worked out with.

    Attributes:
        settings: Plain values, to be printed.
        rates: All tasks together, then each category where there are several.
        random: Expected accuracy of a random candidate.
        random_mixed: The same over mixed tasks; None without any.
        oracle: How often any candidate is right.
        selectors: One line each.
        signals: One line each.
        confirmed: By selector that was chosen on other tasks, its accuracy over mixed tasks minus that of every
            other, paired by task.
    """

    settings: Mapping[str, Any]
    rates: Sequence[PassRates]
    random: Estimate
    random_mixed: Estimate | None
    oracle: Estimate
    selectors: Sequence[SelectorLine]
    signals: Sequence[SignalLine]
    confirmed: Mapping[str, Mapping[str, Estimate]]


def report_on(
    tasks: Sequence[TaskRollouts],
    selectors: Mapping[str, Selector],
    signals: SignalSettings,
    resampling: Resampling,
    *,
    settings: Mapping[str, Any],
    chosen: Collection[str] = (),
    track: Iterable[TaskRollouts] | None = None,
) -> Report:
    """Score some tasks, one at least.

    Args:
        tasks: Those.
        selectors: By name.
        signals: What the signals are measured with.
        resampling: Of sizes and the null control.
        settings: To be printed with the result.
        chosen: Names of selectors that were chosen on other tasks: they are compared with all.
        track: The same tasks, where somebody watches them go by.

    Raises:
        MissingExtraError: Without SciPy.
    """
    seed = resampling.seed
    random = mean_over_tasks([task.random for task in tasks], seed=seed)  # first: without SciPy nothing else is begun
    asked = [choices(task, selectors, resampling) for task in (track or tasks)]
    mixed = [place for place, task in enumerate(tasks) if task.mixed]
    oracle = [float(any(task.passed[place] for place in task.candidates)) for task in tasks]
    return Report(
        settings=settings,
        rates=_rates(tasks, asked, seed),
        random=random,
        random_mixed=_estimate([tasks[place].random for place in mixed], seed),
        oracle=mean_over_tasks(oracle, seed=seed),
        selectors=[_selector(name, tasks, asked, mixed, seed) for name in selectors if name != "random"],
        signals=[_signal(name, [tasks[place] for place in mixed], signals, seed) for name in SIGNALS],
        confirmed={name: _differences(name, [asked[place] for place in mixed], seed) for name in chosen if mixed},
    )


def _rates(tasks: Sequence[TaskRollouts], chosen: Sequence[TaskChoices], seed: int) -> list[PassRates]:
    categories: dict[str, list[int]] = {}
    for place, task in enumerate(tasks):
        categories.setdefault(category_of(task), []).append(place)
    parts = {"all": list(range(len(tasks))), **categories} if len(categories) > 1 else categories
    return [
        pass_rates(name, [tasks[place] for place in places], [chosen[place] for place in places], seed=seed)
        for name, places in parts.items()
    ]


def _selector(
    name: str, tasks: Sequence[TaskRollouts], chosen: Sequence[TaskChoices], mixed: Sequence[int], seed: int
) -> SelectorLine:
    accuracy = [one.full[name].accuracy for one in chosen]
    null = [chosen[place].null[name] for place in mixed if name in chosen[place].null]
    sizes = [size for size in chosen[0].sizes if all(size in one.sizes for one in chosen)]
    return SelectorLine(
        selector=name,
        decided=sum(one.full[name].decided for one in chosen),
        accuracy=mean_over_tasks(accuracy, seed=seed),
        mixed=_estimate([accuracy[place] for place in mixed], seed),
        gain=_estimate([accuracy[place] - tasks[place].random for place in mixed], seed),
        null=float(np.mean(null)) if null else None,
        sizes={size: float(np.mean([one.sizes[size][name] for one in chosen])) for size in sizes},
    )


def _differences(name: str, mixed: Sequence[TaskChoices], seed: int) -> dict[str, Estimate]:
    others = [other for other in mixed[0].full if other != name]
    rows = [[one.full[name].accuracy - one.full[other].accuracy for one in mixed] for other in others]
    return dict(zip(others, means_over_tasks(rows, seed=seed), strict=True))


def _signal(name: SignalName, mixed: Sequence[TaskRollouts], settings: SignalSettings, seed: int) -> SignalLine:
    found = [value for task in mixed if (value := task.auroc(name, settings)) is not None]
    return SignalLine(signal=name, tasks=len(found), auroc=_estimate(found, seed))


def _estimate(values: Sequence[float], seed: int) -> Estimate | None:
    return mean_over_tasks(values, seed=seed) if values else None
