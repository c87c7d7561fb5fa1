"""All rollouts of one task, step by step together, so that every prompt they share is one request.

Together and not each at its own pace: which rollouts share a request then follows from what the model wrote, not from
time. On a deterministic server the same settings give the same rollouts, however often a run was stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass
from itertools import chain

from entcent_agents.branching import BranchPolicy
from evals.runner.asking import Asking
from evals.runner.attempt import Attempt
from evals.runner.branches import Branches
from evals.runner.models import Model
from evals.runner.steps import best_answers
from evals.store import StoredRollout
from evals.suites.protocol import Suite, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSize:
    """How many rollouts a group has.

    Attributes:
        initial: That are begun anew.
        most: With their branches.
        first: The number of the first.
        again: How many groups the task had before.
        candidates: How many answers are asked for at each step of each, of which it takes one.
    """

    initial: int
    most: int
    first: int = 0
    again: int = 0
    candidates: int = 1


class Group:
    """The rollouts of one task.

    Args:
        suite: Where the task is from.
        task: What is to be done.
        model: Whom to ask.
        size: How many rollouts there are.
        seed: Of the run; None: requests have none.
        instruction: A system message put before the task's own messages.
        policy: When they branch; None: they do not.
    """

    def __init__(
        self,
        suite: Suite,
        task: Task,
        model: Model,
        size: GroupSize,
        *,
        seed: int | None,
        instruction: str | None = None,
        policy: BranchPolicy | None = None,
    ) -> None:
        self._size = size
        self._asking = Asking(model, task, seed, size.again)
        self._branches = Branches(policy, self._asking) if policy else None
        root = suite.make_env(task)
        self._attempts = [
            Attempt(index=size.first + i, suite=suite, task=task, world=suite.fork(root), instruction=instruction)
            for i in range(size.initial)
        ]

    async def rollouts(self, missing: Collection[int] | None = None) -> AsyncGenerator[StoredRollout]:
        """The rollouts, each as it ends.

        Args:
            missing: The numbers of those that are wanted; None: all. All are run, for a request is asked for whole;
                those that are not missing are known already, and run no longer than the missing ones.

        Raises:
            RunBrokenOffError: Where the model does not answer; what it refuses fails the rollouts that asked, no more.
        """
        told = set[int]()

        def waiting() -> list[Attempt]:
            wanted = [attempt for attempt in self._attempts if missing is None or attempt.index in missing]
            return [attempt for attempt in wanted if attempt.index not in told]

        while waiting():
            await self._step()
            for attempt in [attempt for attempt in waiting() if attempt.ended]:  # branches of this step, too
                told.add(attempt.index)
                yield attempt.judged()

    async def _step(self) -> None:
        asking: dict[str, list[Attempt]] = {}
        for attempt in self._attempts:
            if not attempt.ended:
                asking.setdefault(attempt.prompt, []).append(attempt)
        candidates = self._size.candidates
        asked = (self._asking.answers(prompt, attempts * candidates) for prompt, attempts in asking.items())
        answered = list(chain.from_iterable(await asyncio.gather(*asked)))
        if candidates > 1:
            answered = best_answers(answered)
        if self._branches:
            there = len(self._attempts)
            added = await self._branches.of(answered, room=self._size.most - there, first=self._size.first + there)
            self._attempts += [attempt for attempt, _ in added]
            answered += added
        for attempt, answer in answered:
            attempt.take(answer)
