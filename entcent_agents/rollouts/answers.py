"""What stands between a rollout's graph and its model where rollouts branch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

from entcent_agents.capture.recorder import LogprobsGeneration
from entcent_agents.chat.answering import ModelCall
from entcent_agents.chat.branches import BRANCH_METHODS
from entcent_agents.environments import Fork
from entcent_agents.errors import ContinuationError
from entcent_agents.rollouts.branching import Tree
from entcent_agents.rollouts.cleanup import discard, in_a_thread, to_the_end
from entcent_agents.rollouts.enclosing import enclosing_effects
from entcent_agents.rollouts.guard import Guard
from entcent_agents.rollouts.heritage import Heritage, Origin
from entcent_agents.rollouts.progress import ProgressReporter
from entcent_agents.rollouts.released import Released
from entcent_agents.rollouts.retries import NextWayError
from entcent_agents.rollouts.writing import Writing
from entcent_agents.trajectory import BranchMethod

T = TypeVar("T")

_LOGGER: Final = logging.getLogger(__name__)


class Answers:
    """Has the model calls of one rollout answered: where it is a branch, from its parent's; and lets it branch.

    A turn branches when it is whole, and before its message is released: the graph has done nothing with it then, and
    the thread and the forks are what the branch begins with. Of calls that tools make nothing branches: what the tools
    have done so far would be done again.

    Args:
        tree: The round's.
        index: The rollout's.
        writing: Its journal, with its forks, turns and store writes.
        guard: Its guard.
        reporter: Told of the branch that it is.
        before: How many turns it had before this round.
        origin: Where it left its parent; None where it did not, or has answered the call that it branched at.
        on_answer: Told of each call that the model has answered, before that branches.
    """

    def __init__(
        self,
        tree: Tree,
        index: int,
        writing: Writing,
        guard: Guard,
        reporter: ProgressReporter,
        before: int,
        origin: Origin | None,
        on_answer: Callable[[UUID], None] | None = None,
    ) -> None:
        self._tree = tree
        self._index = index
        self._writing = writing
        self._guard = guard
        self._reporter = reporter
        self._before = before
        self._origin = origin
        self._on_answer = on_answer
        self._methods: Sequence[BranchMethod] = tree.methods

    async def answer(self, call: ModelCall) -> LogprobsGeneration:
        """The answer, after it has branched."""
        if enclosing_effects():
            return await call.sample()
        if (released := self._writing.released) and released.prompt == call.prompt:
            self._writing.released = None
            self._writing.recorder.reuse(released.generation.token_logprobs, released.reused_tokens)
            self._writing.recorder.give_again(released.message_id)
            return released.generation
        if (origin := self._origin) is None or origin.prompt != call.prompt:
            answer, reused = await call.sample(), 0
        else:
            answer, reused = await self._from_parent(call, origin)
        if self._on_answer and call.run_id:
            self._on_answer(call.run_id)
        await _on_loop(self._tree.loop, self._branched(call.prompt, answer, reused))
        return answer

    async def _from_parent(self, call: ModelCall, origin: Origin) -> tuple[LogprobsGeneration, int]:
        self._origin = None  # another call of this moment is sampled
        try:
            found = await call.branch(origin.said, origin.point, allowed=self._methods)
        except ContinuationError as error:
            if error.way is None:
                return await call.sample(), 0
            worse = BRANCH_METHODS[BRANCH_METHODS.index(error.way) + 1 :]
            self._origin = origin
            self._methods = [method for method in self._methods if method in worse]
            raise NextWayError(str(error), broke_off=True) from error
        except BaseException:
            self._origin = origin  # the call may be made again
            raise
        self._writing.method = found.method
        self._writing.recorder.reuse(found.generation.token_logprobs, found.reused_tokens)
        self._reporter.branched(origin.branch(found.method))
        return found.generation, found.reused_tokens

    async def _branched(self, prompt: str, answer: LogprobsGeneration, reused: int) -> None:
        """Begin the branches of a turn. Those that cannot be made are not: the answer must not be lost for them."""
        logprobs, turn = answer.token_logprobs, self._before + len(self._writing.recorder.turns)
        if logprobs is None:
            return
        left: list[tuple[int, Origin]] = []
        try:
            for index, point in self._tree.points(self._index, turn, logprobs, reused=reused, prompt=prompt):
                left.append((index, Origin(parent=self._index, turn=turn, prompt=prompt, point=point, said=logprobs)))
            if left:
                answer.message.id = answer.message.id or f"run-{uuid4()}"
                await self._writing.release(Released(prompt=prompt, generation=answer, reused_tokens=reused))
            while left:
                await self._begin(*left.pop(0))
        except Exception:  # without its answer on record, nobody could say what these are branches of
            self._warn()
        finally:
            for index, origin in left:
                self._tree.give_back(index, origin)

    async def _begin(self, index: int, origin: Origin) -> None:
        begins = False
        try:
            async with self._guard.still:  # else a call may be changing the forks, or be on the thread alone
                heritage = await self._heritage(origin)
                begins = True
                await self._tree.begin(index, heritage)
        except Exception:
            self._warn()
            self._tree.give_back(index, origin)
        except BaseException:
            if not begins:  # else no cancellation keeps it from being begun
                self._tree.give_back(index, origin)
            raise

    def _warn(self) -> None:
        _LOGGER.warning("rollout %d could not branch", self._index, exc_info=True)

    async def _heritage(self, origin: Origin) -> Heritage:
        writing, forks = self._writing, dict[str, Fork]()
        try:
            for name, fork in writing.forks.items():
                await to_the_end(in_a_thread(_fork_into, forks, name, fork))
            # Read before turns and writes: a task beside this one that ends meanwhile has these before it is there.
            thread = await writing.store.checkpoints(writing.thread_id)
        except BaseException:
            await discard(forks.values())
            raise
        turns = [
            (replace(turn, reused_tokens=turn.generated_tokens), writing.recorder.words_of(turn))
            for turn in [*writing.recorder.turns.values()]
        ]
        return Heritage(
            origin=origin,
            turns=turns,
            writes=writing.overlay.writes if writing.overlay else (),
            results=self._guard.results,
            thread=thread,
            forks=forks,
        )


def _fork_into(forks: dict[str, Fork], name: str, fork: Fork) -> None:
    """Fork, and have it known at once: who is cancelled meanwhile discards what is known."""
    forks[name] = fork.fork()


async def _on_loop(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """Await work that belongs to another loop, where this is another: that of synchronous nodes, for one."""
    if asyncio.get_running_loop() is loop:
        return await work
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))
