"""What a selector is, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from entcent_agents.trajectory import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """How one rollout fared with a selector.

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

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able form."""
        return {"rollout": self.rollout, "value": self.value, "rank": self.rank, "reason": self.reason}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The result of selecting.

    Attributes:
        winner: Index of the rollout to commit; None where the selector abstained.
        selector: Name of the selector that decided, or abstained.
        reason: Why, in one sentence.
        candidates: Every rollout that was looked at, in their order.
        tied: Indices of rollouts that share the best value, best first, the winner included.
        steps: Of a chain: what each selector that was asked answered, in order.

    Example:
        >>> from entcent_agents import LowestMeanEntropy, Selection
        >>> from entcent_agents.testing import scripted_rollouts
        >>> selection: Selection = LowestMeanEntropy().select(scripted_rollouts([0.9], [0.2], []))
        >>> selection.winner, [candidate.rank for candidate in selection.candidates]
        (1, [2, 1, None])
        >>> selection.candidates[2].reason
        'no log-probabilities'
    """

    winner: int | None
    selector: str
    reason: str
    candidates: tuple[Candidate, ...] = ()
    tied: tuple[int, ...] = ()
    steps: tuple[Selection, ...] = ()

    @property
    def abstained(self) -> tuple[Selection, ...]:
        """The steps of a chain that abstained."""
        return tuple(step for step in self.steps if step.winner is None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able form."""
        return {
            "winner": self.winner,
            "selector": self.selector,
            "reason": self.reason,
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "tied": list(self.tied),
            "steps": [step.to_dict() for step in self.steps],
        }


class Selector(Protocol):
    """Chooses among rollouts, or abstains.

    Example:
        >>> from entcent_agents import Rollout, Selection, Selector, rank
        >>> from entcent_agents.testing import scripted_rollouts
        >>> class FewestTokens:
        ...     name = "fewest tokens"
        ...     def select(self, rollouts: list[Rollout]) -> Selection:
        ...         return rank(self.name, rollouts, lambda rollout: rollout.trajectory.generated_tokens)
        >>> selector: Selector = FewestTokens()  # pass it to EntropyCentroidSelector, or to the middleware
        >>> selector.select(scripted_rollouts([0.1] * 9, [0.1] * 4)).winner
        1
    """

    @property
    def name(self) -> str:
        """Its name in results."""
        ...

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """Choose among at least one rollout; a `winner` of None is an abstention."""
        ...
