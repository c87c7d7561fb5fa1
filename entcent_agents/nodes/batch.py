"""Many requests as one batch: rollouts that easy ones did not need go to those that used all of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list

from entcent_agents.branching import allocate
from entcent_agents.errors import ConfigurationError
from entcent_agents.rollouts.cleanup import to_the_end
from entcent_agents.rollouts.guard import inside_a_rollout
from entcent_agents.rollouts.isolation import Graph


async def abatch(
    graph: Graph,
    inputs: Sequence[Any],
    config: RunnableConfig | Sequence[RunnableConfig] | None = None,
    *,
    max_concurrency: int | None = None,
    return_exceptions: bool = False,
) -> list[Any]:
    """As `graph.abatch`, and what some requests left of their n rollouts goes to those that used all of theirs.

    Each request has its n rollouts first. One that used them all waits, its place free for another, until no request
    has rollouts of its n to begin any more; then those that wait share what the others left in equal parts, n more
    each at most. Of its part a request begins as many anew as it began with, and the others are their branches. Without
    `branching` in the graph's `ParallelRollouts` nothing is left, and nothing shared out.

    Args:
        graph: With `ParallelRollouts` that branch.
        inputs: Of the requests.
        config: For all of them, or one for each.
        max_concurrency: Most requests that run at the same time; None: as `config` says.
        return_exceptions: Whether to return what a request raised in its place. If not, the first error ends all.

    Returns:
        The outputs, in the order of the inputs.

    Raises:
        ConfigurationError: On a concurrency below 1.
        Exception: The first that a request raised, after the others were ended.

    Source: arXiv 2510.11170 (EAGer-adapt); see docs/branching.md.
    """
    if not inputs:
        return []
    configs = get_config_list(config, len(inputs))
    most = max_concurrency if max_concurrency is not None else configs[0].get("max_concurrency")
    if most is not None and most < 1:
        raise ConfigurationError(f"max_concurrency={most} must be at least 1")
    batch = _Batch(len(inputs), most or len(inputs))
    answers = [
        asyncio.ensure_future(request.run(graph, value, own, return_exceptions))
        for request, value, own in zip(batch.requests, inputs, configs, strict=True)
    ]
    try:
        return await asyncio.gather(*answers)
    except BaseException:
        for answer in answers:
            answer.cancel()
        await to_the_end(_ended(answers))
        raise


async def _ended(answers: Sequence[asyncio.Future[Any]]) -> None:
    await asyncio.gather(*answers, return_exceptions=True)


class _Batch:
    """The requests of a batch, and what they leave."""

    def __init__(self, requests: int, most: int) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.room: asyncio.Semaphore = asyncio.Semaphore(most)
        self.requests: list[BatchRequest] = [BatchRequest(self) for _ in range(requests)]

    def share_out(self) -> None:
        """Give their parts to those that wait, if no other may still leave something.

        Nodes with another n may be in the graph, and each request runs through one of them: like shares with like.
        """
        if any(request.used is None for request in self.requests):
            return
        for n in {request.n for request in self.requests}:
            used = {request: min(request.used or 0, n) for request in self.requests if request.n == n}
            waiting = [request for request in used if request.waits]
            for request, part in allocate(used, n, unsolved=waiting).items() if waiting else ():
                request.receive(part)
        for request in self.requests:
            request.receive(0)


class BatchRequest:
    """One request's part in a batch.

    Attributes:
        n: How many rollouts its node has for it; 0 until it comes there, as what never came there leaves nothing.
        used: How many of them it has begun when no more are to begin; None before that.
    """

    def __init__(self, batch: _Batch) -> None:
        self.n = 0
        self.used: int | None = None
        self._batch = batch
        self._inside = False
        self._part: asyncio.Future[int] | None = None

    async def run(self, graph: Graph, value: Any, config: RunnableConfig, return_exceptions: bool) -> Any:
        """Its answer, or what it raised."""
        _current.set(self)
        try:
            await self._enter()
            return await graph.ainvoke(value, config)
        except Exception as error:
            if return_exceptions:
                return error
            raise
        finally:
            self.settle(0)
            self._leave()

    @property
    def on_this_loop(self) -> bool:
        """Whether what asks can wait for the others: synchronous code may have gone to another loop."""
        return self._batch.loop is asyncio.get_running_loop()

    @property
    def waits(self) -> bool:
        """Whether it waits for more."""
        return self._part is not None and not self._part.done()

    def settle(self, used: int) -> None:
        """No more of its own are to begin; said again, nothing follows."""
        if self.used is None:
            self.used = used
            self._batch.share_out()

    async def part(self, used: int, *, seconds: float | None) -> int:
        """How many more it may have, once that is known.

        Args:
            used: How many it began.
            seconds: How long it may wait; after that it gets none.
        """
        part = self._part = self._batch.loop.create_future()
        self._leave()
        try:
            self.settle(used)
            async with asyncio.timeout(seconds):
                await part
        except TimeoutError:
            return 0  # without a place: it begins nothing more, and those that queue for one may take long
        finally:
            self._part = None
        await self._enter()
        return part.result()

    def receive(self, part: int) -> None:
        """Its part is known; what came first counts."""
        if self._part is not None and not self._part.done():
            self._part.set_result(part)

    async def _enter(self) -> None:
        await self._batch.room.acquire()
        self._inside = True

    def _leave(self) -> None:
        if self._inside:
            self._inside = False
            self._batch.room.release()


_current: Final[ContextVar[BatchRequest | None]] = ContextVar("entcent_agents_batch", default=None)


def part_in_batch(n: int) -> BatchRequest | None:
    """The part that the rollouts of this moment have in a batch; None where they have none.

    Only the first round of a request has one, and none inside a rollout: the request is what waits.

    Args:
        n: How many rollouts there are without it.
    """
    request = _current.get()
    if request is None or request.n or inside_a_rollout() or not request.on_this_loop:
        return None
    request.n = n
    return request
