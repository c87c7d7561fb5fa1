"""What is known of a task from samples of it, and means over tasks with intervals (these need SciPy: extra `evals`)."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
    return means_over_tasks([values], seed=seed)[0]


def means_over_tasks(rows: Sequence[Sequence[float]] | NDArray[np.float64], *, seed: int = 0) -> list[Estimate]:
    """Several means over the same tasks, each as `mean_over_tasks` gives it: they share the draws of tasks.

    Args:
        rows: Shape `(means, tasks)`, at least one task.
        seed: Of the resampling.

    Raises:
        MissingExtraError: Without SciPy.
    """
    try:
        from scipy import stats
    except ImportError:
        raise MissingExtraError("scipy", "evals") from None
    table = np.asarray(rows, np.float64)
    tasks = table.shape[1]
    means: list[float] = table.mean(axis=1).tolist()
    if tasks < 2:
        return [Estimate(mean, np.nan, np.nan) for mean in means]

    def drawn_means(drawn: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
        # How often each task is drawn, times its values: far quicker than gathering the values of every draw.
        cells = drawn + tasks * np.arange(len(drawn))[:, None]
        counts = np.bincount(cells.ravel(), minlength=drawn.size).reshape(drawn.shape)
        return table @ counts.T.astype(np.float64) / tasks

    interval: Any = stats.bootstrap(
        (np.arange(tasks),),
        drawn_means,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, 10_000_000 // tasks),  # draws in memory at once
        confidence_level=CONFIDENCE_LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return [
        Estimate(mean, mean, mean) if equal else Estimate(mean, low, high)  # rounding would part the ends
        for mean, low, high, equal in zip(
            means, interval.low.tolist(), interval.high.tolist(), (np.ptp(table, axis=1) == 0.0).tolist(), strict=True
        )
    ]


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
