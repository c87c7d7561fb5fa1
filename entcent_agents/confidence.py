"""The other intrinsic signals of a trajectory: numbers per token in, one number (or none) out.

Every function takes one float per token of all turns in order, shape `(T,)`; NaN is a token without that value and
takes no position. Without any value there is no signal: the result is None, never 0.

Sources: arXiv 2508.15260 (DeepConf) for group, bottom and tail confidence, arXiv 2502.18581 for self-certainty; see
docs/mathematics.md.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from entcent_agents.entropy import ROUNDING, FloatArray
from entcent_agents.errors import ConfigurationError
from entcent_agents.phases import percentile, scored_entropy, scored_values

Window: TypeAlias = int | float
"""An int is tokens; a float between 0 and 1 that share of the tokens that have the value, at least one token."""
DEFAULT_WINDOW: Final = 2048
"""Tokens, as in arXiv 2508.15260, for long reasoning; short trajectories need less. State it with the result."""
PEAK_PERCENT: Final = 99.9


def mean_entropy(entropy: ArrayLike) -> float | None:
    """Mean over the scored tokens, nats, in `[0, ln k]`; low is confident.

    Raises:
        LogprobsMalformedError: On a negative or infinite entropy, or another shape.
    """
    return _mean(scored_entropy(entropy))


def tail_entropy(entropy: ArrayLike, window: Window = DEFAULT_WINDOW) -> float | None:
    """Mean over the last `window` scored tokens, or all where there are fewer, nats; low is a confident end.

    Raises:
        LogprobsMalformedError: On a negative or infinite entropy, or another shape.
        ConfigurationError: On a window that is no `Window`.
    """
    return _tail(scored_entropy(entropy), window)


def peak_entropy(entropy: ArrayLike) -> float | None:
    """The 99.9th percentile over the scored tokens, nats; high goes with a hard task.

    Raises:
        LogprobsMalformedError: On a negative or infinite entropy, or another shape.

    Source: arXiv 2510.11170.
    """
    scored = scored_entropy(entropy)
    return percentile(scored, PEAK_PERCENT) if len(scored) else None


def mean_logprob(logprob: ArrayLike) -> float | None:
    """Mean log-probability of the sampled tokens, nats, at most 0; high is confident.

    Raises:
        LogprobsMalformedError: On a positive or infinite value, or another shape.
    """
    return _mean(_sampled(logprob))


def sum_logprob(logprob: ArrayLike) -> float | None:
    """Log-probability of the sampled tokens together, nats, at most 0; grows with every token, so length counts.

    Raises:
        LogprobsMalformedError: On a positive or infinite value, or another shape.
    """
    sampled = _sampled(logprob)
    return float(sampled.sum()) if len(sampled) else None


def perplexity(logprob: ArrayLike) -> float | None:
    """`exp(-mean logprob)` of the sampled tokens, from 1 (infinite beyond 1e308); low is confident.

    Raises:
        LogprobsMalformedError: On a positive or infinite value, or another shape.
    """
    mean = mean_logprob(logprob)
    with np.errstate(over="ignore"):
        return None if mean is None else float(np.exp(-mean))


def mean_confidence(confidence: ArrayLike) -> float | None:
    """Mean of the token confidences `c = -(1/k) Σ l`, nats, from 0; high is confident.

    Raises:
        LogprobsMalformedError: On a negative or infinite confidence, or another shape.
    """
    return _mean(_confident(confidence))


def group_confidence(confidence: ArrayLike, window: Window = DEFAULT_WINDOW) -> FloatArray:
    """Mean confidence of each full window of tokens, stride 1, nats.

    Takes O(T) time whatever the window, by prefix sums. They are taken of the differences to the mean, so that they
    stay small: over a million tokens a group is within 1e-9 nats of the exact mean.

    Args:
        confidence: As `TokenDistribution.confidence`, shape `(T,)`.
        window: Length of a group; a shorter trajectory is one group.

    Returns:
        Shape `(L - window + 1,)` for L tokens with a confidence, or `(1,)`, or `(0,)` where L is 0.

    Raises:
        LogprobsMalformedError: On a negative or infinite confidence, or another shape.
        ConfigurationError: On a window that is no `Window`.

    Source: arXiv 2508.15260.
    """
    values = _confident(confidence)
    width = min(_tokens(window, len(values)), len(values))
    if not width:
        return values
    mean = values.mean()
    prefix = np.zeros(len(values) + 1)
    np.subtract(values, mean, out=prefix[1:])
    np.cumsum(prefix, out=prefix)
    groups = prefix[width:] - prefix[:-width]
    groups /= width
    groups += mean
    return np.maximum(groups, 0.0, out=groups)  # rounding may fall below


def lowest_group_confidence(confidence: ArrayLike, window: Window = DEFAULT_WINDOW) -> float | None:
    """The least of `group_confidence`, nats; high is a trajectory without a doubtful stretch.

    Raises:
        LogprobsMalformedError: On a negative or infinite confidence, or another shape.
        ConfigurationError: On a window that is no `Window`.

    Source: arXiv 2508.15260.
    """
    groups = group_confidence(confidence, window)
    return float(groups.min()) if len(groups) else None


def bottom_confidence(confidence: ArrayLike, window: Window = DEFAULT_WINDOW, share: float = 0.1) -> float | None:
    """Mean of the lowest `max(1, ⌊m · share⌋)` of the m values of `group_confidence`, nats; high is good.

    Raises:
        LogprobsMalformedError: On a negative or infinite confidence, or another shape.
        ConfigurationError: On a window that is no `Window`, or a share outside 0 (exclusive) to 1.

    Source: arXiv 2508.15260.
    """
    if isinstance(share, bool) or not 0.0 < share <= 1.0:
        raise ConfigurationError(f"share={share!r} is not a share of the groups: above 0, at most 1")
    groups = group_confidence(confidence, window)
    lowest = max(1, int(len(groups) * share))
    return _mean(np.partition(groups, lowest - 1)[:lowest]) if len(groups) else None


def tail_confidence(confidence: ArrayLike, window: Window = DEFAULT_WINDOW) -> float | None:
    """Mean confidence of the last `window` tokens, or all where there are fewer, nats; high is a confident end.

    Raises:
        LogprobsMalformedError: On a negative or infinite confidence, or another shape.
        ConfigurationError: On a window that is no `Window`.

    Source: arXiv 2508.15260.
    """
    return _tail(_confident(confidence), window)


def self_certainty(confidence: ArrayLike, top_k: int) -> float | None:
    """Mean confidence minus `ln k`, nats: how far the top-k distributions are from uniform; high is confident.

    The published signal sums over the whole vocabulary V, which servers do not send. This is its formula with V = k,
    so values of different k do not compare.

    Args:
        confidence: As `TokenDistribution.confidence`, shape `(T,)`.
        top_k: Alternatives behind each confidence.

    Raises:
        LogprobsMalformedError: On a negative or infinite confidence, or another shape.
        ConfigurationError: On a `top_k` that is no whole number from 1.

    Source: approximates arXiv 2502.18581.
    """
    if isinstance(top_k, bool) or not isinstance(top_k, Integral) or top_k < 1:
        raise ConfigurationError(f"top_k={top_k!r} is not a number of alternatives: a whole number from 1")
    mean = mean_confidence(confidence)
    return None if mean is None else mean - math.log(top_k)


def _sampled(logprob: ArrayLike) -> FloatArray:
    return scored_values(logprob, "logprob", highest=ROUNDING)


def _confident(confidence: ArrayLike) -> FloatArray:
    return scored_values(confidence, "confidence", lowest=0.0)


def _mean(values: FloatArray) -> float | None:
    return float(values.mean()) if len(values) else None


def _tail(values: FloatArray, window: Window) -> float | None:
    return _mean(values[-_tokens(window, len(values)) :])


def _tokens(window: Window, tokens: int) -> int:
    """How many of `tokens` tokens a window asks for, at least 1."""
    if not isinstance(window, bool):
        if isinstance(window, Integral) and window >= 1:
            return int(window)
        if isinstance(window, float) and 0.0 < window < 1.0:
            return max(1, int(window * tokens))
    raise ConfigurationError(
        f"window={window!r} is neither tokens (a whole number from 1) nor a share of the trajectory (between 0 and 1)"
    )
