"""The requests of one task: their seeds, and what it means where one fails."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from entcent_agents.branching import BranchPoint
from entcent_agents.errors import (
    ConfigurationError,
    ContinuationError,
    EntcentError,
    LogprobsMalformedError,
    ModelServerError,
    causes_of,
)
from evals.errors import RunBrokenOffError
from evals.runner.attempt import Attempt
from evals.runner.models import Answer, BranchingModel, Model
from evals.suites.protocol import Task

_REFUSALS: Final = (400, 413, 422)
"""The server is well and does not take this prompt: too long, mostly."""
_UNBRANCHED: Final = (ConfigurationError, ContinuationError, LogprobsMalformedError)
"""This one turn cannot be gone on from; the rollout that it is of goes its way."""
_SHOWN_CHARACTERS: Final = 300


class Answered(NamedTuple):
    """A rollout and the answer that it has yet to take."""

    attempt: Attempt
    answer: Answer


class Asking:
    """Asks a model for the rollouts of one task.

    Args:
        model: Whom.
        task: Which.
        seed: Of the run; None: requests have none.
        again: How many times the task was begun before: each time has its own seeds.
    """

    def __init__(self, model: Model, task: Task, seed: int | None, again: int = 0) -> None:
        self._model = model
        self._told = f"{seed}\0{task.suite}\0{task.id}\0" + "again\0" * again
        self._seeded = seed is not None and model.seeded

    async def answers(self, prompt: str, attempts: Sequence[Attempt]) -> list[Answered]:
        """One answer for each rollout, all of which are at this prompt; a prompt that is refused fails them.

        Raises:
            RunBrokenOffError: Where the model does not answer.
        """
        first, seed = attempts[0], self._seed_of(prompt)
        try:
            answers = await self._model.ask(first.messages, len(attempts), first.tools, seed)
        except Exception as error:
            if not is_refusal(error):
                raise broken_off(error) from error
            for attempt in attempts:
                attempt.fail(error)
            return []
        for attempt in attempts:
            attempt.seed = seed if attempt.seed is None else attempt.seed
        return [Answered(*pair) for pair in zip(attempts, answers, strict=True)]

    async def branch(self, prompt: str, turn: Answered, point: BranchPoint) -> tuple[Answer, int | None] | None:
        """Another answer, which leaves this one at a point, and its seed; None where the server refuses it.

        Raises:
            RunBrokenOffError: Where the model does not answer.
        """
        said = turn.answer.turn.logprobs
        assert said is not None, "a point is one of its tokens"
        assert isinstance(self._model, BranchingModel), "other models give no alternatives, and no points"
        begins = said.text[: int(said.offsets[point.token])] + point.alternative
        seed = self._seed_of(f"{prompt}\0{begins.hex()}")
        try:
            answer = await self._model.branch(turn.attempt.messages, said, point, turn.attempt.tools, seed)
        except Exception as error:
            if isinstance(error, _UNBRANCHED) or is_refusal(error):
                return None
            raise broken_off(error) from error
        return answer, seed

    def _seed_of(self, prompt: str) -> int | None:
        """The seed of a request: the same for the same prompt of the same task in the same run."""
        if not self._seeded:
            return None
        return int.from_bytes(blake2b(f"{self._told}{prompt}".encode(), digest_size=4).digest()) >> 1


def is_refusal(error: Exception) -> bool:
    """Whether a server refused a prompt, and would refuse it again."""
    statuses = {
        link.status if isinstance(link, ModelServerError) else getattr(link, "status_code", None)
        for link in causes_of(error)
    }
    return bool(statuses.intersection(_REFUSALS))


def broken_off(error: Exception) -> RunBrokenOffError:
    """The same, as the end of a run."""
    said = " ".join(str(error).split())[:_SHOWN_CHARACTERS]
    return RunBrokenOffError(said if isinstance(error, EntcentError) else f"{type(error).__name__}: {said}")
