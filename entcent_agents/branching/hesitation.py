"""How uncertain a model was in some tasks: the entropies of all its tokens, and of those that decide something."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from entcent_agents.branching.calibration import Calibration
from entcent_agents.branching.decisions import decision_tokens
from entcent_agents.branching.policy import DECISIONS, BranchPolicy
from entcent_agents.entropy import FloatArray
from entcent_agents.errors import ConfigurationError
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.phases import PhaseConfig, percentile
from entcent_agents.trajectory import Decision, Trajectory

_PLACES: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Hesitation:
    """What some trajectories of one model tell; tokens that a branch shares with its parent count once, there.

    Attributes:
        top_k: The k behind the entropies.
        tasks: How many tasks there were.
        rollouts: How many trajectories.
        entropy: Nats of all scored tokens, shape `(L,)`.
        decided: Nats of the scored tokens that decide something, by what they decide.
        peaks: The highest in each turn of those that leave an alternative as probable as `BranchPolicy` asks for by
            default, nats, shape `(turns, decisions)`; minus infinity where it has none.
        rollout: Which trajectory each turn is of, from 0, shape `(turns,)`.
    """

    top_k: int
    tasks: int
    rollouts: int
    entropy: FloatArray
    decided: Mapping[Decision, FloatArray]
    peaks: FloatArray
    rollout: NDArray[np.intp]

    @property
    def turns(self) -> int:
        """How many turns have scored tokens."""
        return len(self.peaks)

    def thresholds(self, percent: float) -> dict[Decision, float]:
        """This percentile of the entropies of decision tokens, nats; without decisions that no token is of."""
        return {decision: _up(percentile(values, percent)) for decision, values in self.decided.items() if len(values)}

    def branching(self, threshold: Mapping[Decision, float]) -> tuple[float, float]:
        """The share of turns, and of rollouts, that would branch, at most.

        Records say how probable a token was, and not what stood beside it: that may be several improbable ones.
        """
        bounds = np.array([threshold.get(decision, np.inf) for decision in DECISIONS])
        turns = (self.peaks > bounds).any(axis=1)
        return float(turns.mean()), len(np.unique(self.rollout[turns])) / self.rollouts

    def calibration(self, percent: float, phases: PhaseConfig, model: str | None = None) -> Calibration:
        """The thresholds to write down.

        Args:
            percent: Which percentile of the decision tokens' entropies.
            phases: Its shares are taken of the entropies of all tokens.
            model: Whose tokens they are.
        """
        high = _down(percentile(self.entropy, 100.0 - phases.top_percent))
        low = _up(percentile(self.entropy, phases.bottom_percent))
        return Calibration(
            model=model,
            top_k=self.top_k,
            tasks=self.tasks,
            turns=self.turns,
            tokens=len(self.entropy),
            percentile=percent,
            threshold=self.thresholds(percent),
            phases=replace(phases, thresholds=(max(high, low), low)),
        )


def hesitation(tasks: Iterable[Sequence[Trajectory]]) -> Hesitation:
    """Look through the trajectories of some tasks; what ended in the middle tells as much as what was finished.

    Raises:
        ConfigurationError: Where they have no scored tokens, or are of several k.
    """
    found = [(task, one) for task, trajectories in enumerate(tasks) for one in trajectories if one.scored_tokens]
    turns = [
        (rollout, _seen(turn.logprobs, turn.reused_tokens))
        for rollout, (_, trajectory) in enumerate(found)
        for turn in trajectory.turns
        if turn.logprobs and np.isfinite(turn.logprobs.entropy[turn.reused_tokens :]).any()
    ]
    if not turns:
        raise ConfigurationError("no token has log-probabilities: there is nothing to calibrate on")
    if len(ks := {turn.top_k for _, turn in turns}) > 1:
        raise ConfigurationError(
            f"tokens with top-k {' and '.join(map(str, sorted(ks)))}: their entropies do not compare; calibrate on each"
        )
    return Hesitation(
        top_k=ks.pop(),
        tasks=len({task for task, _ in found}),
        rollouts=len(found),
        entropy=np.concatenate([turn.entropy for _, turn in turns]),
        decided={each: np.concatenate([turn.decided[each] for _, turn in turns]) for each in DECISIONS},
        peaks=np.array([turn.peaks for _, turn in turns]),
        rollout=np.array([rollout for rollout, _ in turns]),
    )


class _Turn(NamedTuple):
    """What one turn adds."""

    top_k: int
    entropy: FloatArray
    decided: Mapping[Decision, FloatArray]
    peaks: list[float]


def _seen(logprobs: TokenLogprobs, reused: int) -> _Turn:
    entropy = logprobs.entropy.astype(np.float64)
    entropy[:reused] = np.nan
    unlikely = -np.expm1(logprobs.logprob) < BranchPolicy().min_probability  # whatever else stands there
    places: dict[Decision, list[int]] = {decision: [] for decision in DECISIONS}
    for token in decision_tokens(logprobs):
        places[token.decision].append(token.token)
    open_ = np.where(unlikely, np.nan, entropy)
    return _Turn(
        top_k=logprobs.top_k,
        entropy=_scored(entropy),
        decided={decision: _scored(entropy[tokens]) for decision, tokens in places.items()},
        peaks=[float(_scored(open_[tokens]).max(initial=-np.inf)) for tokens in places.values()],
    )


def _scored(entropy: FloatArray) -> FloatArray:
    return entropy[np.isfinite(entropy)]


def _up(nats: float) -> float:
    """To be read by people. Rounds of one prompt begin alike: rounded down, all such tokens would be above."""
    return math.ceil(nats * _PLACES) / _PLACES


def _down(nats: float) -> float:
    """The same for a threshold that tokens reach when they are equal to it."""
    return math.floor(nats * _PLACES) / _PLACES
