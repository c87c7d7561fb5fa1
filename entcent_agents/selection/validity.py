"""Where a signal means something: floors under which a rollout has no value. Missing is not certain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from entcent_agents.errors import LogprobsMissingError
from entcent_agents.selection.result import Selection
from entcent_agents.trajectory import Column, Rollout, Trajectory

MIN_COVERAGE: Final = 0.9
"""Scored over generated tokens: below it a trajectory has no intrinsic score."""

_MISSING: Final[dict[Column, str]] = {
    "entropy": "no log-probabilities",
    "logprob": "no log-probabilities of the sampled tokens",
    "confidence": "no top-k log-probabilities",
}


def why_uncovered(trajectory: Trajectory, column: Column, floor: float) -> str:
    """Why too few tokens carry this quantity, in words; empty where enough do."""
    if not len(trajectory.column(column)):
        return _MISSING[column]
    coverage = trajectory.coverage_of(column)
    return f"coverage {coverage:.2f} below {floor:.2f}" if coverage < floor else ""


def of_one_k(selection: Selection, rollouts: Sequence[Rollout], column: Column = "entropy") -> Selection:
    """The selection; an abstention where values of different top-k would have been compared.

    Args:
        selection: What was chosen.
        rollouts: The candidates.
        column: What the values were taken from; k does not enter the log-probability of the sampled token.
    """
    if column == "logprob":
        return selection
    compared = {candidate.rollout for candidate in selection.candidates if candidate.rank}
    found = {rollout.trajectory.top_k for rollout in rollouts if rollout.index in compared}
    if selection.winner is not None and (len(found) > 1 or 0 in found):
        return replace(selection, winner=None, tied=(), reason="turns differ in top-k: they do not compare")
    return selection


def require_scorable(rollouts: Sequence[Rollout], says: Callable[[Rollout], bool] = lambda _: True) -> None:
    """Refuse to go on where models were asked and no rollout carries a single log-probability.

    Args:
        rollouts: The candidates.
        says: Whether a rollout has text that could carry them. Calls that a server writes itself carry none: where
            all is calls, nothing needs to be set otherwise.

    Raises:
        LogprobsMissingError: With the settings to change.
    """
    asked = any(rollout.usage.model_calls or rollout.trajectory.turns for rollout in rollouts)
    if asked and not any(rollout.trajectory.scored_tokens for rollout in rollouts) and any(map(says, rollouts)):
        raise LogprobsMissingError(
            f"none of {len(rollouts)} rollouts carries log-probabilities: ask the model for them "
            "(ChatLogprobs always does; with_logprobs(model) sets the other models), use a server that gives "
            "them, set cache=False on a model that LangChain's cache answers for, or pass on_unscorable='fallback' to "
            "select without"
        )
