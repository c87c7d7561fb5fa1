"""Where is each signal valid? What selectors and signals are worth by length, phases, rationale and suite.

Only mixed tasks count: the others cannot tell selectors apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from entcent_agents.segments import SegmentKind
from entcent_agents.selection import Selector
from entcent_agents.signals import SignalSettings
from entcent_agents.statistics import mean_over_tasks
from entcent_agents.trajectory import Trajectory
from evals.scoring.candidates import TaskRollouts, category_of
from evals.scoring.cells import Cell, MixedTask, cell_of
from evals.scoring.choosing import Resampling
from evals.scoring.views import Measures, ViewedTask, measures_of

TOKENS: Final = (0, 50, 100, 200, 400, 800, 1600, 3200)
PHASES: Final = (0, 2, 4, 8, 16, 32, 64)
RATIONALE: Final = (0, 10, 50, 200)
_PROSE: Final = (SegmentKind.ANSWER, SegmentKind.REASONING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The tasks of one category of one run, mixed or not.

    Attributes:
        name: The category; with the run, where several have it.
        tasks: How many.
        mixed: How many of them are mixed.
        random: Accuracy of a random candidate, over mixed tasks; None without any.
        tokens: Scored, of the median candidate; the median over tasks, as the next two.
        phases: High-entropy phases of the median candidate.
        rationale: Tokens of prose of the median candidate.
    """

    name: str
    tasks: int
    mixed: int
    random: float | None
    tokens: float
    phases: float
    rationale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One way to part the tasks: by what, and the parts that have mixed tasks."""

    name: str
    cells: Sequence[Cell]


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """All of it; `settings` is what it was worked out with."""

    settings: Mapping[str, Any]
    groups: Sequence[Group]
    axes: Sequence[Axis]


def validity_of(
    tasks: Sequence[ViewedTask],
    selectors: Mapping[str, Selector],
    signals: SignalSettings,
    resampling: Resampling,
    *,
    settings: Mapping[str, Any],
    track: Iterable[ViewedTask] | None = None,
) -> Validity:
    """What every selector and signal is worth, wherever there are enough mixed tasks.

    Args:
        tasks: Of any number of runs, one at least.
        selectors: By name.
        signals: What the signals are measured with.
        resampling: Shuffles of the null control, and the seed.
        settings: To be printed with the result.
        track: The same tasks, where somebody watches them go by.

    Raises:
        MissingExtraError: Without SciPy.
    """
    mean_over_tasks([0.0])  # without SciPy nothing is begun
    names = _group_names(tasks)
    mixed = [
        _mixed(task, names, signals, measures_of(task, selectors, signals, resampling))
        for task in (track or tasks)
        if task.whole.mixed
    ]

    def axis(name: str, parts: Iterable[tuple[str, Sequence[MixedTask]]]) -> Axis:
        return Axis(
            name=name, cells=[cell_of(part, found, selectors, resampling.seed) for part, found in parts if found]
        )

    return Validity(
        settings=settings,
        groups=_groups(tasks, names, signals),
        axes=[
            axis("scored tokens", _binned(mixed, lambda task: task.tokens, TOKENS)),
            axis("high-entropy phases", _binned(mixed, lambda task: task.phases, PHASES)),
            axis("tokens of rationale where tools are called", _binned(mixed, lambda task: task.rationale, RATIONALE)),
            axis("suite", _by_group(mixed)),
        ],
    )


def _mixed(
    task: ViewedTask, names: Mapping[tuple[str, str], str], signals: SignalSettings, measures: Measures
) -> MixedTask:
    whole = task.whole
    calls = _median(whole, lambda trajectory: _tokens_of(trajectory, (SegmentKind.TOOL_ARGUMENT,)))
    return MixedTask(
        key=(whole.suite, whole.task),
        groups=tuple(dict.fromkeys(("all", whole.suite, names[category_of(whole), task.run]))),
        tokens=whole.scored_tokens,
        phases=_phases(whole, signals),
        rationale=_rationale(whole) if calls else None,
        measures=measures,
    )


def _group_names(tasks: Sequence[ViewedTask]) -> dict[tuple[str, str], str]:
    """By category and run; the run is named where several have the category."""
    found = dict.fromkeys((category_of(task.whole), task.run) for task in tasks)
    categories = [category for category, _ in found]
    return {
        (category, run): f"{category}, {run}" if categories.count(category) > 1 else category for category, run in found
    }


def _groups(tasks: Sequence[ViewedTask], names: Mapping[tuple[str, str], str], signals: SignalSettings) -> list[Group]:
    found: dict[str, list[TaskRollouts]] = {name: [] for name in names.values()}
    for task in tasks:
        found[names[category_of(task.whole), task.run]].append(task.whole)
    return [
        Group(
            name=name,
            tasks=len(group),
            mixed=sum(task.mixed for task in group),
            random=_mean([task.random for task in group if task.mixed]),
            tokens=float(np.median([task.scored_tokens for task in group])),
            phases=float(np.median([_phases(task, signals) for task in group])),
            rationale=float(np.median([_rationale(task) for task in group])),
        )
        for name, group in found.items()
    ]


def _binned(
    mixed: Sequence[MixedTask], value: Callable[[MixedTask], float | None], edges: Sequence[int]
) -> Iterable[tuple[str, list[MixedTask]]]:
    values = [(task, found) for task in mixed if (found := value(task)) is not None]
    for least, below in zip(edges, (*edges[1:], None), strict=True):
        name = f"from {least}" if below is None else f"{least} to {below - 1}"
        yield name, [task for task, found in values if least <= found and (below is None or found < below)]


def _by_group(mixed: Sequence[MixedTask]) -> Iterable[tuple[str, list[MixedTask]]]:
    """All tasks, each suite, each category; what has the tasks of the one before it is said once."""
    names = dict.fromkeys(name for place in range(3) for task in mixed for name in task.groups[place : place + 1])
    before: list[MixedTask] = []
    for name in names:
        found = [task for task in mixed if name in task.groups]
        if found != before:
            yield name, found
        before = found


def _median(task: TaskRollouts, number: Callable[[Trajectory], float]) -> float:
    """Of the candidates; 0 without any."""
    found = [number(task.rollouts[place].trajectory) for place in task.candidates]
    return float(np.median(found)) if found else 0.0


def _phases(task: TaskRollouts, signals: SignalSettings) -> float:
    return _median(task, lambda trajectory: trajectory.phases(signals.phases))


def _rationale(task: TaskRollouts) -> float:
    return _median(task, lambda trajectory: _tokens_of(trajectory, _PROSE))


def _tokens_of(trajectory: Trajectory, kinds: Sequence[SegmentKind]) -> int:
    return sum(int(np.isin(turn.logprobs.kind, kinds).sum()) for turn in trajectory.turns if turn.logprobs)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
