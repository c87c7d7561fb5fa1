"""Selectors: which of several rollouts to commit, and why.

A selector is anything with a `name` and a `select(rollouts) -> Selection`. One of your own, in five lines:

    class Shortest:
        name = "shortest"
        def select(self, rollouts: Sequence[Rollout]) -> Selection:
            return rank(self.name, rollouts, lambda rollout: rollout.trajectory.generated_tokens)
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Protocol

from entcent_agents.errors import LogprobsMissingError
from entcent_agents.phases import PhaseConfig
from entcent_agents.trajectory import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """How one rollout fared with the selector that decided.

    Attributes:
        rollout: Its index.
        value: What the selector compared; None where the rollout was outside the selector's validity.
        rank: 1 is best; None without a value.
        reason: Why it has no value; empty otherwise.
    """

    rollout: int
    value: float | None
    rank: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The result of selecting.

    Attributes:
        winner: Index of the rollout to commit; None where the selector abstained.
        selector: Name of the selector that decided, or abstained.
        reason: Why, in one sentence.
        candidates: Every rollout that was looked at, in their order.
        tied: Indices of rollouts that share the best value, the winner included.
        abstained: The selectors of a chain that abstained before, with their reasons.
    """

    winner: int | None
    selector: str
    reason: str
    candidates: tuple[Candidate, ...] = ()
    tied: tuple[int, ...] = ()
    abstained: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able form."""
        record = asdict(self)
        record["candidates"] = [asdict(candidate) for candidate in self.candidates]
        record["abstained"] = [{"selector": name, "reason": why} for name, why in self.abstained]
        record["tied"] = list(self.tied)
        return record


class Selector(Protocol):
    """Chooses among rollouts, or abstains."""

    @property
    def name(self) -> str:
        """Its name in results."""
        ...

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """Choose among at least one rollout; a `winner` of None is an abstention."""
        ...


MIN_COVERAGE: Final = 0.9
"""Scored over generated tokens: below it a trajectory has no intrinsic score."""
Value = float | str
"""A number to compare (low wins), or the reason why a rollout has none."""


def rank(
    name: str, rollouts: Sequence[Rollout], value: Callable[[Rollout], Value], *, what: str = "value"
) -> Selection:
    """Select the rollout with the lowest value; ties go to the lower mean entropy, then to the earlier one.

    Args:
        name: The selector's name.
        rollouts: The candidates.
        value: A number to compare, or in words why the rollout has none.
        what: What the number is, for the reason.
    """
    values = [_finite(value(rollout)) for rollout in rollouts]
    order = sorted(
        (i for i, found in enumerate(values) if not isinstance(found, str)),
        key=lambda i: (values[i], _mean_entropy_or_inf(rollouts[i]), i),
    )
    ranks = {i: position for position, i in enumerate(order, start=1)}
    candidates = tuple(
        Candidate(rollout=rollout.index, value=None, reason=found)
        if isinstance(found, str)
        else Candidate(rollout=rollout.index, value=float(found), rank=ranks[i])
        for i, (rollout, found) in enumerate(zip(rollouts, values, strict=True))
    )
    if not order:
        return Selection(
            winner=None,
            selector=name,
            reason=candidates[0].reason if candidates else "no rollouts",
            candidates=candidates,
        )
    best = order[0]
    return Selection(
        winner=rollouts[best].index,
        selector=name,
        reason=f"{what} {values[best]:.4g} is the lowest of {len(order)}",
        candidates=candidates,
        tied=tuple(rollouts[i].index for i in order if values[i] == values[best]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LowestCentroid:
    """The lowest entropy centroid (arXiv 2604.26173).

    A centroid over a few dozen tokens is noise, so a rollout below any floor has no value, and with fewer than half
    of the rollouts valid (or fewer than two, of several) the selector abstains.

    Attributes:
        min_scored_tokens: Floor of tokens with log-probabilities; 0 ranks whatever has the coverage.
        min_phases: Floor of high-entropy phases.
        min_coverage: Floor of scored over generated tokens, in [0, 1].
        config: When phases start and end.
    """

    min_scored_tokens: int = 200
    min_phases: int = 2
    min_coverage: float = MIN_COVERAGE
    config: PhaseConfig = field(default_factory=PhaseConfig)

    @property
    def name(self) -> str:
        """Its name in results."""
        return "lowest centroid"

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """Choose the lowest centroid among the valid rollouts."""
        selection = rank(self.name, rollouts, self._value, what="centroid")
        valid = {candidate.rollout for candidate in selection.candidates if candidate.rank}
        needed = min(len(rollouts), max(2, math.ceil(len(rollouts) / 2)))
        if len(valid) < needed and self.min_scored_tokens:
            why = f"{len(valid)} of {len(rollouts)} rollouts are within its validity, {needed} are needed"
            missing = next((candidate.reason for candidate in selection.candidates if not candidate.rank), "")
            return replace(selection, winner=None, tied=(), reason=f"{why} ({missing})")
        return selection if not self.min_scored_tokens else _of_one_k(selection, rollouts)

    def _value(self, rollout: Rollout) -> Value:
        trajectory = rollout.trajectory
        if not trajectory.scored_tokens:
            return "no log-probabilities"
        if trajectory.coverage < self.min_coverage:
            return f"coverage {trajectory.coverage:.2f} below {self.min_coverage:.2f}"
        if trajectory.scored_tokens < self.min_scored_tokens:
            return f"{trajectory.scored_tokens} scored tokens below {self.min_scored_tokens}"
        phases = trajectory.phases(self.config)
        if phases < self.min_phases and self.min_scored_tokens:
            return f"{phases} phases below {self.min_phases}"
        centroid = trajectory.centroid(self.config)
        return "no high-entropy phase" if centroid is None else centroid


@dataclass(frozen=True, slots=True, kw_only=True)
class LowestMeanEntropy:
    """The lowest mean token entropy, among rollouts with enough coverage.

    Attributes:
        min_coverage: Floor of scored over generated tokens, in [0, 1].
    """

    min_coverage: float = MIN_COVERAGE

    @property
    def name(self) -> str:
        """Its name in results."""
        return "lowest mean entropy"

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """Choose the lowest mean entropy among the covered rollouts."""
        return _of_one_k(rank(self.name, rollouts, self._value, what="mean entropy"), rollouts)

    def _value(self, rollout: Rollout) -> Value:
        return _covered_mean_entropy(rollout, self.min_coverage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """The most common outcome; within it the rollout of the lowest mean entropy.

    Abstains where no two rollouts came to the same outcome: a vote without agreement elects the first, not the best.

    Attributes:
        entropy_weighted: Weight a vote by exp(-mean entropy) instead of 1; rollouts below the coverage floor
            then have no vote.
        min_coverage: That floor: scored over generated tokens, in [0, 1].
    """

    entropy_weighted: bool = False
    min_coverage: float = MIN_COVERAGE

    @property
    def name(self) -> str:
        """Its name in results."""
        return "entropy-weighted vote" if self.entropy_weighted else "majority vote"

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """Choose from the outcome with the most votes."""
        weights = {rollout.index: self._weight(rollout) for rollout in rollouts}
        votes: defaultdict[str, float] = defaultdict(float)
        voters: defaultdict[str, int] = defaultdict(int)
        for rollout in rollouts:
            weight = weights[rollout.index]
            if rollout.vote_key is not None and not isinstance(weight, str):
                votes[rollout.vote_key] += weight
                voters[rollout.vote_key] += 1

        def value(rollout: Rollout) -> Value:
            weight = weights[rollout.index]
            if rollout.vote_key is None:
                return "no outcome to vote for"
            return weight if isinstance(weight, str) else -votes[rollout.vote_key]

        selection = rank(self.name, rollouts, value)
        if selection.winner is None:
            return selection
        if max(voters.values()) == 1 and len(rollouts) > 1:
            return replace(selection, winner=None, tied=(), reason="no two rollouts came to the same outcome")
        winner = next(rollout for rollout in rollouts if rollout.index == selection.winner)
        key = winner.vote_key or ""
        elected = replace(
            selection,
            reason=f"{voters[key]} of {len(rollouts)} rollouts came to this outcome (weight {votes[key]:.3g})",
        )
        return _of_one_k(elected, rollouts) if self.entropy_weighted else elected

    def _weight(self, rollout: Rollout) -> Value:
        if not self.entropy_weighted:
            return 1.0
        mean = _covered_mean_entropy(rollout, self.min_coverage)
        return mean if isinstance(mean, str) else math.exp(-mean)


@dataclass(frozen=True, slots=True, kw_only=True)
class First:
    """The first rollout: what one would have had without this library."""

    @property
    def name(self) -> str:
        """Its name in results."""
        return "first"

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """Choose the first."""
        first = rollouts[0].index
        candidates = tuple(
            Candidate(rollout=rollout.index, value=float(i), rank=i + 1) for i, rollout in enumerate(rollouts)
        )
        return Selection(
            winner=first, selector=self.name, reason="the first to stand", candidates=candidates, tied=(first,)
        )


@dataclass(frozen=True, slots=True)
class Chain:
    """Selectors asked in turn until one does not abstain.

    Attributes:
        selectors: In the order in which they are asked.
    """

    selectors: tuple[Selector, ...]

    @property
    def name(self) -> str:
        """Its name in results."""
        return ", else ".join(selector.name for selector in self.selectors)

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """Ask each; the result names the one that decided and those that abstained before it."""
        abstained: list[tuple[str, str]] = []
        selection = Selection(winner=None, selector=self.name, reason="the chain is empty")
        for selector in self.selectors:
            selection = selector.select(rollouts)
            abstained += selection.abstained  # of a chain in the chain
            if selection.winner is not None:
                break
            if not selection.abstained:
                abstained.append((selection.selector, selection.reason))
        return replace(selection, abstained=tuple(abstained))


def default_selector() -> Chain:
    """Lowest centroid where it means something, else entropy-weighted vote, else lowest mean entropy, else first."""
    return Chain((LowestCentroid(), Vote(entropy_weighted=True), LowestMeanEntropy(), First()))


def require_scorable(rollouts: Sequence[Rollout]) -> None:
    """Refuse to go on where no rollout carries a single log-probability.

    Raises:
        LogprobsMissingError: With the settings to change.
    """
    if not any(rollout.trajectory.scored_tokens for rollout in rollouts):
        raise LogprobsMissingError(
            f"none of {len(rollouts)} rollouts carries log-probabilities: ask the model for them "
            "(ChatLogprobs always does; ChatOpenAI needs logprobs=True, top_logprobs=10), use a server that gives "
            "them, or pass on_unscorable='fallback' to select without"
        )


def _finite(value: Value) -> Value:
    return value if isinstance(value, str) or math.isfinite(value) else f"its value is {value}"


def _of_one_k(selection: Selection, rollouts: Sequence[Rollout]) -> Selection:
    """The selection; an abstention where entropies of different top-k would have been compared."""
    valued = {candidate.rollout for candidate in selection.candidates if candidate.rank}
    found = {rollout.trajectory.top_k for rollout in rollouts if rollout.index in valued}
    if selection.winner is not None and (len(found) > 1 or 0 in found):
        return replace(selection, winner=None, tied=(), reason="turns differ in top-k: they do not compare")
    return selection


def _covered_mean_entropy(rollout: Rollout, floor: float) -> Value:
    mean = rollout.trajectory.mean_entropy
    if mean is None:
        return "no log-probabilities"
    if rollout.trajectory.coverage < floor:
        return f"coverage {rollout.trajectory.coverage:.2f} below {floor:.2f}"
    return mean


def _mean_entropy_or_inf(rollout: Rollout) -> float:
    mean = _covered_mean_entropy(rollout, MIN_COVERAGE)
    return math.inf if isinstance(mean, str) else mean
