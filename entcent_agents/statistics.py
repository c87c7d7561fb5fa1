"""What is known of a task from samples of it, and means over tasks with intervals (these need SciPy: extra `evals`)."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Any, Final, NamedTuple

import numpy as np

from entcent_agents.errors import ConfigurationError, MissingExtraError

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


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The probability that at least one of `k` samples passes, unbiased: drawn from those there are, none twice.

    Args:
        samples: How many there are.
        passed: How many of them passed.
        k: How many are drawn, at most all.

    Raises:
        ConfigurationError: On numbers that cannot be.

    Source: arXiv 2107.03374.
    """
    _require_counts(samples, passed, k)
    return 1.0 - comb(samples - passed, k) / comb(samples, k)


def pass_all_k(samples: int, passed: int, k: int) -> float:
    """The probability that all of `k` samples pass (pass^k), unbiased.

    Args:
        samples: How many there are.
        passed: How many of them passed.
        k: How many are drawn, at most all.

    Raises:
        ConfigurationError: On numbers that cannot be.

    Source: arXiv 2406.12045.
    """
    _require_counts(samples, passed, k)
    return comb(passed, k) / comb(samples, k)


def auroc(right: Sequence[float], wrong: Sequence[float]) -> float | None:
    """How often a right sample has a higher value than a wrong one, equal values counting half; None without pairs."""
    if not len(right) or not len(wrong):
        return None
    above = np.asarray(right, np.float64)[:, None] - np.asarray(wrong, np.float64)
    return float(np.mean(np.sign(above)) / 2 + 0.5)


def _require_counts(samples: int, passed: int, k: int) -> None:
    if not (0 <= passed <= samples and 1 <= k <= samples):
        raise ConfigurationError(f"{k} of {samples} samples, {passed} of them passed: that cannot be")
