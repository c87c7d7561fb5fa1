"""All tasks together: how right each selector was, next to chance, to the best there was, and to shuffled scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from entcent_agents.scoring.tasks import TaskScore
from entcent_agents.statistics import Estimate, mean_over_tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorSummary:
    """One selector over all tasks with rewards.

    Attributes:
        selector: Its name.
        decided: In how many tasks it did not abstain; where it did, a random choice stands in with its expected reward.
        reward: Mean reward of what it selected: the accuracy, where rewards are 0 and 1.
        gain: The same minus that of a random choice, paired by task.
        null: Mean reward with the trajectories shuffled among the candidates of each task; NaN without shuffles.
    """

    selector: str
    decided: int
    reward: Estimate
    gain: Estimate
    null: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """All tasks whose candidates have rewards.

    Attributes:
        tasks: How many there are.
        mixed_tasks: In how many of them rewards differ; the others cannot tell selectors apart.
        random: Expected mean reward of a random choice.
        oracle: Mean of the best reward of each task.
        selectors: One entry each.
    """

    tasks: int
    mixed_tasks: int
    random: Estimate
    oracle: Estimate
    selectors: tuple[SelectorSummary, ...]


def summarise(scores: Sequence[TaskScore], *, seed: int = 0) -> Summary | None:
    """Means with paired bootstrap intervals over tasks; None where no task has rewards.

    Args:
        scores: All tasks; those without rewards are left out.
        seed: Of the resampling.

    Raises:
        MissingExtraError: Without SciPy.
    """
    labelled = [score for score in scores if score.rewards is not None]
    if not labelled:
        return None
    chance = np.array([score.random_reward for score in labelled])

    def one(name: str) -> SelectorSummary:
        chosen = np.array([score.reward(name) for score in labelled])
        null = [score.null_rewards[name] for score in labelled if name in score.null_rewards]
        return SelectorSummary(
            selector=name,
            decided=sum(score.selections[name].winner is not None for score in labelled),
            reward=mean_over_tasks(chosen.tolist(), seed=seed),
            gain=mean_over_tasks((chosen - chance).tolist(), seed=seed),
            null=float(np.mean(null)) if null else float("nan"),
        )

    return Summary(
        tasks=len(labelled),
        mixed_tasks=sum(len(set(score.rewards or ())) > 1 for score in labelled),
        random=mean_over_tasks(chance.tolist(), seed=seed),
        oracle=mean_over_tasks([max(score.rewards or (0.0,)) for score in labelled], seed=seed),
        selectors=tuple(one(name) for name in labelled[0].selections),
    )
