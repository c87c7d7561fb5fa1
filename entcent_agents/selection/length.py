"""Selection where trajectories are long enough for it, judged once for all rollouts of a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from entcent_agents.errors import ConfigurationError
from entcent_agents.selection.chain import Chainable
from entcent_agents.selection.ranking import rank
from entcent_agents.selection.result import Selection, Selector
from entcent_agents.trajectory import Rollout


@dataclass(frozen=True, slots=True)
class WhereLong(Chainable):
    """Another selector, which abstains where the median rollout is short.

    A floor of `BySignal` drops rollouts one by one: in a vote those that happen to be long would be the only voters.
    This one takes all rollouts or none. `WhereLong(centroid_vote, min_scored_tokens=200).then(likelihood_vote)` votes
    one way on long trajectories and another on short ones.

    Attributes:
        selector: Who chooses from long ones.
        min_scored_tokens: Floor of the median rollout's scored tokens.

    Raises:
        ConfigurationError: On a negative floor.
    """

    selector: Selector
    min_scored_tokens: int = field(default=200, kw_only=True)

    def __post_init__(self) -> None:
        if self.min_scored_tokens < 0:
            raise ConfigurationError(f"min_scored_tokens={self.min_scored_tokens} must be at least 0")

    @property
    def name(self) -> str:
        """Its name in results."""
        return f"{self.selector.name}{self._suffix}"

    @property
    def _suffix(self) -> str:
        return f" from {self.min_scored_tokens} tokens"

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """Choose as the selector does, or abstain for all."""
        tokens = median([rollout.trajectory.scored_tokens for rollout in rollouts]) if rollouts else 0
        if tokens < self.min_scored_tokens:
            why = f"the median rollout has {tokens:g} scored tokens, below {self.min_scored_tokens}"
            return rank(self.name, rollouts, lambda _: why)
        selection = self.selector.select(rollouts)
        steps = tuple(replace(step, selector=f"{step.selector}{self._suffix}") for step in selection.steps)
        return replace(selection, selector=f"{selection.selector}{self._suffix}", steps=steps)
