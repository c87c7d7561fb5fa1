"""Choosing parameters by labels: on tasks set apart for it, never on those that are reported."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import product
from typing import Final, Literal, NamedTuple, get_args

import numpy as np

from entcent_agents.errors import ConfigurationError
from entcent_agents.phases import PhaseConfig
from entcent_agents.selection import LowestCentroid, Selector, default_selector, named_selectors
from entcent_agents.signals import SignalName, SignalSettings
from evals.errors import SplitError
from evals.scoring.candidates import TaskRollouts
from evals.scoring.chains import candidate_chains
from evals.scoring.choosing import choose

Parameter = Literal["phases", "window", "floor", "chain", "selector"]
"""What can be chosen, in this order."""

PHASES: Final = tuple(
    PhaseConfig(top_percent=top, bottom_percent=bottom, consecutive_low=low)
    for top, bottom, low in product((1.0, 3.0, 5.0), (30.0, 50.0, 80.0), (2, 3, 5))
)
"""The sweep of arXiv 2604.26173."""
WINDOWS: Final = (0.05, 0.1, 0.2, 0.5, 16, 64, 256, 2048)
_VARIANT: Final = re.compile(r"^multi_turn_[a-z_]+_(?=\d)")
FLOORS: Final = (0, 50, 100, 200, 400, 800)


class Split(NamedTuple):
    """Tasks to choose on, and tasks to report."""

    calibration: tuple[TaskRollouts, ...]
    test: tuple[TaskRollouts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What was chosen.

    Attributes:
        parameter: Which one.
        value: As it is printed.
        criterion: What was the highest.
        figure: How high, on the calibration tasks: not to be reported as a result.
        tried: Every value with its figure, as printed.
        selector: The selector that follows from it, by its name; empty where all of them are measured differently.
    """

    parameter: Parameter
    value: str
    criterion: str
    figure: float
    tried: Mapping[str, float]
    selector: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What tasks are scored with.

    Attributes:
        signals: Of all selectors and signals.
        selectors: By name.
        chosen: What of it was chosen by labels.
    """

    signals: SignalSettings
    selectors: Mapping[str, Selector]
    chosen: tuple[Chosen, ...] = ()


def split_by_share(tasks: Sequence[TaskRollouts], share: float) -> Split:
    """Set about this share of the tasks apart, by a digest of their names: the same ones in every run.

    Raises:
        SplitError: On a share that leaves nothing on a side.
    """
    if not 0.0 < share < 1.0:
        raise SplitError(f"a calibration split of {share} leaves nothing to choose on or to test on: give 0.3, say")
    apart = [_place(task) < share for task in tasks]
    return _split(
        [task for task, first in zip(tasks, apart, strict=True) if first],
        [task for task, first in zip(tasks, apart, strict=True) if not first],
    )


def split_by_tasks(calibration: Sequence[TaskRollouts], test: Sequence[TaskRollouts]) -> Split:
    """Tasks of other runs to choose on.

    Raises:
        SplitError: Where a task is on both sides.
    """
    both = {_origin(task) for task in calibration} & {_origin(task) for task in test}
    if both:
        named = ", ".join(sorted(both)[:3])
        raise SplitError(
            f"{len(both)} tasks are in the calibration split and in the test too ({named}): parameters chosen on them "
            "would be tested on what they were chosen by; give runs of other tasks"
        )
    return _split(calibration, test)


def parameters(asked: Collection[str], signals: SignalSettings, split: Split | None) -> Parameters:
    """What to score with: as given, but for what is asked to be chosen.

    Args:
        asked: Of `Parameter`.
        signals: As given.
        split: Tasks to choose on; None: there are none.

    Raises:
        ConfigurationError: On a parameter that does not exist.
        SplitError: Where something is to be chosen and there are no tasks for it.
    """
    names: tuple[Parameter, ...] = get_args(Parameter)
    if unknown := [name for name in asked if name not in names]:
        raise ConfigurationError(f"{', '.join(unknown)} cannot be chosen: {', '.join(names)} can")
    given = Parameters(signals=signals, selectors=named_selectors(signals))
    if not asked:
        return given
    if split is None:
        raise SplitError(
            f"choosing {', '.join(asked)} needs --calibration-split: parameters chosen by the labels of the test tasks "
            "would flatter themselves"
        )
    mixed = [task for task in split.calibration if task.mixed]
    if not mixed:
        raise SplitError("no calibration task is mixed: there is nothing to choose by; set more tasks apart")
    for name in names:
        if name in asked:
            given = _CHOOSE[name](given, mixed)
    return given


def _phases(given: Parameters, mixed: Sequence[TaskRollouts]) -> Parameters:
    tried = [replace(given.signals, phases=phases) for phases in PHASES]
    figures = {str(one.phases): _auroc(mixed, "centroid", one) for one in tried}
    chosen = _best("phases", figures, "AUROC of the centroid")
    return _measured_with(given, tried[[*figures].index(chosen.value)], chosen)


def _window(given: Parameters, mixed: Sequence[TaskRollouts]) -> Parameters:
    tried = [replace(given.signals, window=window) for window in WINDOWS]
    figures = {f"{one.window:g}": _auroc(mixed, "tail_confidence", one) for one in tried}
    chosen = _best("window", figures, "AUROC of the tail confidence")
    return _measured_with(given, tried[[*figures].index(chosen.value)], chosen)


def _floor(given: Parameters, mixed: Sequence[TaskRollouts]) -> Parameters:
    chains = {
        f"{floor} scored tokens": default_selector(LowestCentroid(settings=given.signals, min_scored_tokens=floor))
        for floor in FLOORS
    }
    figures = {name: _accuracy(mixed, chain) for name, chain in chains.items()}
    chosen = _best("floor", figures, "accuracy of the default chain")
    return _with_selector(given, f"default chain, floor {chosen.value}", chains[chosen.value], chosen)


def _chain(given: Parameters, mixed: Sequence[TaskRollouts]) -> Parameters:
    chains = candidate_chains(given.signals)
    figures = {name: _accuracy_over_suites(mixed, chain) for name, chain in chains.items()}
    chosen = _best("chain", figures, "accuracy over mixed tasks, suites weighing equally,")
    return _with_selector(given, f"chosen chain: {chosen.value}", chains[chosen.value], chosen)


def _selector(given: Parameters, mixed: Sequence[TaskRollouts]) -> Parameters:
    figures = {name: _accuracy(mixed, selector) for name, selector in given.selectors.items()}
    chosen = _best("selector", figures, "accuracy")
    return replace(given, chosen=(*given.chosen, replace(chosen, selector=chosen.value)))


_CHOOSE: Final[Mapping[Parameter, Callable[[Parameters, Sequence[TaskRollouts]], Parameters]]] = {
    "phases": _phases,
    "window": _window,
    "floor": _floor,
    "chain": _chain,
    "selector": _selector,
}


def _measured_with(given: Parameters, signals: SignalSettings, chosen: Chosen) -> Parameters:
    return Parameters(signals=signals, selectors=named_selectors(signals), chosen=(*given.chosen, chosen))


def _with_selector(given: Parameters, name: str, selector: Selector, chosen: Chosen) -> Parameters:
    selectors = {name: selector, **given.selectors}
    return replace(given, selectors=selectors, chosen=(*given.chosen, replace(chosen, selector=name)))


def _best(parameter: Parameter, tried: Mapping[str, float], criterion: str) -> Chosen:
    """The first of the values with the highest figure."""
    value = max(tried, key=tried.__getitem__)
    return Chosen(parameter=parameter, value=value, criterion=criterion, figure=tried[value], tried=tried)


def _auroc(mixed: Sequence[TaskRollouts], name: SignalName, signals: SignalSettings) -> float:
    """Mean over tasks; one that a setting says nothing of counts as chance: all settings have the same tasks."""
    found = [0.5 if (value := task.auroc(name, signals)) is None else value for task in mixed]
    return float(np.mean(found))


def _accuracy(mixed: Sequence[TaskRollouts], selector: Selector) -> float:
    return float(np.mean([choose(selector, task, range(len(task.rollouts))).accuracy for task in mixed]))


def _accuracy_over_suites(mixed: Sequence[TaskRollouts], selector: Selector) -> float:
    suites = sorted({task.suite for task in mixed})
    return float(np.mean([_accuracy([task for task in mixed if task.suite == suite], selector) for suite in suites]))


def _split(calibration: Sequence[TaskRollouts], test: Sequence[TaskRollouts]) -> Split:
    for name, tasks in (("calibration", calibration), ("test", test)):
        if not tasks:
            raise SplitError(f"the calibration split leaves no {name} tasks: take another share, or more tasks")
    return Split(tuple(calibration), tuple(test))


def _place(task: TaskRollouts) -> float:
    """Where in [0, 1) a task's name puts it."""
    digest = blake2b(_origin(task).encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _origin(task: TaskRollouts) -> str:
    """What a task is a variant of: BFCL asks one scenario with functions or parameters missing, or its first turns."""
    scenario = _VARIANT.sub("multi_turn_", task.task)
    return f"{task.suite.partition(':turns=')[0]}/{scenario}"
