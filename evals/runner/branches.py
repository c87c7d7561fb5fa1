"""Where the rollouts of one task branch, step after step."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from entcent_agents.branching import BranchPoint, BranchPolicy, Watch
from entcent_agents.trajectory import Branch
from evals.runner.asking import Answered, Asking
from evals.runner.models import Answer


class _Fork(NamedTuple):
    """A branch that is to be made."""

    turn: Answered
    point: BranchPoint
    prompt: str


class Branches:
    """The branches of one task's rollouts.

    Args:
        policy: When a turn branches.
        asking: Whom to ask for a branch's turn.
    """

    def __init__(self, policy: BranchPolicy, asking: Asking) -> None:
        self._watch = Watch(policy)
        self._asking = asking

    async def of(self, answered: Sequence[Answered], *, room: int, first: int) -> list[Answered]:
        """The branches of turns that nobody has taken yet, each with the answer that it has yet to take.

        A branch's turn branches again, behind the token that it begins with. Turns are looked at in the order of their
        rollouts, and not in that of their answers, so that no clock decides.

        Args:
            answered: The turns.
            room: How many branches there may be.
            first: The number that the first of them gets.
        """
        found: list[Answered] = []
        answered = sorted(answered, key=lambda turn: turn.attempt.index)
        while answered:
            forks = self._forks(answered, room - len(found))
            made = await asyncio.gather(*(self._asking.branch(fork.prompt, fork.turn, fork.point) for fork in forks))
            answered = []
            for fork, answer in zip(forks, made, strict=True):
                if answer is not None:
                    answered.append(self._begun(fork, *answer, index=first + len(found) + len(answered)))
            found += answered
        return found

    def _forks(self, answered: Sequence[Answered], room: int) -> list[_Fork]:
        forks: list[_Fork] = []
        for turn in answered:
            attempt, said = turn.attempt, turn.answer.turn
            if said.logprobs is None:
                continue
            prompt = attempt.prompt
            points = self._watch.points(
                attempt.index,
                len(attempt.replies),
                said.logprobs,
                room=room - len(forks),
                reused=said.reused_tokens,
                prompt=prompt,
            )
            forks += [_Fork(turn, point, prompt) for point in points]
        return forks

    def _begun(self, fork: _Fork, answer: Answer, seed: int | None, *, index: int) -> Answered:
        parent, point = fork.turn.attempt, fork.point
        said = fork.turn.answer.turn.logprobs
        assert answer.method is not None, "branched answers say how they were made"
        assert said is not None, "a turn without log-probabilities has no points"
        branch = Branch(
            parent=parent.index,
            turn=len(parent.replies),
            token=point.token,
            entropy=point.entropy,
            kind=point.kind,
            decision=point.decision,
            method=answer.method,
            odds=point.odds(said),
        )
        self._watch.begin(index, parent=parent.index, turn=branch.turn)
        return Answered(parent.branched(index, branch, seed), answer)
