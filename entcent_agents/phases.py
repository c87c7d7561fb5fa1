"""High-entropy phases (HEPs): stretches of a trajectory where the model was uncertain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from entcent_agents.entropy import FloatArray
from entcent_agents.errors import ConfigurationError, LogprobsMalformedError

Thresholds: TypeAlias = tuple[float, float]
"""Fixed `(high, low)`, nats."""


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
        thresholds: Fixed `(high, low)` in nats, in the place of the shares: calibrated ones, say. Entropies of another
            model, server or top-k do not compare with them.

    Raises:
        ConfigurationError: When a share is no number from 0 to 100, both exceed 100 together, `consecutive_low` is no
            whole number from 1, or the thresholds are no finite numbers from 0, the high one first.

    Example:
        >>> from entcent_agents import PhaseConfig, high_entropy_phases
        >>> high_entropy_phases([0.1, 2.0, 1.5, 0.1, 0.1, 0.1], PhaseConfig(thresholds=(1.0, 0.2)))
        (Phase(start=1, length=2),)
    """

    top_percent: float = 1.0
    bottom_percent: float = 80.0
    consecutive_low: int = 2
    thresholds: Thresholds | None = None

    def __post_init__(self) -> None:
        for name in ("top_percent", "bottom_percent"):
            share = getattr(self, name)
            if isinstance(share, bool) or not isinstance(share, Real) or not 0.0 <= float(share) <= 100.0:
                raise ConfigurationError(f"{name}={share!r} is not a percentage between 0 and 100")
        if self.top_percent + self.bottom_percent > 100.0:
            raise ConfigurationError(
                f"top_percent={self.top_percent} and bottom_percent={self.bottom_percent} overlap: "
                "together they must not exceed 100"
            )
        low: object = self.consecutive_low
        if isinstance(low, bool) or not isinstance(low, Integral) or low < 1:
            raise ConfigurationError(f"consecutive_low={low!r} must be a whole number of tokens, at least 1")
        if self.thresholds is not None:
            high, low = self.thresholds
            if not 0.0 <= low <= high < math.inf:  # NaN too
                raise ConfigurationError(
                    f"thresholds={self.thresholds!r} must be (high, low) in nats, finite, with high at or above low"
                )

    def __str__(self) -> str:
        if self.thresholds is None:
            return f"top {self.top_percent:g} %, bottom {self.bottom_percent:g} %, {self.consecutive_low} in a row"
        high, low = self.thresholds
        return f"from {high:g} nats, until {self.consecutive_low} in a row have at most {low:g}"


def high_entropy_phases(
    entropy: ArrayLike,
    config: PhaseConfig | None = None,
    thresholds: Thresholds | None = None,
) -> tuple[Phase, ...]:
    """The high-entropy phases of one trajectory, in order.

    A phase starts at the first token with entropy at or above the high threshold (and above the low one); it ends
    before the first `consecutive_low` tokens in a row at or below the low threshold, or with the trajectory.

    Args:
        entropy: Nats, shape `(T,)`, all turns of the trajectory in order; NaN (unscored) tokens take no position.
        config: When phases start and end; default `PhaseConfig()`.
        thresholds: Fixed `(high, low)` in nats; default: those of `config`, else percentiles of this trajectory.

    Returns:
        Phases that do not overlap, by ascending start.

    Raises:
        LogprobsMalformedError: On a negative entropy or another shape.
        ConfigurationError: On a high threshold below the low one, or one that is NaN.

    Example:
        >>> from entcent_agents import high_entropy_phases
        >>> high_entropy_phases([0.1] * 4 + [2.0] * 2 + [0.1] * 94)
        (Phase(start=4, length=2),)

    Source: arXiv 2604.26173; see docs/mathematics.md.
    """
    starts, lengths = phase_spans(scored_entropy(entropy), config, thresholds)
    phase = partial(tuple[int, int].__new__, Phase)  # calling Phase itself takes as long as finding the phases
    return tuple(map(phase, zip(starts.tolist(), lengths.tolist(), strict=True)))


