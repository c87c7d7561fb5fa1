"""High-entropy phases (HEPs): stretches of a trajectory where the model was uncertain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from entcent_agents.entropy import FloatArray
from entcent_agents.errors import ConfigurationError, LogprobsMalformedError


class Phase(NamedTuple):
    """One high-entropy phase.

    Attributes:
        start: Position of its first token among the scored tokens of the trajectory, from 0.
        length: Tokens.
    """

    start: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseConfig:
    """When a phase starts and ends; the defaults are those of the authors' README.

    Attributes:
        top_percent: A phase starts at a token among this top share of the trajectory's entropies, percent.
        bottom_percent: It ends at tokens among this bottom share, percent.
        consecutive_low: How many such tokens in a row end it.

    Raises:
        ConfigurationError: When a share is outside 0 to 100, both exceed 100 together, or
            `consecutive_low` is below 1.
    """

    top_percent: float = 1.0
    bottom_percent: float = 80.0
    consecutive_low: int = 2

    def __post_init__(self) -> None:
        for name in ("top_percent", "bottom_percent"):
            share = getattr(self, name)
            if not 0.0 <= share <= 100.0:
                raise ConfigurationError(f"{name}={share} is not a percentage between 0 and 100")
        if self.top_percent + self.bottom_percent > 100.0:
            raise ConfigurationError(
                f"top_percent={self.top_percent} and bottom_percent={self.bottom_percent} overlap: "
                "together they must not exceed 100"
            )
        if self.consecutive_low < 1:
            raise ConfigurationError(f"consecutive_low={self.consecutive_low} must be at least 1")


def high_entropy_phases(
    entropy: ArrayLike,
    config: PhaseConfig | None = None,
    thresholds: tuple[float, float] | None = None,
) -> tuple[Phase, ...]:
    """The high-entropy phases of one trajectory, in order.

    A phase starts at the first token with entropy at or above the high threshold (and above the low one); it ends
    before the first `consecutive_low` tokens in a row at or below the low threshold, or with the trajectory.

    Args:
        entropy: Nats, shape `(T,)`, all turns of the trajectory in order; NaN (unscored) tokens take no position.
        config: When phases start and end; default `PhaseConfig()`.
        thresholds: Fixed `(high, low)` in nats; by default percentiles of this trajectory.

    Returns:
        Phases that do not overlap, by ascending start.

    Raises:
        LogprobsMalformedError: On a negative entropy or another shape.
        ConfigurationError: On a high threshold below the low one.

    Source: arXiv 2604.26173; see docs/mathematics.md.
    """
    config = config or PhaseConfig()
    scored = scored_entropy(entropy)
    if not len(scored):
        return ()
    high, low = thresholds or _percentiles(scored, config)
    if high < low:
        raise ConfigurationError(f"thresholds=({high}, {low}): the high threshold is below the low one")
    starts = np.flatnonzero((scored >= high) & (scored > low))
    if not len(starts):
        return ()
    ends = _phase_ends(scored <= low, config.consecutive_low)
    end_of_start = np.append(ends, len(scored))[np.searchsorted(ends, starts)]
    first = np.flatnonzero(np.diff(end_of_start, prepend=-1))  # later candidates lie inside an open phase
    return tuple(
        Phase(int(start), int(end - start)) for start, end in zip(starts[first], end_of_start[first], strict=True)
    )


def scored_entropy(entropy: ArrayLike) -> FloatArray:
    """The entropies of the scored tokens, shape `(L,)`.

    Raises:
        LogprobsMalformedError: On a negative or infinite entropy, or another shape than `(T,)`.
    """
    values = np.asarray(entropy, dtype=np.float64)
    if values.ndim != 1:
        raise LogprobsMalformedError(f"entropy has shape {values.shape}; expected (tokens,)")
    scored = values[~np.isnan(values)]
    if len(scored) and (scored.min() < 0.0 or np.isinf(scored.max())):
        raise LogprobsMalformedError(
            f"entropies range from {scored.min():g} to {scored.max():g}; expected finite nats from 0"
        )
    return scored


def _percentiles(scored: FloatArray, config: PhaseConfig) -> tuple[float, float]:
    high, low = np.percentile(scored, (100.0 - config.top_percent, config.bottom_percent))
    return float(high), float(low)


def _phase_ends(low: NDArray[np.bool_], consecutive: int) -> NDArray[np.intp]:
    """Positions where `consecutive` low tokens in a row begin, ascending."""
    if len(low) < consecutive:
        return np.empty(0, np.intp)
    running = np.concatenate(([0], np.cumsum(low)))
    return np.flatnonzero(running[consecutive:] - running[:-consecutive] == consecutive)
