"""The rollouts of a task in several views, and what every selector and signal is worth in each of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from entcent_agents.segments import SegmentKind
from entcent_agents.selection import Selector
from entcent_agents.signals import SIGNALS, SignalName, SignalSettings
from evals.scoring.candidates import Known, Part, TaskRollouts, tasks_of
from evals.scoring.choosing import Resampling, choose, null_accuracies, task_rng
from evals.store import StoredRun

View = Literal["whole trajectory", "last turn", "tool arguments"]
"""The tokens that selectors and signals see."""
WHOLE: Final = "whole trajectory"
VIEWS: Final[Mapping[View, tuple[Part, Collection[SegmentKind]]]] = {
    WHOLE: ("whole", ()),
    "last turn": ("last-turn", ()),
    "tool arguments": ("whole", (SegmentKind.TOOL_ARGUMENT,)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewedTask:
    """A task of one run.

    Attributes:
        run: What the run is called.
        views: Its rollouts with the tokens of each view.
    """

    run: str
    views: Mapping[View, TaskRollouts]

    @property
    def whole(self) -> TaskRollouts:
        """With all tokens."""
        return self.views[WHOLE]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewMeasures:
    """One mixed task in one view.

    Attributes:
        gains: By selector, accuracy minus that of a random candidate; 0 for an abstention.
        nulls: The same, the mean over shuffled trajectories; empty without shuffles.
        decided: The selectors that chose.
        aurocs: By signal; without those that no pair of candidates has.
    """

    gains: Mapping[str, float]
    nulls: Mapping[str, float]
    decided: frozenset[str]
    aurocs: Mapping[SignalName, float]


Measures = Mapping[View, ViewMeasures]
"""Without views in which no candidate has a scored token."""


def viewed(runs: Iterable[StoredRun], suites: Collection[str] = ()) -> tuple[list[ViewedTask], Known]:
    """The judged tasks of every run, and how many are left out.

    Unlike `tasks_of`, a task that is in several runs stays in all of them: with and without a rationale, say.
    """
    found: list[ViewedTask] = []
    unjudged = incomplete = 0
    for run in runs:
        known = {view: tasks_of([run], part=part, kinds=kinds, suites=suites) for view, (part, kinds) in VIEWS.items()}
        unjudged += known[WHOLE].unjudged
        incomplete += known[WHOLE].incomplete
        found += [
            ViewedTask(run=run.name, views={view: known[view].tasks[place] for view in VIEWS})
            for place in range(len(known[WHOLE].tasks))
        ]
    return found, Known(tasks=tuple(task.whole for task in found), unjudged=unjudged, incomplete=incomplete)


def measures_of(
    task: ViewedTask, selectors: Mapping[str, Selector], signals: SignalSettings, resampling: Resampling
) -> Measures:
    """Ask every selector and signal about one mixed task, in each view."""
    found: dict[View, ViewMeasures] = {}
    for view, seen in task.views.items():
        if not any(seen.rollouts[place].trajectory.scored_tokens for place in seen.candidates):
            continue
        found[view] = (
            found[WHOLE]
            if view != WHOLE and _same(seen, task.whole)
            else _measures(seen, selectors, signals, resampling)
        )
    return found


def _measures(
    task: TaskRollouts, selectors: Mapping[str, Selector], signals: SignalSettings, resampling: Resampling
) -> ViewMeasures:
    choices = {name: choose(selector, task, task.candidates) for name, selector in selectors.items()}
    nulls = null_accuracies(task, selectors, resampling.shuffles, task_rng(task, resampling.seed))
    aurocs: dict[SignalName, float] = {
        name: value for name in SIGNALS if (value := task.auroc(name, signals)) is not None
    }
    return ViewMeasures(
        gains={name: choice.accuracy - task.random for name, choice in choices.items()},
        nulls={name: accuracy - task.random for name, accuracy in nulls.items()},
        decided=frozenset(name for name, choice in choices.items() if choice.decided),
        aurocs=aurocs,
    )


def _same(task: TaskRollouts, other: TaskRollouts) -> bool:
    """Whether both see the very same trajectories, as where there is one turn."""
    return all(one.trajectory is two.trajectory for one, two in zip(task.rollouts, other.rollouts, strict=True))
