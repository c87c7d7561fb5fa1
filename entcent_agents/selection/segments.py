"""Selection by a part of the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from entcent_agents.errors import ConfigurationError
from entcent_agents.segments import SegmentKind
from entcent_agents.selection.chain import Chainable
from entcent_agents.selection.result import Selection, Selector
from entcent_agents.trajectory import Rollout


@dataclass(frozen=True, slots=True)
class OnSegments(Chainable):
    """Another selector that sees tokens of some kinds alone, say those of tool arguments.

    Attributes:
        selector: The selector.
        kinds: Which tokens count.

    Raises:
        ConfigurationError: Where no kind is given, or something else than kinds.
    """

    selector: Selector
    kinds: frozenset[SegmentKind]

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "kinds", frozenset(SegmentKind(kind) for kind in self.kinds))
        except (TypeError, ValueError):
            raise ConfigurationError(
                f"kinds={self.kinds!r} is no set of SegmentKind, say {{SegmentKind.ANSWER}}"
            ) from None
        if not self.kinds:
            raise ConfigurationError("kinds is empty: name at least one kind of segment")

    @property
    def name(self) -> str:
        """Its name in results."""
        return f"{self.selector.name}{self._suffix}"

    @property
    def _suffix(self) -> str:
        kinds = " and ".join(kind.name.lower().replace("_", " ") for kind in sorted(self.kinds))
        return f" over {kinds} tokens"

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """Choose as the selector does on what is left of the trajectories."""
        cut = [replace(rollout, trajectory=rollout.trajectory.only(self.kinds)) for rollout in rollouts]
        selection = self.selector.select(cut)
        steps = tuple(replace(step, selector=f"{step.selector}{self._suffix}") for step in selection.steps)
        return replace(selection, selector=f"{selection.selector}{self._suffix}", steps=steps)
