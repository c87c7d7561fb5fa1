"""Consensus in entropy space: the rollout whose entropy profile is closest to that of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from entcent_agents.entropy import FloatArray
from entcent_agents.errors import ConfigurationError
from entcent_agents.selection.chain import Chainable
from entcent_agents.selection.ranking import rank
from entcent_agents.selection.result import Selection
from entcent_agents.selection.validity import MIN_COVERAGE, of_one_k, why_uncovered
from entcent_agents.trajectory import Rollout, Trajectory

LEAST: Final = 3
"""Two profiles are equally far from their mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyConsensus(Chainable):
    """Resamples each trajectory's entropies to one length; the closest to the mean profile wins.

    The distance is the root mean square over the profile, in nats. Source: a reading of the method that a summary of
    arXiv 2604.26173 describes; the paper itself has no formula for it.

    Attributes:
        points: Length of the profiles; each point is the mean entropy of an equal part of the trajectory. A
            trajectory of fewer scored tokens has no profile.
        min_coverage: Floor of scored over generated tokens, in [0, 1].

    Raises:
        ConfigurationError: On fewer than two points.
    """

    points: int = 64
    min_coverage: float = MIN_COVERAGE

    def __post_init__(self) -> None:
        if self.points < 2:
            raise ConfigurationError(f"points={self.points}: a profile has at least 2")

    @property
    def name(self) -> str:
        """Its name in results."""
        return "entropy consensus"

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """Choose the closest to the mean profile."""
        why = {one.index: self._why_not(one) for one in rollouts}
        profiles = {one.index: _profile(one.trajectory, self.points) for one in rollouts if not why[one.index]}
        mean = np.mean(list(profiles.values()), axis=0) if profiles else np.zeros(self.points)
        # Rounded, so that distances which are equal but for the order of arithmetic tie.
        distance = {
            index: round(float(np.sqrt(np.mean((profile - mean) ** 2))), 12) for index, profile in profiles.items()
        }
        selection = rank(
            self.name,
            rollouts,
            lambda rollout: why[rollout.index] or distance[rollout.index],
            what="distance to the mean profile",
        )
        if selection.winner is not None and len(profiles) < LEAST:
            why_few = f"{len(profiles)} profiles are no consensus, {LEAST} are needed"
            return replace(selection, winner=None, tied=(), reason=why_few)
        return of_one_k(selection, rollouts)

    def _why_not(self, rollout: Rollout) -> str:
        uncovered = why_uncovered(rollout.trajectory, "entropy", self.min_coverage)
        tokens = rollout.trajectory.scored_tokens
        return uncovered or (f"{tokens} scored tokens below {self.points}" if tokens < self.points else "")


def _profile(trajectory: Trajectory, points: int) -> FloatArray:
    return trajectory.remember(("profile", points), lambda: entropy_profile(trajectory.entropy, points))


def entropy_profile(entropy: FloatArray, points: int) -> FloatArray:
    """Mean entropy of each of `points` equal parts of a trajectory, nats, shape `(points,)`; parts may cut tokens."""
    area = np.concatenate(([0.0], np.cumsum(entropy)))
    edges = np.linspace(0.0, len(entropy), points + 1)
    return np.diff(np.interp(edges, np.arange(len(area)), area)) * (points / len(entropy))
