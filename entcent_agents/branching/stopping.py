"""When a request has rollouts enough, and which of them need not go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from entcent_agents.branching.checks import check_count, check_number
from entcent_agents.confidence import DEFAULT_WINDOW, lowest_group_confidence
from entcent_agents.errors import ConfigurationError
from entcent_agents.phases import percentile, scored_values

Consensus = Literal["share", "posterior"]
"""How agreement is measured: the leading outcome's share of all, or how likely it leads the next one in truth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStopping:
    """What ends a request, or one of its rollouts, before all have ended. Pure: it decides on what it is told.

    Attributes:
        consensus: What ends the request once it reaches `agreement`; None: nothing does.
        agreement: From 0 to 1.
        warm_up: Rollouts that have to end before consensus counts, or a rollout is pruned.
        keep_percent: The share of rollouts that pruning means to keep, percent: one whose lowest group confidence falls
            below that of this share of the warm-up ends. None: none is pruned.
        window: Tokens of a group. A rollout with fewer is not pruned, so agents with short turns need far fewer than
            the published 2048.

    Raises:
        ConfigurationError: On a number that is out of its range, or no number, on an unknown consensus, or where
            neither `consensus` nor `keep_percent` is set.

    Source: arXiv 2508.15260 (both, online); see docs/mathematics.md.
    """

    consensus: Consensus | None = None
    agreement: float = 0.95
    warm_up: int = 4
    keep_percent: float | None = None
    window: int = DEFAULT_WINDOW

    def __post_init__(self) -> None:
        for name in ("warm_up", "window"):
            check_count(name, getattr(self, name), least=1)
        check_number("agreement", self.agreement, most=1.0)
        if self.keep_percent is not None:
            check_number("keep_percent", self.keep_percent, most=100.0)
        if self.consensus not in (None, "share", "posterior"):
            raise ConfigurationError(f"consensus={self.consensus!r} must be 'share', 'posterior' or None")
        if self.consensus is None and self.keep_percent is None:
            raise ConfigurationError("nothing would be stopped early: set consensus, keep_percent or both")

    def agrees(self, outcomes: Sequence[Hashable | None]) -> bool:
        """Whether the request may end, as its rollouts agree.

        Args:
            outcomes: What each rollout that ended came to; None, which agrees with nobody, where it came to nothing.
        """
        if self.consensus is None or len(outcomes) < self.warm_up:
            return False
        measure = leading_share if self.consensus == "share" else leading_posterior
        return measure(outcomes) >= self.agreement

    def floor(self, warm_up: Sequence[ArrayLike]) -> float | None:
        """The confidence below which a rollout is pruned, nats; None where none is, or too few have ended.

        Args:
            warm_up: The confidences of the tokens of each rollout that ended well, in the order in which they did: the
                first ones set the floor. One without any counts for nothing.
        """
        if self.keep_percent is None:
            return None
        lowest = [lowest_group_confidence(confidence, self.window) for confidence in warm_up]
        known = [value for value in lowest if value is not None][: self.warm_up]
        if len(known) < self.warm_up:
            return None
        return percentile(np.array(known), 100.0 - self.keep_percent)

    def prunes(self, confidence: ArrayLike, floor: float | None) -> bool:
        """Whether a rollout need not go on.

        Args:
            confidence: Of its tokens so far, nats, shape `(T,)`.
            floor: What `floor` says.
        """
        if floor is None or len(scored_values(confidence, "confidence", lowest=0.0)) < self.window:
            return False
        lowest = lowest_group_confidence(confidence, self.window)
        return lowest is not None and lowest < floor


def leading_share(outcomes: Sequence[Hashable | None]) -> float:
    """The share of the most frequent outcome, in [0, 1]; None agrees with nobody."""
    first, _ = leading(outcomes)
    return first / len(outcomes) if outcomes else 0.0


def leading_posterior(outcomes: Sequence[Hashable | None]) -> float:
    """How likely the most frequent outcome is ahead of the next one in truth, in [0, 1], from a flat prior.

    With v1 and v2 votes it is `1 - I_0.5(v1 + 1, v2 + 1)`, the upper half of a Beta distribution. For whole numbers it
    equals how likely at most v1 of v1 + v2 + 1 fair coins show heads.
    """
    first, second = leading(outcomes)
    coins = first + second + 1
    return sum(comb(coins, heads) for heads in range(first + 1)) / 2**coins


def leading(outcomes: Sequence[Hashable | None]) -> tuple[int, int]:
    """How often the two most frequent outcomes occur; each None is an outcome of its own."""
    votes = Counter(outcome for outcome in outcomes if outcome is not None)
    nothing = [1] * sum(outcome is None for outcome in outcomes)
    counts = sorted([*votes.values(), *nothing[:2]], reverse=True)
    first, second, *_ = [*counts, 0, 0]
    return first, second
