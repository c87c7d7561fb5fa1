"""What a budget leaves to a round of rollouts."""

from __future__ import annotations

from entcent_agents.budget import Budget
from entcent_agents.errors import BudgetExceededError
from entcent_agents.rollouts.gate import Gate
from entcent_agents.rollouts.request import RolloutRequest
from entcent_agents.rollouts.writing import used
from entcent_agents.trajectory import Spent


def rollouts_left(budget: Budget, spent: Spent, *, wanted: int, needed: int) -> int:
    """How many rollouts may be begun, of those that are wanted.

    Raises:
        BudgetExceededError: Fewer than a round needs; what is held stays so.
    """
    most = budget.max_rollouts
    left = wanted if most is None else min(wanted, most - spent.rollouts)
    if left < needed:
        ways_out = "raise it, or lower min_finished"
        if spent.rollouts:
            ways_out = (
                "what is held stays held, and a graph with a larger budget and the same checkpointer and "
                "rollout_checkpointer goes on from it: invoke(None, config)"
            )
        raise BudgetExceededError(
            f"max_rollouts={most}: {spent.rollouts} were begun, and a round needs {needed}: {ways_out}"
        )
    return left


async def gate_of(request: RolloutRequest, rollouts: int) -> Gate | None:
    """Where the model calls of a round wait for the budget; None where it limits neither tokens nor cost.

    Args:
        request: The round's.
        rollouts: How many there may be; what another process let them use is used.
    """
    if not request.budget.meters_calls:
        return None
    charged = request.spent.usage
    for index in range(rollouts) if request.store.durable else ():
        charged += used(await request.store.read(request.thread_id(index)))
    return Gate(request.budget, charged)
