"""The rollouts of a round under way: others may join them until all have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextvars import copy_context
from typing import Any

from entcent_agents.chat.sampling import current_pool
from entcent_agents.rollouts.cleanup import to_the_end
from entcent_agents.rollouts.request import RolloutRequest
from entcent_agents.rollouts.rollout import Begun
from entcent_agents.rollouts.writing import abandon
from entcent_agents.trajectory import Rollout

Run = Callable[[int, Begun | None], Coroutine[Any, Any, Rollout]]
"""Runs one: its index, and what was begun of it already."""
Further = Callable[[], Awaitable[Iterable[int]]]
"""Which rollouts to begin when all have ended."""
Forget = Callable[[Sequence[Rollout]], Awaitable[None]]


class Running:
    """Tasks of rollouts, each in the context in which this was made, whoever begins it.

    Args:
        request: The round's.
        run: Runs a rollout.
        forget: Discards what rollouts left.
    """

    def __init__(self, request: RolloutRequest, run: Run, forget: Forget) -> None:
        self._request = request
        self._run = run
        self._forget = forget
        self._context = copy_context()
        self._tasks: dict[int, asyncio.Task[Rollout]] = {}
        self._begun: list[Begun] = []
        self._changed = asyncio.Event()
        self._over = False
        self._may_go_on = False

    async def join(self, index: int, begun: Begun) -> None:
        """Let a rollout run that was begun; after the round it is discarded, unless somebody may go on with it.

        Raises:
            CancelledError: The round is over.
        """
        if not self._over:
            self._begin(index, begun)
            return
        if not self._may_go_on:
            await begun.discard()
            await self._request.store.forget(begun.writing.thread_id)
        raise asyncio.CancelledError

    def _begin(self, index: int, begun: Begun | None = None) -> None:
        self._begun += [begun] if begun else []
        work = self._run(index, begun)
        task = self._tasks[index] = asyncio.get_running_loop().create_task(work, context=self._context.copy())
        task.add_done_callback(lambda _: self._changed.set())

    async def all(self, indices: Iterable[int], further: Further | None = None) -> list[Rollout]:
        """Begin these, and wait until no rollout runs any more; in the order of their indices.

        Args:
            indices: Those to begin at once.
            further: Asked once no rollout runs; they are waited for too.

        Raises:
            BaseException: The first error that is no data, after all others were stopped.
        """
        for index in indices:
            self._begin(index)
        try:
            await self._until_none_runs()
            if further:
                for index in await further():
                    self._begin(index)
                await self._until_none_runs()
        except BaseException as stop:
            self._over, self._may_go_on = True, may_go_on(self._request, stop)
            for task in self._tasks.values():
                task.cancel()
            if pool := current_pool():
                pool.calls.close()  # what threads still ask for would outlive the forks
            await to_the_end(self._clean_up())
            raise
        self._over = True  # what one that was cut off still begins comes too late
        return [self._tasks[index].result() for index in sorted(self._tasks)]

    async def _until_none_runs(self) -> None:
        while any([not _ended(task) for task in self._tasks.values()]):
            self._changed.clear()
            await self._changed.wait()

    async def _clean_up(self) -> None:
        """Wait for the rollouts to stop; what they leave stays only where somebody may go on with it."""
        request = self._request
        ended = await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await request.lingering.end(map(request.thread_id, self._tasks))
        if self._may_go_on:
            return
        for begun in self._begun:  # of a task that is cancelled before its first step nothing runs
            await begun.discard()
        await self._forget([rollout for rollout in ended if isinstance(rollout, Rollout)])
        for index in self._tasks:
            journal = await request.store.read(request.thread_id(index)) if request.store.durable else None
            if journal is not None:  # a rollout that was cancelled leaves its forks to whoever may go on with it
                await abandon(journal, request.environments)
            await request.store.forget(request.thread_id(index))


def may_go_on(request: RolloutRequest, stop: BaseException) -> bool:
    """Whether somebody may go on with the rollouts of a round that was stopped so."""
    return request.resumable and isinstance(stop, asyncio.CancelledError)


def _ended(task: asyncio.Task[Rollout]) -> bool:
    """Whether it has; with an error, that is raised."""
    if task.done():
        task.result()
    return task.done()
