"""Several runs on the same tasks, paired with the first: what they took, what they came to, and where they branched."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from entcent_agents.selection import Selector
from entcent_agents.statistics import Estimate, mean_over_tasks, pass_at_k
from evals.errors import EvaluationError
from evals.scoring.candidates import TaskRollouts
from evals.scoring.choosing import choose, most_common
from evals.store import StoredRollout


class Compared(NamedTuple):
    """One figure of several runs.

    Attributes:
        name: Of the figure.
        means: Of each run.
        differences: Of each run but the first, to the first; paired by task.
    """

    name: str
    means: Sequence[Estimate]
    differences: Sequence[Estimate]


class Matched(NamedTuple):
    """What a run came to, and what the first would have, had it sampled no more tokens.

    Attributes:
        generated_tokens: Of a task, all its rollouts together: the run's, the mean.
        samples: Rollouts of the first run that generate as many.
        fewer: Its pass@k with so many rollouts.
        found: The pass@k of the run.
        difference: Of the two, paired by task.
    """

    generated_tokens: float
    samples: float
    fewer: Estimate
    found: Estimate
    difference: Estimate


Figure = Callable[[TaskRollouts], float]
"""What one run has of a task."""


def shared(runs: Sequence[Sequence[TaskRollouts]]) -> list[list[TaskRollouts]]:
    """Of each run the tasks that are in all, in the order of the first.

    Raises:
        EvaluationError: Where there are none.
    """
    known = [{(task.suite, task.task): task for task in run} for run in runs]
    keys = [key for key in known[0] if all(key in run for run in known)]
    if not keys:
        raise EvaluationError("the runs have no judged task in common: there is nothing to compare")
    return [[run[key] for key in keys] for run in known]


def compare(runs: Sequence[Sequence[TaskRollouts]], figures: Mapping[str, Figure], *, seed: int) -> list[Compared]:
    """Some figures of all runs, tasks in the same order; the differences are paired by task."""
    return [_compared(name, [[figure(task) for task in run] for run in runs], seed) for name, figure in figures.items()]


def _compared(name: str, values: Sequence[Sequence[float]], seed: int) -> Compared:
    first, *others = values
    return Compared(
        name,
        [mean_over_tasks(each, seed=seed) for each in values],
        [mean_over_tasks([b - a for a, b in zip(first, other, strict=True)], seed=seed) for other in others],
    )


def at_equal_tokens(first: Sequence[TaskRollouts], other: Sequence[TaskRollouts], *, seed: int) -> Matched | None:
    """A run beside the first at the tokens that the run generated; None where those of the first are no samples.

    Between two numbers of rollouts pass@k is interpolated. Where the run generated more, all rollouts are taken.
    """
    if any(one.rollout.branch for task in first for one in task.stored):
        return None
    generated = _tokens("generated")
    tokens, whole = (float(np.mean([generated(task) for task in run])) for run in (other, first))
    share = min(tokens / whole, 1.0) if whole else 1.0
    fewer = [_pass_at(task, share * len(task.passed)) for task in first]
    found = [float(any(task.passed)) for task in other]
    return Matched(
        tokens,
        share * float(np.mean([len(task.passed) for task in first])),
        mean_over_tasks(fewer, seed=seed),
        mean_over_tasks(found, seed=seed),
        mean_over_tasks([b - a for a, b in zip(fewer, found, strict=True)], seed=seed),
    )


def _pass_at(task: TaskRollouts, samples: float) -> float:
    known = range(1, len(task.passed) + 1)
    rates = [pass_at_k(len(task.passed), sum(task.passed), k) for k in known]
    return float(np.interp(samples, [0, *known], [0.0, *rates]))


def accuracies(selectors: Mapping[str, Selector]) -> dict[str, Figure]:
    """How often a task is solved: by any rollout, by a random one, by the one that is chosen."""
    chosen: dict[str, Figure] = {
        name: lambda task, selector=selector: choose(selector, task, range(len(task.rollouts))).accuracy
        for name, selector in selectors.items()
        if name != "random"
    }
    return {
        "pass@k": lambda task: float(any(task.passed)),
        "pass@1": lambda task: float(np.mean(task.passed)),
        "cons@n": lambda task: most_common(task, range(len(task.rollouts))),
        **chosen,
    }


def _tokens(kind: str) -> Figure:
    return lambda task: float(sum(getattr(one.rollout.usage, f"{kind}_tokens") for one in task.stored))


COSTS: Final[Mapping[str, Figure]] = {
    "rollouts": lambda task: float(len(task.stored)),
    "generated tokens": _tokens("generated"),
    "reused tokens": _tokens("reused"),
    "prompt tokens": _tokens("prompt"),
    "seconds": lambda task: busy_seconds(task.stored),
    "distinct call sequences": lambda task: float(len({calls_of(one) for one in task.stored})),
    "distinct outcomes": lambda task: float(len({one.rollout.vote_key for one in task.stored})),
}
"""What a task took, all its rollouts together, and how much they differ."""


def busy_seconds(stored: Sequence[StoredRollout]) -> float:
    """How long any rollout of a task was under way; time in which none was, as between two passes, does not count."""
    total, until = 0.0, float("-inf")
    for begun, ended in sorted((one.ended_at - one.rollout.seconds, one.ended_at) for one in stored):
        total += max(ended - max(begun, until), 0.0)
        until = max(until, ended)
    return total


def calls_of(stored: StoredRollout) -> str:
    """All calls of a rollout in their order, as one text."""
    return json.dumps([call for reply in stored.replies for call in reply["calls"]], sort_keys=True)
