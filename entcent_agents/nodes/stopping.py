"""What ends the rollouts of a round early."""

from __future__ import annotations

from collections.abc import Container, Sequence

from entcent_agents.branching import EarlyStopping
from entcent_agents.errors import ConfigurationError
from entcent_agents.rollouts.request import RolloutRequest
from entcent_agents.rollouts.stopping import Stopping
from entcent_agents.rollouts.writing import ended


def require_reachable(early: EarlyStopping | None, n: int) -> None:
    """Refuse what could never stop anything.

    Raises:
        ConfigurationError: The warm-up takes more rollouts than there are.
    """
    if early and early.warm_up > n:
        raise ConfigurationError(f"stopping: warm_up={early.warm_up} is more than n={n}: nothing would ever stop")


async def stopping_of(
    early: EarlyStopping | None, request: RolloutRequest, indices: Sequence[int], *, least: int, kept: Container[int]
) -> Stopping | None:
    """What ends rollouts of a round early; None where nothing does.

    Args:
        early: When they end.
        request: The round's.
        indices: Rollouts that there may be. Those that ended in another process count before any of the others goes on.
        least: How many have to be finished or held before any is stopped.
        kept: Those that are never stopped.
    """
    if early is None:
        return None
    stopping = Stopping(early, least=least, kept=kept)
    for index in indices if request.store.durable else ():
        if rollout := ended(await request.store.read(request.thread_id(index))):
            stopping.ended(rollout)
    return stopping
