"""How good the model is by itself on some tasks, and what its rollouts took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from entcent_agents.statistics import Estimate, mean_over_tasks, pass_all_k, pass_at_k
from evals.scoring.candidates import TaskRollouts
from evals.scoring.choosing import TaskChoices, sizes_up_to


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRates:
    """Some tasks together; every rate is a mean over tasks.

    Attributes:
        name: Which tasks.
        tasks: How many.
        mixed_tasks: In how many of them candidates differ.
        rollouts: Of all of them.
        unfinished: Those that failed (and are wrong) or did not finish: no candidates of selectors.
        lowest_coverage: Scored over generated tokens, of the candidate with the least.
        scored_tokens: Of a candidate, the median over tasks.
        prompt_tokens: Read, of all rollouts.
        generated_tokens: Sampled, of all rollouts.
        reused_tokens: Inherited, of all rollouts.
        seconds: From the beginning of a rollout to its end, the mean.
        pass_1: Mean over samples.
        pass_k: By k: at least one of k passes, unbiased.
        pass_all: By k: all of k pass, unbiased (pass^k).
        consensus: By k: the most common outcome of k is right (cons@k).
    """

    name: str
    tasks: int
    mixed_tasks: int
    rollouts: int
    unfinished: int
    lowest_coverage: float
    scored_tokens: float
    prompt_tokens: int
    generated_tokens: int
    reused_tokens: int
    seconds: float
    pass_1: Estimate
    pass_k: Mapping[int, Estimate]
    pass_all: Mapping[int, Estimate]
    consensus: Mapping[int, Estimate]


def pass_rates(name: str, tasks: Sequence[TaskRollouts], chosen: Sequence[TaskChoices], *, seed: int) -> PassRates:
    """The rates of some tasks, one at least.

    Args:
        name: Of these tasks.
        tasks: Those.
        chosen: What was chosen in each, in the same order.
        seed: Of the bootstrap.
    """
    stored = [one for task in tasks for one in task.stored]
    usages = [one.rollout.usage for one in stored]
    finished = [task.rollouts[place] for task in tasks for place in task.candidates]
    counts = [(len(task.passed), sum(task.passed)) for task in tasks]
    ks = [k for k in sizes_up_to(min(samples for samples, _ in counts)) if k > 1]

    def mean(values: Sequence[float]) -> Estimate:
        return mean_over_tasks(values, seed=seed)

    return PassRates(
        name=name,
        tasks=len(tasks),
        mixed_tasks=sum(task.mixed for task in tasks),
        rollouts=len(stored),
        unfinished=len(stored) - len(finished),
        lowest_coverage=min((rollout.trajectory.coverage for rollout in finished), default=0.0),
        scored_tokens=float(np.median([task.scored_tokens for task in tasks])),
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        generated_tokens=sum(usage.generated_tokens for usage in usages),
        reused_tokens=sum(usage.reused_tokens for usage in usages),
        seconds=float(np.mean([one.rollout.seconds for one in stored])),
        pass_1=mean([passed / samples for samples, passed in counts]),
        pass_k={k: mean([pass_at_k(*count, k) for count in counts]) for k in ks},
        pass_all={k: mean([pass_all_k(*count, k) for count in counts]) for k in ks},
        consensus={
            k: mean([one.consensus[k] for one in chosen]) for k in ks if all(k in one.consensus for one in chosen)
        },
    )
