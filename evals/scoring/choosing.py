"""What selectors choose from a task's rollouts: from all, from fewer, and from shuffled ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from entcent_agents.selection import Selector
from entcent_agents.trajectory import Rollout
from evals.scoring.candidates import TaskRollouts

TIES_DRAWN: Final = frozenset({"shortest", "longest", "majority vote", "highest log-probability"})
"""Baselines that read no entropy: alone, selectors of this library decide ties by it, and here a tie is drawn."""


class Choice(NamedTuple):
    """What a selector's choice is worth.

    Attributes:
        accuracy: 1 where it is right, 0 where wrong; where the selector abstained, that of a random candidate.
        decided: Whether it chose.
    """

    accuracy: float
    decided: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChoices:
    """One task under every selector.

    Attributes:
        full: By selector, its choice from all candidates.
        null: By selector, its mean accuracy where trajectories were shuffled among the candidates.
        sizes: By number of rollouts, by selector: its mean accuracy over draws of so many rollouts.
        consensus: By number of rollouts: accuracy of the most common outcome, over the same draws.
    """

    full: Mapping[str, Choice]
    null: Mapping[str, float]
    sizes: Mapping[int, Mapping[str, float]]
    consensus: Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """How often, and from where.

    Attributes:
        draws: Of each number of rollouts below all of them.
        shuffles: Of the null control.
        seed: Of both; each task's own follows from it and the task's name.
    """

    draws: int = 20
    shuffles: int = 20
    seed: int = 0


def sizes_up_to(rollouts: int) -> list[int]:
    """1, 2, 4 and so on, and the whole number itself."""
    powers = [1 << power for power in range(rollouts.bit_length())]
    return sorted({*powers, rollouts})


def choices(task: TaskRollouts, selectors: Mapping[str, Selector], resampling: Resampling) -> TaskChoices:
    """Ask every selector about one task."""
    rng = task_rng(task, resampling.seed)
    everyone = range(len(task.rollouts))
    full = {name: choose(selector, task, everyone) for name, selector in selectors.items()}
    sizes: dict[int, dict[str, float]] = {}
    consensus: dict[int, float] = {}
    for size in sizes_up_to(len(everyone)):
        draws = [sorted(rng.permutation(len(everyone))[:size].tolist()) for _ in range(resampling.draws)]
        if size == len(everyone):
            draws = [list(everyone)]
        sizes[size] = {
            name: full[name].accuracy
            if size == len(everyone)
            else float(np.mean([choose(selector, task, drawn).accuracy for drawn in draws]))
            for name, selector in selectors.items()
        }
        consensus[size] = float(np.mean([most_common(task, drawn) for drawn in draws]))
    null = null_accuracies(task, selectors, resampling.shuffles, rng)
    return TaskChoices(full=full, null=null, sizes=sizes, consensus=consensus)


def task_rng(task: TaskRollouts, seed: int) -> np.random.Generator:
    """A task's own random numbers, whatever other tasks are scored with it."""
    return np.random.default_rng([seed, *f"{task.suite}/{task.task}".encode()])


def choose(selector: Selector, task: TaskRollouts, places: Sequence[int]) -> Choice:
    """What a selector chooses from the rollouts at these places; 0 where none of them finished."""
    return _choice(selector, [task.rollouts[place] for place in places], [task.passed[place] for place in places])


def null_accuracies(
    task: TaskRollouts, selectors: Mapping[str, Selector], shuffles: int, rng: np.random.Generator
) -> dict[str, float]:
    """By selector, its mean accuracy where each candidate has another's trajectory, and its own outcome and reward.

    Args:
        task: Whose candidates.
        selectors: By name.
        shuffles: How many; 0: nothing is known.
        rng: For the shuffles.
    """
    places = task.candidates
    if not shuffles:
        return {}
    drawn: dict[str, list[float]] = {name: [] for name in selectors}
    for _ in range(shuffles):
        others = rng.permutation(places).tolist()
        shuffled = [
            replace(task.rollouts[place], trajectory=task.rollouts[other].trajectory)
            for place, other in zip(places, others, strict=True)
        ]
        for name, selector in selectors.items():
            drawn[name].append(_choice(selector, shuffled, [task.passed[place] for place in places]).accuracy)
    return {name: float(np.mean(found)) for name, found in drawn.items()}


def most_common(task: TaskRollouts, places: Sequence[int]) -> float:
    """Accuracy of the most common outcome among the rollouts at these places; a tie is drawn.

    Without log-probabilities in any part: equal votes are not decided by entropy.
    """
    votes: defaultdict[str, list[bool]] = defaultdict(list)
    finished = [place for place in places if task.rollouts[place].status == "finished"]
    for place in finished:
        key = task.rollouts[place].vote_key
        votes[f"none {place}" if key is None else key].append(task.passed[place])
    if not votes:
        return 0.0
    most = max(map(len, votes.values()))
    return float(np.mean([np.mean(right) for right in votes.values() if len(right) == most]))


def _choice(selector: Selector, rollouts: Sequence[Rollout], passed: Sequence[bool]) -> Choice:
    right = {
        rollout.index: good for rollout, good in zip(rollouts, passed, strict=True) if rollout.status == "finished"
    }
    if not right:
        return Choice(0.0, decided=False)
    chosen = selector.select([rollout for rollout in rollouts if rollout.index in right])
    if chosen.winner is None:
        return Choice(float(np.mean(list(right.values()))), decided=False)
    if chosen.selector in TIES_DRAWN:
        return Choice(float(np.mean([right[index] for index in chosen.tied])), decided=True)
    return Choice(float(right[chosen.winner]), decided=True)
