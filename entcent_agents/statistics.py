"""Intervals over tasks. Needs SciPy, which the extra `evals` brings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from entcent_agents.errors import MissingExtraError

CONFIDENCE_LEVEL: Final = 0.95
RESAMPLES: Final = 9_999


class Estimate(NamedTuple):
    """A mean over tasks with its interval.

    Attributes:
        mean: Over the tasks.
        low: Lower end of the 95 % interval.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


def mean_over_tasks(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """The mean of one value per task, with the percentile bootstrap interval over tasks.

    Give differences to compare two selectors: the bootstrap is then paired, each task being drawn with both.

    Args:
        values: One for each task, at least one.
        seed: Of the resampling.

    Returns:
        The interval is NaN for one task alone, and has no width where all values are equal.

    Raises:
        MissingExtraError: Without SciPy.
    """
    try:
        from scipy import stats
    except ImportError:
        raise MissingExtraError("scipy", "evals") from None
    column = np.asarray(values, np.float64)
    mean = float(column.mean())
    if len(column) < 2:
        return Estimate(mean, np.nan, np.nan)
    if np.ptp(column) == 0.0:
        return Estimate(mean, mean, mean)
    interval: Any = stats.bootstrap(
        (column,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, 10_000_000 // len(column)),  # floats in memory at once
        confidence_level=CONFIDENCE_LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high))
