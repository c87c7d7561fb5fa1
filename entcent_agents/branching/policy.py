"""When a decision is open enough to branch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, get_args

from entcent_agents.branching.calibration import Calibration
from entcent_agents.branching.checks import check_count, check_number
from entcent_agents.errors import ConfigurationError
from entcent_agents.trajectory import Decision

DECISIONS: Final[tuple[Decision, ...]] = get_args(Decision)
DEFAULT_THRESHOLD: Final = 0.5
"""Nats: the entropy of a choice between two tokens of 80 and 20 percent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchPolicy:
    """When a rollout branches at a token that decides something, and how often.

    Attributes:
        threshold: A token branches where its entropy is above it, nats; or one for each of `decisions`. Entropies of
            another model, server or top-k do not compare with it: calibrate.
        percentile: From 0 to 100: the entropy has to be above this percentile, too, of those of all decision tokens
            that the request has had so far, this turn included. None: `threshold` alone counts.
        min_seen: How many decision tokens `percentile` needs; nothing branches before.
        decisions: Where rollouts branch; the other tokens are not looked at.
        min_probability: The least probability of the alternative, in (0, 1].
        habit_penalty: Nats added to both bounds for each branch that the rollout has made in this turn, and
            `habit_decay` times as much for each in the turn before, and so on; so early decisions do not use up all
            branches. A branch inherits what was added for its parent.
        habit_decay: From 0 to 1.
        max_per_turn: Branches of one turn.
        max_per_rollout: Branches of one rollout, those of its branches not counted.
        after_tool: A turn after a tool's result branches also where its first 20 tokens are that much less certain
            than those of the rollout's first turn: the difference of their mean entropies over ln(top_k), in [-1, 1].
            It branches at its decision token of the highest entropy, whatever the threshold. None: it does not.

    Raises:
        ConfigurationError: On a number that is out of its range, or no number; on no decisions, unknown ones, or one
            without a threshold.

    Source: arXiv 2510.11170 (threshold and running percentile), 2507.19849 (after tools), 2510.14545 (penalty); see
    docs/mathematics.md.
    """

    threshold: float | Mapping[Decision, float] = DEFAULT_THRESHOLD
    percentile: float | None = None
    min_seen: int = 20
    decisions: Collection[Decision] = DECISIONS
    min_probability: float = 0.05
    habit_penalty: float = 0.0
    habit_decay: float = 0.5
    max_per_turn: int = 2
    max_per_rollout: int = 4
    after_tool: float | None = None

    def __post_init__(self) -> None:
        decisions = frozenset(self.decisions)
        if not decisions or not decisions <= set(DECISIONS):
            raise ConfigurationError(f"decisions={self.decisions!r} must be some of {', '.join(DECISIONS)}")
        object.__setattr__(self, "decisions", decisions)
        if isinstance(self.threshold, Mapping):
            if not decisions <= set(self.threshold) <= set(DECISIONS):
                raise ConfigurationError(f"threshold={self.threshold!r} must have one for each of {sorted(decisions)}")
            for value in self.threshold.values():
                check_number("threshold", value)
        else:
            check_number("threshold", self.threshold)
        if self.percentile is not None:
            check_number("percentile", self.percentile, most=100.0)
        if self.after_tool is not None:
            check_number("after_tool", self.after_tool, least=-1.0, most=1.0)
        check_number("habit_penalty", self.habit_penalty)
        check_number("habit_decay", self.habit_decay, most=1.0)
        check_number("min_probability", self.min_probability, most=1.0)
        if self.min_probability == 0:
            raise ConfigurationError("min_probability=0 must be above 0")
        for name in ("min_seen", "max_per_turn", "max_per_rollout"):
            check_count(name, getattr(self, name), least=1)

    @classmethod
    def from_file(cls, path: Path | str, **settings: Any) -> Self:
        """A policy with calibrated thresholds; where nothing was measured, it does not branch.

        Args:
            path: What `entcent calibrate` wrote.
            **settings: Of the policy; they count more than the file.

        Raises:
            ConfigurationError: On settings that cannot be, or where the file cannot be read.
        """
        return cls.calibrated(Calibration.read(path), **settings)

    @classmethod
    def calibrated(cls, calibration: Calibration, **settings: Any) -> Self:
        """The same, of a file that was read already."""
        threshold = calibration.threshold
        given: dict[str, Any] = {"threshold": threshold, "decisions": tuple(threshold), **settings}
        return cls(**given)

    def bound(self, decision: Decision) -> float:
        """What the entropy of a token that decides this has to be above, nats, habit and percentile aside."""
        return self.threshold[decision] if isinstance(self.threshold, Mapping) else self.threshold

    def habit(self, turn: int, branches: Mapping[int, int]) -> float:
        """What is added to the bounds in a turn, nats.

        Args:
            turn: Which, from 0.
            branches: How many there were in each turn so far.
        """
        return self.habit_penalty * sum(
            count * self.habit_decay ** (turn - earlier) for earlier, count in branches.items() if earlier <= turn
        )
