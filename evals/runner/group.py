"""All rollouts of one task, step by step together, so that every prompt they share is one request.

Together and not each at its own pace: which rollouts share a request then follows from what the model wrote, not from
time. On a deterministic server the same settings give the same rollouts, however often a run was stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from hashlib import blake2b
from typing import Final

from entcent_agents.errors import EntcentError, ModelServerError, causes_of
from evals.errors import RunBrokenOffError
from evals.runner.attempt import Attempt
from evals.runner.models import Model
from evals.runner.settings import RunSettings
from evals.store import StoredRollout
from evals.suites.protocol import Suite, Task

_REFUSALS: Final = (400, 413, 422)
"""The server is well and does not take this prompt: too long, mostly."""
_SHOWN_CHARACTERS: Final = 300


class Group:
    """The rollouts of one task.

    Args:
        suite: Where the task is from.
        task: What is to be done.
        model: Whom to ask.
        settings: Of the run.
        missing: The numbers of the rollouts that are wanted. All `n` are run, for a request is asked for whole; those
            that are not missing are known already, and run no longer than the missing ones.
    """

    def __init__(self, suite: Suite, task: Task, model: Model, settings: RunSettings, missing: Collection[int]) -> None:
        self._task = task
        self._model = model
        self._seed = settings.seed
        self._missing = set(missing)
        root = suite.make_env(task)
        self._attempts = [
            Attempt(index=i, suite=suite, task=task, world=suite.fork(root), instruction=settings.instruction)
            for i in range(settings.n)
        ]

    async def rollouts(self) -> AsyncGenerator[StoredRollout]:
        """The missing rollouts, each as it ends.

        Raises:
            RunBrokenOffError: Where the model does not answer; what it refuses fails the rollouts that asked, no more.
        """
        while self._missing:
            asking: dict[str, list[Attempt]] = {}
            for attempt in self._attempts:
                if not attempt.ended:
                    asking.setdefault(attempt.prompt, []).append(attempt)
            await asyncio.gather(*(self._step(prompt, attempts) for prompt, attempts in asking.items()))
            for attempt in self._attempts:
                if attempt.ended and attempt.index in self._missing:
                    self._missing.discard(attempt.index)
                    yield attempt.judged()

    async def _step(self, prompt: str, attempts: Sequence[Attempt]) -> None:
        first, seed = attempts[0], self._seed_of(prompt)
        try:
            answers = await self._model.ask(first.messages, len(attempts), first.tools, seed)
        except Exception as error:
            if not is_refusal(error):
                raise RunBrokenOffError(_in_a_line(error)) from error
            for attempt in attempts:
                attempt.fail(error)
            return
        for attempt, answer in zip(attempts, answers, strict=True):
            attempt.seed = seed if attempt.seed is None else attempt.seed
            attempt.take(answer)

    def _seed_of(self, prompt: str) -> int | None:
        """The seed of a request: the same for the same prompt of the same task in the same run."""
        if self._seed is None or not self._model.seeded:
            return None
        told = f"{self._seed}\0{self._task.suite}\0{self._task.id}\0{prompt}".encode()
        return int.from_bytes(blake2b(told, digest_size=4).digest()) >> 1


def is_refusal(error: Exception) -> bool:
    """Whether a server refused a prompt, and would refuse it again."""
    statuses = {
        link.status if isinstance(link, ModelServerError) else getattr(link, "status_code", None)
        for link in causes_of(error)
    }
    return bool(statuses.intersection(_REFUSALS))


def _in_a_line(error: Exception) -> str:
    said = " ".join(str(error).split())[:_SHOWN_CHARACTERS]
    return said if isinstance(error, EntcentError) else f"{type(error).__name__}: {said}"
