"""Selection by one intrinsic signal of each rollout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from entcent_agents.errors import ConfigurationError
from entcent_agents.selection.chain import Chainable
from entcent_agents.selection.ranking import Value, rank
from entcent_agents.selection.result import Selection
from entcent_agents.selection.validity import MIN_COVERAGE, of_one_k, why_uncovered
from entcent_agents.signals import Signal, SignalName, SignalSettings, signal_named, signal_value
from entcent_agents.trajectory import Rollout, Trajectory


@dataclass(frozen=True, slots=True)
class BySignal(Chainable):
    """The lowest or the highest of one signal, whichever is good.

    Below any of its floors a rollout has no value and cannot win; with too few valid rollouts the selector abstains.
    The signals, their formulas and sources are in docs/mathematics.md; `entcent_agents.signals.SIGNALS` lists them.

    Attributes:
        signal: Which one.
        min_scored_tokens: Floor of tokens that carry the signal's quantity. 0: rank whatever has the coverage, without
            quorum and whatever the k.
        min_phases: Floor of high-entropy phases.
        min_coverage: Floor of tokens that carry the signal's quantity over generated tokens, in [0, 1].
        quorum: Share of the rollouts that must be valid, in [0, 1]; where it is above 0, two at least (of several).
        settings: What the signal is measured with.

    Raises:
        ConfigurationError: On a signal that does not exist, or a floor out of its range.
    """

    signal: SignalName
    min_scored_tokens: int = field(default=1, kw_only=True)
    min_phases: int = field(default=0, kw_only=True)
    min_coverage: float = field(default=MIN_COVERAGE, kw_only=True)
    quorum: float = field(default=0.0, kw_only=True)
    settings: SignalSettings = field(default_factory=SignalSettings, kw_only=True)

    def __post_init__(self) -> None:
        signal_named(self.signal)
        for name in ("min_coverage", "quorum"):
            share = getattr(self, name)
            if not 0.0 <= share <= 1.0:
                raise ConfigurationError(f"{name}={share} is not a share between 0 and 1")
        for name in ("min_scored_tokens", "min_phases"):
            floor = getattr(self, name)
            if floor < 0:
                raise ConfigurationError(f"{name}={floor} must be at least 0")

    @property
    def measured(self) -> Signal:
        """The signal itself."""
        return signal_named(self.signal)

    @property
    def name(self) -> str:
        """Its name in results."""
        return f"{self.measured.best} {self.measured.label}"

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """Choose the best among the valid rollouts."""
        selection = rank(self.name, rollouts, self.value_of, what=self.measured.label, best=self.measured.best)
        if not self.min_scored_tokens:
            return selection
        valid = sum(candidate.rank is not None for candidate in selection.candidates)
        needed = min(len(rollouts), max(2, math.ceil(len(rollouts) * self.quorum))) if self.quorum else 0
        if valid < needed:
            why = f"{valid} of {len(rollouts)} rollouts are within its validity, {needed} are needed"
            missing = next((candidate.reason for candidate in selection.candidates if not candidate.rank), "")
            return replace(selection, winner=None, tied=(), reason=f"{why} ({missing})")
        return of_one_k(selection, rollouts, self.measured.column)

    def value_of(self, rollout: Rollout) -> Value:
        """The signal of one rollout, or in words which floor it is below."""
        trajectory = rollout.trajectory
        return trajectory.remember(self, lambda: self._value_of(trajectory))

    def _value_of(self, trajectory: Trajectory) -> Value:
        uncovered = why_uncovered(trajectory, self.measured.column, self.min_coverage)
        if uncovered:
            return uncovered
        tokens = len(trajectory.column(self.measured.column))
        if tokens < self.min_scored_tokens:
            return f"{tokens} scored tokens below {self.min_scored_tokens}"
        if self.min_phases and self.min_scored_tokens:
            phases = trajectory.phases(self.settings.phases)
            if phases < self.min_phases:
                return f"{phases} phases below {self.min_phases}"
        value = signal_value(trajectory, self.signal, self.settings)
        return f"no {self.measured.label}" if value is None else value


@dataclass(frozen=True, slots=True)
class LowestCentroid(BySignal):
    """The lowest entropy centroid (arXiv 2604.26173).

    On short trajectories mean entropy ranked better (docs/validity.md), so below its floors and its quorum it abstains;
    they are those of the default chain. `LowestCentroid(min_scored_tokens=0)` ranks whatever has a centroid and the
    coverage.

    Example:
        >>> from entcent_agents import LowestCentroid
        >>> from entcent_agents.testing import scripted_rollouts
        >>> late, early = [0.1] * 180 + [2.0] * 20, [2.0] * 20 + [0.1] * 180
        >>> LowestCentroid(min_phases=1).select(scripted_rollouts(late, early)).reason
        'centroid 0.05 is the lowest of 2'
    """

    signal: SignalName = field(default="centroid", kw_only=True)
    min_scored_tokens: int = field(default=100, kw_only=True)
    min_phases: int = field(default=2, kw_only=True)
    quorum: float = field(default=0.5, kw_only=True)


@dataclass(frozen=True, slots=True)
class LowestMeanEntropy(BySignal):
    """The lowest mean token entropy, among rollouts with enough coverage.

    Example:
        >>> from entcent_agents import LowestMeanEntropy
        >>> from entcent_agents.testing import scripted_rollouts
        >>> LowestMeanEntropy().select(scripted_rollouts([0.9, 0.7], [0.2, 0.4])).reason
        'mean entropy 0.3 is the lowest of 2'
    """

    signal: SignalName = field(default="mean_entropy", kw_only=True)


def require_by_signal(by: object) -> None:
    """Refuse what is no `BySignal`.

    Raises:
        ConfigurationError: With the form that works.
    """
    if not isinstance(by, BySignal):
        raise ConfigurationError(f'by={by!r} is no BySignal: pass BySignal("mean_entropy"), or another signal')


@dataclass(frozen=True, slots=True)
class Keep(Chainable):
    """A filter for chains: the best share of the rollouts by one signal are left tied, and the next selector chooses.

    `Keep(LowestMeanEntropy(), share=0.5).then(LowestCentroid())`; on its own it chooses as `by` does. DeepConf's
    filtered vote (arXiv 2508.15260) is `Keep(confidence, share=0.9).then(WeightedVote(confidence))`.

    Attributes:
        by: The signal and its floors; rollouts below them are dropped.
        share: How much of the valid rollouts stays, in (0, 1]: rounded to whole rollouts, at least one.

    Raises:
        ConfigurationError: On a share out of its range.
    """

    by: BySignal
    share: float = 0.5

    def __post_init__(self) -> None:
        require_by_signal(self.by)
        if not 0.0 < self.share <= 1.0:
            raise ConfigurationError(f"share={self.share} is not above 0 and at most 1")

    @property
    def name(self) -> str:
        """Its name in results."""
        return f"best {self.share:.0%} by {self.by.measured.label}"

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """Keep the best share; ties at its edge go as in every ranking."""
        selection = replace(self.by.select(rollouts), selector=self.name)
        if selection.winner is None:
            return selection
        ranked = sorted(
            (candidate for candidate in selection.candidates if candidate.rank), key=lambda one: one.rank or 0
        )
        kept = ranked[: max(1, math.floor(len(ranked) * self.share + 0.5))]
        return replace(
            selection,
            reason=f"{len(kept)} of {len(ranked)} stay by {self.by.measured.label}",
            tied=tuple(candidate.rollout for candidate in kept),
        )
