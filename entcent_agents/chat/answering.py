"""How the model's calls of a rollout are answered: it may go on from another rollout's answer, and be gone on from.

Whatever sets `use_answering` stands between a model and the graph that asked it: an answer is released to its graph
when `Answering.answer` returns it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from entcent_agents.branching import BranchPoint
from entcent_agents.capture.recorder import LogprobsGeneration
from entcent_agents.chat.branches import Branched
from entcent_agents.chat.digests import prompt_digest
from entcent_agents.chat.sampling import current_pool, known_calls
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.trajectory import BranchMethod

T = TypeVar("T")


class Branch(Protocol):
    """Asks the model to go on from another answer to the same prompt."""

    def __call__(
        self, turn: TokenLogprobs, point: BranchPoint, *, allowed: Sequence[BranchMethod]
    ) -> Awaitable[Branched]:
        """As `ChatLogprobs.abranch`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """A call that wants one answer.

    Attributes:
        prompt: Digest of what is asked: equal in all rollouts and processes that ask it.
        sample: Asks the model.
        branch: Asks it to go on from another rollout's answer to this prompt.
        run_id: The call's, as LangChain's callbacks are told.
    """

    prompt: str
    sample: Callable[[], Awaitable[LogprobsGeneration]]
    branch: Branch
    run_id: UUID | None = None


class Answering(Protocol):
    """Has the model calls of a rollout answered."""

    async def answer(self, call: ModelCall) -> LogprobsGeneration:
        """The answer, when it may be released."""
        ...


_answering: Final[ContextVar[Answering | None]] = ContextVar("entcent_agents_answering", default=None)


@contextmanager
def use_answering(answering: Answering | None) -> Generator[None]:
    """Have what is asked inside answered so; None: as the model answers."""
    token = _answering.set(answering)
    try:
        yield
    finally:
        _answering.reset(token)


async def answered(
    payload: Mapping[str, Any],
    settings: Mapping[str, Any],
    sample: Callable[[], Awaitable[LogprobsGeneration]],
    branch: Branch,
    run_id: UUID | None,
) -> LogprobsGeneration:
    """One answer, in the way of the rollout that asks for it.

    Args:
        payload: The request's body.
        settings: Of the call. Where no tool is offered nothing is decided that a rollout could branch at.
        sample: As in `ModelCall`.
        branch: As in `ModelCall`.
        run_id: As in `ModelCall`.
    """
    answering = _answering.get()
    if answering is None or current_pool() is None or not (settings.get("tools") or settings.get("text_tools")):
        return await sample()
    with known_calls():
        call = ModelCall(prompt=prompt_digest(payload), sample=sample, branch=branch, run_id=run_id)
        return await answering.answer(call)


def blocks_a_loop() -> bool:
    """Whether waiting here would hold up an event loop, which may be the one that the answering needs."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def as_sampled(work: Awaitable[T]) -> T:
    """Await what is to be answered as the model answers."""
    with use_answering(None):
        return await work


async def each_as_sampled(items: AsyncIterator[T]) -> AsyncIterator[T]:
    """The same for what comes piece by piece; in a task of its own."""
    with use_answering(None):
        async for item in items:
            yield item
