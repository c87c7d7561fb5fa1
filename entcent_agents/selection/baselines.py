"""What every comparison needs beside it: first, random, shortest, longest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import numpy as np

from entcent_agents.selection.chain import Chainable
from entcent_agents.selection.ranking import rank
from entcent_agents.selection.result import Candidate, Selection
from entcent_agents.trajectory import Rollout


@dataclass(frozen=True, slots=True)
class First(Chainable):
    """The first rollout: what one would have had without this library."""

    @property
    def name(self) -> str:
        """Its name in results."""
        return "first"

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """Choose the first."""
        return _placed(self.name, rollouts, range(len(rollouts)), "the first to stand")


@dataclass(frozen=True, slots=True)
class RandomChoice(Chainable):
    """One of the rollouts, at random; the same one for the same rollouts.

    Attributes:
        seed: Another seed, another choice.
    """

    seed: int = 0

    @property
    def name(self) -> str:
        """Its name in results."""
        return "random"

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """Choose by the seed and the rollouts' threads."""
        threads = repr([rollout.thread_id for rollout in rollouts]).encode()
        drawn = np.random.default_rng([self.seed, int.from_bytes(blake2b(threads, digest_size=8).digest(), "big")])
        return _placed(self.name, rollouts, drawn.permutation(len(rollouts)).tolist(), f"drawn with seed {self.seed}")


@dataclass(frozen=True, slots=True)
class Shortest(Chainable):
    """The rollout that generated the fewest tokens."""

    @property
    def name(self) -> str:
        """Its name in results."""
        return "shortest"

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """Choose by generated tokens."""
        return _by_length(self.name, rollouts, "lowest")


@dataclass(frozen=True, slots=True)
class Longest(Chainable):
    """The rollout that generated the most tokens."""

    @property
    def name(self) -> str:
        """Its name in results."""
        return "longest"

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """Choose by generated tokens."""
        return _by_length(self.name, rollouts, "highest")


def _by_length(name: str, rollouts: Sequence[Rollout], best: Literal["lowest", "highest"]) -> Selection:
    return rank(
        name,
        rollouts,
        lambda rollout: float(rollout.trajectory.generated_tokens) or "no tokens",
        what="number of generated tokens",
        best=best,
    )


def _placed(name: str, rollouts: Sequence[Rollout], places: Sequence[int], reason: str) -> Selection:
    """Each rollout at its place, from 0; nobody ties."""
    candidates = tuple(
        Candidate(rollout=rollout.index, value=float(place), rank=place + 1)
        for rollout, place in zip(rollouts, places, strict=True)
    )
    winner = next((candidate.rollout for candidate in candidates if candidate.rank == 1), None)
    if winner is None:
        return Selection(winner=None, selector=name, reason="no rollouts")
    return Selection(winner=winner, selector=name, reason=reason, candidates=candidates, tied=(winner,))
