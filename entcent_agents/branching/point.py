"""A place in a turn where a rollout may branch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.segments import SegmentKind
from entcent_agents.trajectory import Decision

_MOST_LOG_ODDS: Final = 700.0
"""Beyond it a float ends: of the parent's token the server gave no probability, but a number that stands for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchPoint:
    """A token that the parent keeps, and what a branch takes in its place.

    Attributes:
        token: Its index in the turn, from 0; the tokens before are shared.
        entropy: Of its distribution, nats.
        kind: What it belongs to in the parent's turn.
        decision: What is decided there.
        alternative: The bytes of the token that the branch takes.
        logprob: Natural-log probability of that token.
        id: Its number in the model's vocabulary; None where the server does not say.
    """

    token: int
    entropy: float
    kind: SegmentKind
    decision: Decision
    alternative: bytes
    logprob: float
    id: int | None = None

    def odds(self, turn: TokenLogprobs) -> float | None:
        """How likely the alternative is, over how likely the parent's token; None where nobody knows.

        Args:
            turn: The parent's.
        """
        log_odds = self.logprob - float(turn.logprob[self.token])
        return math.exp(log_odds) if log_odds < _MOST_LOG_ODDS else None
