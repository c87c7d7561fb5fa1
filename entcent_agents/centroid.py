"""The entropy centroid: where, between start (0) and end (1), a trajectory's uncertainty sits."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from entcent_agents.phases import PhaseConfig, Thresholds, phase_spans, scored_entropy


def entropy_centroid(
    entropy: ArrayLike, config: PhaseConfig | None = None, thresholds: Thresholds | None = None
) -> float | None:
    """Mass-weighted mean midpoint of the high-entropy phases, over the trajectory's length.

    Args:
        entropy: Nats, shape `(T,)`, all turns of the trajectory in order; NaN (unscored) tokens take no position.
        config: When phases start and end; default `PhaseConfig()`.
        thresholds: Fixed `(high, low)` in nats; default: those of `config`, else percentiles of this trajectory.

    Returns:
        In the open interval (0, 1), low meaning early exploration and then confidence; None without a phase.

    Raises:
        LogprobsMalformedError: On a negative entropy or another shape.
        ConfigurationError: On a high threshold below the low one, or one that is NaN.

    Example:
        >>> from entcent_agents import entropy_centroid
        >>> entropy_centroid([0.1] * 4 + [2.0] * 2 + [0.1] * 94)  # one phase, around the fifth of 100 tokens
        0.05

    Source: arXiv 2604.26173, figure 1; see docs/mathematics.md.
    """
    return _phase_moment(entropy, config, thresholds, midpoint=0.5, normalised=True)


def centroid_from_starts(
    entropy: ArrayLike, config: PhaseConfig | None = None, thresholds: Thresholds | None = None
) -> float | None:
    """As `entropy_centroid`, with each phase placed at its first token; in [0, 1), or None without a phase."""
    return _phase_moment(entropy, config, thresholds, midpoint=0.0, normalised=True)


def centroid_moment(
    entropy: ArrayLike, config: PhaseConfig | None = None, thresholds: Thresholds | None = None
) -> float | None:
    """Sum of phase length times start over the trajectory's length, in tokens: unbounded; None without a phase."""
    return _phase_moment(entropy, config, thresholds, midpoint=0.0, normalised=False)


def centroid_raw(entropy: ArrayLike) -> float | None:
    """Entropy-weighted mean position of all scored tokens, over their number; None where all entropy is 0."""
    scored = scored_entropy(entropy)
    mass = float(scored.sum())
    if not mass:
        return None
    return float((scored * np.arange(len(scored))).sum()) / (len(scored) * mass)


def _phase_moment(
    entropy: ArrayLike,
    config: PhaseConfig | None,
    thresholds: Thresholds | None,
    *,
    midpoint: float,
    normalised: bool,
) -> float | None:
    scored = scored_entropy(entropy)
    start, length = (span.astype(np.float64) for span in phase_spans(scored, config, thresholds))
    if not len(start):
        return None
    moment = float((length * (start + midpoint * length)).sum()) / len(scored)
    return moment / float(length.sum()) if normalised else moment