def phase_spans(
    scored: FloatArray, config: PhaseConfig | None, thresholds: Thresholds | None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Starts and lengths of the phases as two arrays, for entropies that `scored_entropy` has checked.

    Raises:
        ConfigurationError: As `high_entropy_phases`.
    """
    config = config or PhaseConfig()
    none = np.empty(0, np.intp)
    if not len(scored):
        return none, none
    high, low = thresholds or config.thresholds or _percentiles(scored, config)
    if not high >= low:  # NaN too
        raise ConfigurationError(f"thresholds=({high}, {low}): the high threshold is below the low one, or NaN")
    starts = np.flatnonzero(scored >= high if high > low else scored > low)
    if not len(starts):
        return none, none
    low_run = _runs(scored <= low, config.consecutive_low)
    begins = np.flatnonzero(low_run[1:] > low_run[:-1])  # the last token before; no start is in a low run itself
    end_of_start = np.append(begins + 1, len(scored))[np.searchsorted(begins, starts)]
    first = np.ones(len(starts), np.bool_)
    np.not_equal(end_of_start[1:], end_of_start[:-1], out=first[1:])  # later candidates lie inside an open phase
    return starts[first], end_of_start[first] - starts[first]


def scored_entropy(entropy: ArrayLike) -> FloatArray:
    """The entropies of the scored tokens, shape `(L,)`.

    Raises:
        LogprobsMalformedError: On a negative or infinite entropy, or another shape than `(T,)`.
    """
    return scored_values(entropy, "entropy", lowest=0.0)


def scored_values(values: ArrayLike, name: str, *, lowest: float = -math.inf, highest: float = math.inf) -> FloatArray:
    """The values of the tokens that have one, shape `(L,)`; not a copy where all have.

    Args:
        values: Nats, shape `(T,)`; NaN where a token has none.
        name: What errors call them.
        lowest: The least value there can be.
        highest: The greatest.

    Raises:
        LogprobsMalformedError: On an infinite value, one out of bounds, or another shape.
    """
    scored = np.asarray(values, dtype=np.float64)
    if scored.ndim != 1:
        raise LogprobsMalformedError(f"{name} has shape {scored.shape}; expected (tokens,)")
    least = scored.min(initial=math.inf)
    if math.isnan(least):
        scored = scored[~np.isnan(scored)]
        least = scored.min(initial=math.inf)
    if not len(scored):
        return scored
    greatest = scored.max()
    if least < lowest or greatest > highest or math.isinf(least) or math.isinf(greatest):
        bounds = "".join(
            f" {word} {bound:g}" for word, bound in (("from", lowest), ("to", highest)) if math.isfinite(bound)
        )
        raise LogprobsMalformedError(f"{name} ranges from {least:g} to {greatest:g}; expected finite nats{bounds}")
    return scored


def percentile(values: FloatArray, percent: float) -> float:
    """What `numpy.percentile` gives, to the bit, of one finite value or more.

    NumPy's selects several ranks at once, for which it has no vectorised selection: about ten times slower.
    """
    place = (len(values) - 1) * (percent / 100.0)
    rank = math.floor(place)
    ordered = np.partition(values, rank)
    below = float(ordered[rank])
    if rank == place:
        return below
    above, share = float(ordered[rank + 1 :].min()), place - rank
    return below + (above - below) * share if share < 0.5 else above - (above - below) * (1.0 - share)


def _percentiles(scored: FloatArray, config: PhaseConfig) -> Thresholds:
    low = percentile(scored, config.bottom_percent)
    return max(percentile(scored, 100.0 - config.top_percent), low), low  # shares of 100 together may round to cross


def _runs(low: NDArray[np.bool_], consecutive: int) -> NDArray[np.bool_]:
    """Where `consecutive` low tokens in a row begin, shape `(L - consecutive + 1,)`."""
    length = 1
    while length < consecutive:
        step = min(length, consecutive - length)
        low, length = low[:-step] & low[step:], length + step
    return low
