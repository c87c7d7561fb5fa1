"""Where rollouts beyond the node's own n come from: a pool that requests share, or the batch they are in."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from entcent_agents.branching import BudgetPool
from entcent_agents.nodes.batch import BatchRequest, part_in_batch
from entcent_agents.nodes.running import may_go_on
from entcent_agents.rollouts.deadlines import request_deadline
from entcent_agents.rollouts.places import Further, Places
from entcent_agents.rollouts.request import RolloutRequest


@contextmanager
def lent_places(request: RolloutRequest, left: int, pool: BudgetPool | None) -> Generator[Places]:
    """The places of a round; after it, what it did not use goes to the pool or the batch, in which the pool rests.

    A round that somebody may go on with leaves nothing: it has yet to use that.

    Args:
        request: The round's.
        left: How many the budget leaves.
        pool: What lends more outside batches.
    """
    n = request.lent.start
    batch = part_in_batch(n) if request.lent else None
    account = pool.request(n) if pool and not batch else None
    places = Places(
        range(min(n, left)),
        range(n, min(request.lent.stop, left)),
        account=account,
        further=_further(request, batch) if batch else None,
    )
    kept = False
    try:
        yield places
    except BaseException as stop:
        kept = may_go_on(request, stop)
        raise
    finally:
        if account:
            account.settle(account.allowed if kept else min(places.begun, account.allowed))
        if batch:
            batch.settle(n if kept else places.begun)


def _further(request: RolloutRequest, batch: BatchRequest) -> Further:
    async def further(begun: int) -> int:
        deadline = request_deadline(request)
        return await batch.part(begun, seconds=deadline and deadline.left_seconds)

    return further
