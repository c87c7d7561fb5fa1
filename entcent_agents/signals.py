"""Every intrinsic signal by name: which number it is, of which tokens, and whether low or high is good."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, cast, get_args

import numpy as np

from entcent_agents.centroid import centroid_from_starts, centroid_moment, centroid_raw
from entcent_agents.confidence import (
    DEFAULT_WINDOW,
    Window,
    bottom_confidence,
    lowest_group_confidence,
    mean_confidence,
    mean_logprob,
    peak_entropy,
    perplexity,
    self_certainty,
    sum_logprob,
    tail_confidence,
    tail_entropy,
)
from entcent_agents.entropy import FloatArray
from entcent_agents.errors import ConfigurationError
from entcent_agents.phases import PhaseConfig
from entcent_agents.trajectory import Column, Trajectory

SignalName = Literal[
    "centroid",
    "centroid_from_starts",
    "centroid_moment",
    "centroid_raw",
    "mean_entropy",
    "tail_entropy",
    "peak_entropy",
    "mean_logprob",
    "sum_logprob",
    "perplexity",
    "mean_confidence",
    "tail_confidence",
    "lowest_group_confidence",
    "bottom_confidence",
    "self_certainty",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalSettings:
    """What signals are measured with; trajectories compare only where it is the same.

    Attributes:
        phases: When high-entropy phases start and end.
        window: Of group and tail signals: tokens (int), or a share of the trajectory (float between 0 and 1).

    Raises:
        ConfigurationError: On a window that is neither.
    """

    phases: PhaseConfig = field(default_factory=PhaseConfig)
    window: Window = DEFAULT_WINDOW

    def __post_init__(self) -> None:
        tail_entropy((), self.window)  # refuses what is no window


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One number of a trajectory.

    Attributes:
        label: What people call it.
        best: Whether the lowest or the highest is the best.
        column: The quantity of the tokens that it is taken from.
        value: Measures it; None where there is none.
        weights: Makes votes of the values of several trajectories, shape `(N,)`, none negative; None where no weight
            is known to follow from it.
    """

    label: str
    best: Literal["lowest", "highest"]
    column: Column
    value: Callable[[Trajectory, SignalSettings], float | None]
    weights: Callable[[FloatArray], FloatArray] | None


def _falling(values: FloatArray) -> FloatArray:
    return np.exp(-values)


def _rest(values: FloatArray) -> FloatArray:
    return 1.0 - values


def _itself(values: FloatArray) -> FloatArray:
    return np.maximum(values, 0.0)


def _likelihood(values: FloatArray) -> FloatArray:
    return np.exp(values - values.max())  # relative to the likeliest: long trajectories would all underflow to 0


def _self_certainty(trajectory: Trajectory, _: SignalSettings) -> float | None:
    top_k = trajectory.top_k
    return self_certainty(trajectory.column("confidence"), top_k) if top_k else None


def _signal(
    label: str,
    best: Literal["lowest", "highest"],
    column: Column,
    value: Callable[[FloatArray, SignalSettings], float | None],
    weights: Callable[[FloatArray], FloatArray] | None,
) -> Signal:
    return Signal(
        label=label,
        best=best,
        column=column,
        value=lambda trajectory, settings: value(trajectory.column(column), settings),
        weights=weights,
    )


SIGNALS: Final[Mapping[SignalName, Signal]] = MappingProxyType(
    {
        "centroid": Signal(
            label="centroid",
            best="lowest",
            column="entropy",
            value=lambda trajectory, s: trajectory.centroid(s.phases),
            weights=_rest,
        ),
        "centroid_from_starts": _signal(
            "centroid from starts", "lowest", "entropy", lambda h, s: centroid_from_starts(h, s.phases), _rest
        ),
        "centroid_moment": _signal(
            "centroid moment", "lowest", "entropy", lambda h, s: centroid_moment(h, s.phases), None
        ),
        "centroid_raw": _signal("raw-entropy centroid", "lowest", "entropy", lambda h, _: centroid_raw(h), _rest),
        "mean_entropy": Signal(
            label="mean entropy",
            best="lowest",
            column="entropy",
            value=lambda trajectory, _: trajectory.mean_entropy,
            weights=_falling,
        ),
        "tail_entropy": _signal("tail entropy", "lowest", "entropy", lambda h, s: tail_entropy(h, s.window), _falling),
        "peak_entropy": _signal("peak entropy", "lowest", "entropy", lambda h, _: peak_entropy(h), _falling),
        "mean_logprob": _signal(
            "mean log-probability", "highest", "logprob", lambda logprob, _: mean_logprob(logprob), np.exp
        ),
        "sum_logprob": _signal(
            "log-probability", "highest", "logprob", lambda logprob, _: sum_logprob(logprob), _likelihood
        ),
        "perplexity": _signal("perplexity", "lowest", "logprob", lambda logprob, _: perplexity(logprob), np.reciprocal),
        "mean_confidence": _signal(
            "mean confidence", "highest", "confidence", lambda c, _: mean_confidence(c), _itself
        ),
        "tail_confidence": _signal(
            "tail confidence", "highest", "confidence", lambda c, s: tail_confidence(c, s.window), _itself
        ),
        "lowest_group_confidence": _signal(
            "lowest group confidence",
            "highest",
            "confidence",
            lambda c, s: lowest_group_confidence(c, s.window),
            _itself,
        ),
        "bottom_confidence": _signal(
            "bottom-10 % confidence", "highest", "confidence", lambda c, s: bottom_confidence(c, s.window), _itself
        ),
        "self_certainty": Signal(
            label="self-certainty (top-k)",
            best="highest",
            column="confidence",
            value=_self_certainty,
            weights=_itself,
        ),
    }
)


def signal_value(trajectory: Trajectory, name: SignalName, settings: SignalSettings | None = None) -> float | None:
    """One signal of one trajectory; None where it has none. Worked out once for each trajectory and setting.

    Raises:
        ConfigurationError: On a signal that does not exist.
    """
    settings = settings or SignalSettings()
    return trajectory.remember((name, settings), lambda: _finite(signal_named(name).value(trajectory, settings)))


def signal_table(
    trajectories: Sequence[Trajectory],
    names: Sequence[SignalName] = get_args(SignalName),
    settings: SignalSettings | None = None,
) -> dict[SignalName, FloatArray]:
    """Signals of N trajectories of any lengths.

    Args:
        trajectories: N of them.
        names: Which signals; default: all.
        settings: What they are measured with.

    Returns:
        For each name an array of shape `(N,)`; NaN where a trajectory has no such value.

    Raises:
        ConfigurationError: On a signal that does not exist.
    """
    return {
        name: np.array(
            [_or_nan(signal_value(trajectory, name, settings)) for trajectory in trajectories], dtype=np.float64
        )
        for name in names
    }


def signal_named(name: str) -> Signal:
    """The signal of this name.

    Raises:
        ConfigurationError: Where there is none.
    """
    known = cast("Mapping[str, Signal]", SIGNALS)
    if name not in known:
        raise ConfigurationError(f"no signal is called {name!r}: choose one of {', '.join(SIGNALS)}")
    return known[name]


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
