"""Ranking by a number: who is best, who ties, who has none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from entcent_agents.selection.result import Candidate, Selection
from entcent_agents.selection.validity import MIN_COVERAGE, why_uncovered
from entcent_agents.trajectory import Rollout, Trajectory

Value = float | str
"""A number to compare, or the reason why a rollout has none."""


def rank(
    name: str,
    rollouts: Sequence[Rollout],
    value: Callable[[Rollout], Value | None],
    *,
    what: str = "value",
    best: Literal["lowest", "highest"] = "lowest",
) -> Selection:
    """Select the rollout with the best value; ties go to the lower mean entropy, then to the earlier one.

    Args:
        name: The selector's name.
        rollouts: The candidates.
        value: A number to compare, or in words why the rollout has none; None is "no value".
        what: What the number is, for the reason.
        best: Which end of the values wins.

    Example:
        >>> from entcent_agents import rank
        >>> from entcent_agents.testing import scripted_rollouts
        >>> rollouts = scripted_rollouts([0.1] * 9, [0.1] * 4)
        >>> rank("shortest", rollouts, lambda rollout: rollout.trajectory.generated_tokens, what="length").reason
        'length 4 is the lowest of 2'
    """
    values = [_number(value(rollout)) for rollout in rollouts]
    sign = 1.0 if best == "lowest" else -1.0
    numbers = {i: sign * found for i, found in enumerate(values) if not isinstance(found, str)}
    order = sorted(numbers, key=lambda i: (numbers[i], _mean_entropy_or_inf(rollouts[i].trajectory), i))
    ranks = {i: position for position, i in enumerate(order, start=1)}
    candidates = tuple(
        Candidate(rollout=rollout.index, value=None, reason=found)
        if isinstance(found, str)
        else Candidate(rollout=rollout.index, value=float(found), rank=ranks[i])
        for i, (rollout, found) in enumerate(zip(rollouts, values, strict=True))
    )
    if not order:
        why = candidates[0].reason if candidates else "no rollouts"
        return Selection(winner=None, selector=name, reason=why, candidates=candidates)
    first = order[0]
    return Selection(
        winner=rollouts[first].index,
        selector=name,
        reason=f"{what} {values[first]:.4g} is the {best} of {len(order)}",
        candidates=candidates,
        tied=tuple(rollouts[i].index for i in order if numbers[i] == numbers[first]),
    )


def _number(value: Value | None) -> Value:
    if value is None:
        return "no value"
    return value if isinstance(value, str) or math.isfinite(value) else f"its value is {value}"


def _mean_entropy_or_inf(trajectory: Trajectory) -> float:
    def known() -> float:
        mean = trajectory.mean_entropy
        return math.inf if mean is None or why_uncovered(trajectory, "entropy", MIN_COVERAGE) else mean

    return trajectory.remember("mean entropy or inf", known)
