"""Tasks times rollouts, several tasks at once, until all are stored or the model no longer answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from entcent_agents.errors import ConfigurationError
from evals.errors import RunBrokenOffError
from evals.runner.group import Group
from evals.runner.models import Model
from evals.runner.settings import RunSettings
from evals.store import RolloutStore, StoredRollout
from evals.suites.protocol import Suite, Task

Listener = Callable[[StoredRollout], None]


@dataclass(slots=True, kw_only=True)
class Run:
    """One run: what is to be done, and what of it is there.

    Attributes:
        suite: Where the tasks are from.
        tasks: What is to be done.
        settings: How.
        store: Where rollouts go.
        on_stored: Told of each rollout that was stored.
    """

    suite: Suite
    tasks: Sequence[Task]
    settings: RunSettings
    store: RolloutStore
    on_stored: Listener = lambda _: None
    _there: int = field(init=False)
    _missing: list[tuple[Task, set[int]]] = field(init=False)
    _failure: Exception | None = None

    def __post_init__(self) -> None:
        stored, wanted = self.store.stored(), set(range(self.settings.n))
        self._missing = [(task, wanted - stored.get((task.suite, task.id), set())) for task in self.tasks]
        self._missing = [(task, missing) for task, missing in self._missing if missing]
        self._there = self.total - sum(len(missing) for _, missing in self._missing)

    @property
    def total(self) -> int:
        """Rollouts of the whole run."""
        return len(self.tasks) * self.settings.n

    @property
    def there(self) -> int:
        """Rollouts of it that are stored."""
        return self._there

    async def go(self, model: Model, *, concurrency: int) -> None:
        """Run what is missing.

        Args:
            model: Whom to ask.
            concurrency: Tasks at a time.

        Raises:
            RunBrokenOffError: Where the model stopped answering; tasks that were under way were let end before.
            StoreError: Where a rollout could not be stored.
        """
        if concurrency < 1:
            raise ConfigurationError(f"concurrency={concurrency}: one task at a time at least")
        pending = iter(self._missing)
        await asyncio.gather(*(self._work(model, pending) for _ in range(concurrency)))
        if isinstance(self._failure, RunBrokenOffError):
            raise RunBrokenOffError(
                f"the model stopped answering with {self._there} of {self.total} rollouts stored ({self._failure}): "
                "start the same command again, and it goes on from there"
            ) from self._failure
        if self._failure is not None:
            raise self._failure

    async def _work(self, model: Model, pending: Iterator[tuple[Task, set[int]]]) -> None:
        for task, missing in pending:
            if self._failure is not None:
                return
            try:
                await self._run(Group(self.suite, task, model, self.settings, missing))
            except Exception as error:  # raised by `go`, when the other tasks have ended
                self._failure = self._failure or error
                return

    async def _run(self, group: Group) -> None:
        async for rollout in group.rollouts():
            begun = self._there or rollout.rollout.trajectory.turns
            if rollout.rollout.status == "failed" and not begun:
                # A prompt that is refused is data; a server that refuses the first it is given is set up wrongly.
                raise RunBrokenOffError(f"the first prompt failed: {rollout.rollout.error}")
            if self.store.append(rollout):
                self._there += 1
                self.on_stored(rollout)
