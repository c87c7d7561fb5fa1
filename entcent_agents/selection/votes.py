"""Votes: the rollouts that came to the same outcome stand together.

An outcome is a rollout's `vote_key`: what it changed in its environments, else its tool calls or its answer, in
canonical form. No vote elects anybody where no two rollouts came to the same outcome: it abstains.

Rollouts that branched have a share of a vote each (`branch_shares`), which their weights are multiplied by.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from entcent_agents.errors import ConfigurationError
from entcent_agents.selection.chain import Chainable
from entcent_agents.selection.intrinsic import BySignal, LowestMeanEntropy, require_by_signal
from entcent_agents.selection.ranking import Value, rank
from entcent_agents.selection.result import Selection
from entcent_agents.selection.shares import branch_shares
from entcent_agents.selection.validity import of_one_k
from entcent_agents.trajectory import Rollout

_NO_OUTCOME = "no outcome to vote for"


@dataclass(frozen=True, slots=True)
class MajorityVote(Chainable):
    """The most common outcome (self-consistency, arXiv 2203.11171); all rollouts that came to it are tied.

    Example:
        >>> from entcent_agents import MajorityVote
        >>> from entcent_agents.testing import scripted_rollouts
        >>> rollouts = scripted_rollouts([0.1], [0.2], [0.9], outcomes=["Adelie", "Gentoo", "Gentoo"])
        >>> MajorityVote().select(rollouts).tied
        (1, 2)
    """

    @property
    def name(self) -> str:
        """Its name in results."""
        return "majority vote"

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """Choose from the outcome with the most votes."""
        return _elect(self.name, rollouts, {rollout.index: 1.0 for rollout in rollouts})


@dataclass(frozen=True, slots=True)
class WeightedVote(Chainable):
    """The outcome with the most weight: each rollout votes with a weight that follows from a signal.

    The weight is 1 - centroid, exp(-entropy), the confidence itself, or the sequence's probability relative to the
    likeliest of the voters (`Signal.weights`). Rollouts below the floors of `by` have no vote.

    Attributes:
        by: The signal and its floors; its quorum does not count here.

    Raises:
        ConfigurationError: On a signal that no weight follows from (the centroid moment).

    Example:
        >>> from entcent_agents import WeightedVote
        >>> from entcent_agents.testing import scripted_rollouts
        >>> rollouts = scripted_rollouts([0.1], [2.0], [2.0], outcomes=["Adelie", "Gentoo", "Gentoo"])
        >>> WeightedVote().select(rollouts).winner  # exp(-0.1) is more than twice exp(-2)
        0
    """

    by: BySignal = field(default_factory=LowestMeanEntropy)

    def __post_init__(self) -> None:
        require_by_signal(self.by)
        if self.by.measured.weights is None:
            raise ConfigurationError(f"signal {self.by.signal!r} has no upper end, so that no weight follows from it")

    @property
    def name(self) -> str:
        """Its name in results."""
        return f"vote weighted by {self.by.measured.label}"

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """Choose from the outcome with the most weight."""
        values = {rollout.index: _vote_of(rollout, self.by) for rollout in rollouts}
        numbers = {index: value for index, value in values.items() if not isinstance(value, str)}
        weigh = self.by.measured.weights
        assert weigh is not None
        if numbers:
            weights = weigh(np.fromiter(numbers.values(), np.float64, len(numbers)))
            values.update(zip(numbers, weights.tolist(), strict=True))
        return of_one_k(_elect(self.name, rollouts, values), rollouts, self.by.measured.column)


@dataclass(frozen=True, slots=True)
class BordaVote(Chainable):
    """A vote weighted by rank: (N - r + 1)^power for rank r of N valid rollouts (arXiv 2502.18581).

    Rollouts with equal values share their places: each has the mean of the weights.

    Attributes:
        by: The signal that ranks, with its floors.
        power: 0 is the majority vote; the higher, the more the best ranks count.

    Raises:
        ConfigurationError: On a negative power.
    """

    by: BySignal = field(default_factory=lambda: BySignal("self_certainty"))
    power: float = 0.5

    def __post_init__(self) -> None:
        require_by_signal(self.by)
        if not self.power >= 0.0:
            raise ConfigurationError(f"power={self.power} must be at least 0")

    @property
    def name(self) -> str:
        """Its name in results."""
        return f"Borda vote by {self.by.measured.label}"

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """Choose from the outcome with the most rank weight."""
        weights = {rollout.index: _vote_of(rollout, self.by) for rollout in rollouts}
        numbers = {index: value for index, value in weights.items() if not isinstance(value, str)}
        voters = [numbers[each.index] for each in rollouts if each.index in numbers for _ in range(each.votes)]
        best_first = sorted(voters, reverse=self.by.measured.best == "highest")
        places = len(voters) - np.arange(len(voters), dtype=np.float64)  # N - r + 1
        for value in set(best_first):  # equal values share the places they take together
            tied = slice(best_first.index(value), best_first.index(value) + best_first.count(value))
            weight = float(np.mean(places[tied] ** self.power))
            weights.update({index: weight for index, found in numbers.items() if found == value})
        return of_one_k(_elect(self.name, rollouts, weights), rollouts, self.by.measured.column)


def _vote_of(rollout: Rollout, by: BySignal) -> Value:
    """What a rollout's weight is taken from, or why it has no vote; who has none weighs on nobody."""
    return _NO_OUTCOME if rollout.vote_key is None else by.value_of(rollout)


def _elect(name: str, rollouts: Sequence[Rollout], weights: Mapping[int, Value]) -> Selection:
    """The outcome with the most weight; a rollout whose weight is a reason has no vote and cannot win."""
    shares = branch_shares(rollouts)
    found: defaultdict[str, list[float]] = defaultdict(list)
    for rollout in rollouts:
        weight = weights[rollout.index]
        if rollout.vote_key is not None and not isinstance(weight, str):
            found[rollout.vote_key] += [weight * shares[rollout.index]] * rollout.votes
    cast = sum(rollout.votes for rollout in rollouts)
    votes = {key: math.fsum(weights) for key, weights in found.items()}  # exact: the order must not break ties

    def value(rollout: Rollout) -> Value:
        weight = weights[rollout.index]
        if rollout.vote_key is None:
            return _NO_OUTCOME
        return weight if isinstance(weight, str) else votes[rollout.vote_key]

    selection = rank(name, rollouts, value, best="highest")
    if selection.winner is None:
        return selection
    if max(map(len, found.values())) == 1 and cast > 1:
        return replace(selection, winner=None, tied=(), reason="no two rollouts came to the same outcome")
    key = next(rollout.vote_key for rollout in rollouts if rollout.index == selection.winner) or ""
    if not votes[key]:
        return replace(selection, winner=None, tied=(), reason="every vote weighs 0")
    why = f"{len(found[key])} of {cast} rollouts came to this outcome (weight {votes[key]:.3g})"
    drawn = sum(weight == votes[key] for weight in votes.values()) - 1
    return replace(selection, reason=f"{why}, and as many to {drawn} other" if drawn else why)
