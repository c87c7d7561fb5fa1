"""Removing what requests left that nobody will resume."""

from __future__ import annotations

from typing import Any, Final

from langgraph.checkpoint.base import BaseCheckpointSaver

from entcent_agents.ledger import EffectLedger
from entcent_agents.rollouts.store import RolloutStore

WEEK_SECONDS: Final = 7 * 24 * 3600.0


async def sweep(
    rollout_checkpointer: BaseCheckpointSaver[Any],
    ledger: EffectLedger | None = None,
    *,
    older_than_seconds: float = WEEK_SECONDS,
) -> list[str]:
    """Remove the threads of rollouts that dead requests left, and what a ledger keeps that is settled and as old.

    Args:
        rollout_checkpointer: As given to the rollouts. Threads in it that are no rollout's are not touched.
        ledger: As given to the rollouts.
        older_than_seconds: No request may be resumed, and no question answered, after so long. Forks that were kept
            live a week at most.

    Returns:
        The threads that were removed.
    """
    swept = await RolloutStore(rollout_checkpointer).sweep(older_than_seconds)
    if ledger is not None:
        await ledger.sweep(older_than_seconds)
    return swept
