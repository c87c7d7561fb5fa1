"""Tasks times rollouts, several tasks at once, until all are stored or the model no longer answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from entcent_agents.errors import ConfigurationError
from evals.errors import RunBrokenOffError
from evals.runner.group import Group
from evals.runner.models import Model
from evals.runner.plan import GroupPlan, first_pass, second_pass
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
    _failure: Exception | None = None

    def __post_init__(self) -> None:
        stored, settings = self.store.stored(), self.settings
        found = [stored.get((task.suite, task.id), set[int]()) for task in self.tasks]
        self._there = sum(len(each if settings.branches else each & set(range(settings.rollouts))) for each in found)

    @property
    def total(self) -> int:
        """Rollouts of the whole run; where they branch, at most."""
        return len(self.tasks) * self.settings.rollouts

    @property
    def there(self) -> int:
        """Rollouts of it that are stored."""
        return self._there

    @property
    def progress(self) -> str:
        """How far it is, in words."""
        return f"{self.there} of {'at most ' if self.settings.branches else ''}{self.total} rollouts"

    @property
    def done(self) -> bool:
        """Whether everything is stored."""
        return not (self._first() or self._second())

    async def go(self, model: Model, *, concurrency: int) -> None:
        """Run what is missing.

        Args:
            model: Whom to ask.
            concurrency: Tasks at a time.

        Raises:
            ConfigurationError: Where the model cannot be asked for branches, and they are wanted.
            RunBrokenOffError: Where the model stopped answering; tasks that were under way were let end before.
            StoreError: Where a rollout could not be stored.
        """
        if concurrency < 1:
            raise ConfigurationError(f"concurrency={concurrency}: one task at a time at least")
        for plans in (self._first, self._second):
            pending = iter(plans())
            await asyncio.gather(*(self._work(model, pending) for _ in range(concurrency)))
            self._raise_failure()

    def _first(self) -> list[GroupPlan]:
        return first_pass(self.tasks, self.settings, self.store.stored())

    def _second(self) -> list[GroupPlan]:
        """What is given on of rollouts that tasks did not use; known once all tasks have been run."""
        if not self.settings.adapts:
            return []
        return second_pass(self.tasks, self.settings, self.store.stored(), self.store.solved(self.settings.n))

    def _raise_failure(self) -> None:
        if isinstance(self._failure, RunBrokenOffError):
            raise RunBrokenOffError(
                f"the model stopped answering with {self.progress} stored ({self._failure}): "
                "start the same command again, and it goes on from there"
            ) from self._failure
        if self._failure is not None:
            raise self._failure

    async def _work(self, model: Model, pending: Iterator[GroupPlan]) -> None:
        for plan in pending:
            if self._failure is not None:
                return
            try:
                await self._run(model, plan)
            except Exception as error:  # raised by `go`, when the other tasks have ended
                self._failure = self._failure or error
                return

    async def _run(self, model: Model, plan: GroupPlan) -> None:
        settings = self.settings
        group = Group(
            self.suite,
            plan.task,
            model,
            plan.size,
            seed=settings.seed,
            instruction=settings.instruction,
            policy=plan.policy,
        )
        ended: list[StoredRollout] = []
        async for rollout in group.rollouts(plan.missing):
            begun = self._there or rollout.rollout.trajectory.turns
            if rollout.rollout.status == "failed" and not begun:
                # A prompt that is refused is data; a server that refuses the first it is given is set up wrongly.
                raise RunBrokenOffError(f"the first prompt failed: {rollout.rollout.error}")
            ended.append(rollout)
            if plan.policy is None:
                self._store(ended)
                ended = []
        # Of rollouts that branch, a part says nothing of how many there are, and a child nothing without its parent.
        self._store(ended)

    def _store(self, rollouts: Sequence[StoredRollout]) -> None:
        if added := self.store.extend(rollouts):
            self._there += added
            for rollout in rollouts:
                self.on_stored(rollout)
