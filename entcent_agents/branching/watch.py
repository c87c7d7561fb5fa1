"""Where the rollouts of one request branch, turn after turn."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import Final

import numpy as np

from entcent_agents.branching.decisions import DecisionToken, decision_tokens
from entcent_agents.branching.point import BranchPoint
from entcent_agents.branching.policy import BranchPolicy
from entcent_agents.confidence import mean_entropy
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.phases import percentile
from entcent_agents.segments import SegmentKind

OPENING: Final = 20
"""Tokens at the beginning of a turn that show how certain the model is there, as in arXiv 2507.19849."""
_DIGEST_BYTES: Final = 16


@dataclass(slots=True)
class _History:
    """A rollout so far.

    Attributes:
        own: Branches that it made, by turn.
        habit: These, and those that its parents had made when it left them.
        first_opening: How certain it began: the mean entropy of its first tokens, nats.
        called: The turns in which it called a tool.
    """

    own: Counter[int] = field(default_factory=Counter[int])
    habit: Counter[int] = field(default_factory=Counter[int])
    first_opening: float | None = None
    called: set[int] = field(default_factory=set[int])

    def count(self, turn: int, branches: int = 1) -> None:
        self.own[turn] += branches
        self.habit[turn] += branches


class Watch:
    """Sees every whole turn of a request's rollouts, and says where they branch.

    Deterministic: what it says follows from the policy, and from the turns in the order in which it saw them. For one
    event loop, not for threads.

    Args:
        policy: When a turn branches.
    """

    def __init__(self, policy: BranchPolicy) -> None:
        self._policy = policy
        self._entropies = array("d")
        self._histories: dict[int, _History] = {}
        self._taken: set[tuple[Hashable, bytes]] = set()

    def points(
        self,
        rollout: int,
        turn: int,
        logprobs: TokenLogprobs,
        *,
        room: int,
        reused: int = 0,
        prompt: Hashable = None,
    ) -> list[BranchPoint]:
        """Where a turn branches; every point counts as a branch that is made.

        Args:
            rollout: Whose turn it is.
            turn: Which of its turns, from 0.
            logprobs: Its tokens, with their alternatives; without them it does not branch.
            room: How many branches the request may still begin.
            reused: The first tokens of the turn that came from the parent, the alternative included: they were seen
                there, and do not branch again.
            prompt: What the turn answers. With it, no two rollouts branch from the same text into the same text.

        Returns:
            At most `room`, the one with the highest entropy above its bound first.
        """
        history = self._history(rollout)
        decisions = self._see(logprobs, reused)
        risen = self._has_risen(history, turn, logprobs, reused)
        room = min(
            room,
            self._policy.max_per_turn - history.own[turn],
            self._policy.max_per_rollout - history.own.total(),
        )
        if room <= 0:
            return []
        possible = list(_possible(decisions, logprobs, self._policy.min_probability))
        place = _place(rollout, turn, prompt)
        points: list[BranchPoint] = []
        for excess, point in self._ranked(possible):
            if len(points) == room or excess <= self._policy.habit(turn, history.habit):
                break
            if self._take(place, logprobs, point):
                history.count(turn)
                points.append(point)
        if not points and risen:
            by_entropy = sorted(possible, key=lambda point: -point.entropy)
            points += islice((point for point in by_entropy if self._take(place, logprobs, point)), 1)
            history.count(turn, len(points))
        return points

    def begin(self, child: int, *, parent: int, turn: int) -> None:
        """A branch becomes a rollout, and inherits the habit of its parent and how certain that began.

        Args:
            child: Its number.
            parent: That of the rollout which it left.
            turn: The turn that it left it in.
        """
        left = self._history(parent)
        self._histories[child] = _History(
            habit=Counter({earlier: count for earlier, count in left.habit.items() if earlier <= turn}),
            first_opening=left.first_opening,
            called={earlier for earlier in left.called if earlier < turn},
        )

    def take_back(
        self, rollout: int, turn: int, logprobs: TokenLogprobs, point: BranchPoint, *, prompt: Hashable = None
    ) -> None:
        """A branch was not made: it does not count, and another one may be made there.

        Args:
            rollout: Whose turn was to branch.
            turn: Which of its turns, from 0.
            logprobs: Its tokens.
            point: Where, as `points` gave it.
            prompt: As for `points`.
        """
        self._history(rollout).count(turn, -1)
        self._taken.discard(_key(_place(rollout, turn, prompt), logprobs, point))

    def recall(self, rollout: int, turn: int, logprobs: TokenLogprobs, *, branches: int, reused: int = 0) -> None:
        """Take up a turn that is on record, so that those after it branch as if it had been seen just now.

        Args:
            rollout: Whose turn it is.
            turn: Which of its turns, from 0.
            logprobs: Its tokens; their alternatives are not needed.
            branches: How many branches it has on record.
            reused: As for `points`.
        """
        history = self._history(rollout)
        self._see(logprobs, reused)
        self._has_risen(history, turn, logprobs, reused)
        history.count(turn, branches)

    def recall_branch(
        self, rollout: int, turn: int, logprobs: TokenLogprobs, point: BranchPoint, *, prompt: Hashable = None
    ) -> None:
        """Take up a branch that is on record, so that it is not made a second time; `recall` counts it.

        Args:
            rollout: Whose turn branched.
            turn: Which of its turns, from 0.
            logprobs: Its tokens.
            point: Where.
            prompt: As for `points`.
        """
        self._take(_place(rollout, turn, prompt), logprobs, point)

    def _history(self, rollout: int) -> _History:
        return self._histories.setdefault(rollout, _History())

    def _see(self, logprobs: TokenLogprobs, reused: int) -> list[DecisionToken]:
        """The tokens that decide something here and have an entropy; they count for the percentile from now on."""
        scored = logprobs.scored
        decisions = [
            each
            for each in decision_tokens(logprobs)
            if each.token >= reused and each.decision in self._policy.decisions and scored[each.token]
        ]
        self._entropies.extend(float(logprobs.entropy[each.token]) for each in decisions)
        return decisions

    def _has_risen(self, history: _History, turn: int, logprobs: TokenLogprobs, reused: int) -> bool:
        """Whether a turn after a tool's result begins less certain than the first one did, by the policy's measure.

        Where its beginning is its parent's, so was the rise.
        """
        opening = mean_entropy(logprobs.entropy[:OPENING])
        if turn == 0:
            history.first_opening = opening
        if (logprobs.kind == SegmentKind.TOOL_NAME).any():
            history.called.add(turn)
        limit, first = self._policy.after_tool, history.first_opening
        if limit is None or reused or turn - 1 not in history.called or opening is None or first is None:
            return False
        return logprobs.top_k > 1 and (opening - first) / math.log(logprobs.top_k) > limit

    def _ranked(self, possible: list[BranchPoint]) -> list[tuple[float, BranchPoint]]:
        """The points, each with how far its entropy is above its bound, the farthest first, equals as they stand."""
        least = self._percentile()
        above = [(point.entropy - max(self._policy.bound(point.decision), least), point) for point in possible]
        return sorted(above, key=lambda each: -each[0])

    def _percentile(self) -> float:
        """The percentile of the entropies seen, nats; infinite while there are too few, 0 where none is asked for."""
        if self._policy.percentile is None:
            return 0.0
        if len(self._entropies) < self._policy.min_seen:
            return math.inf
        return percentile(np.array(self._entropies), self._policy.percentile)

    def _take(self, place: Hashable, logprobs: TokenLogprobs, point: BranchPoint) -> bool:
        """Whether no branch begins with the same text there; from now on one does."""
        key = _key(place, logprobs, point)
        is_new = key not in self._taken
        self._taken.add(key)
        return is_new


def _place(rollout: int, turn: int, prompt: Hashable) -> Hashable:
    return (rollout, turn) if prompt is None else prompt


def _key(place: Hashable, logprobs: TokenLogprobs, point: BranchPoint) -> tuple[Hashable, bytes]:
    """What a branch there begins with."""
    text = logprobs.text[: int(logprobs.offsets[point.token])] + point.alternative
    return place, blake2b(text, digest_size=_DIGEST_BYTES).digest()


def _possible(decisions: list[DecisionToken], logprobs: TokenLogprobs, min_probability: float) -> Iterator[BranchPoint]:
    """What a branch could take in the place of each token; nothing that says what the turn says there anyway."""
    others = logprobs.alternatives
    if others is None:
        return
    least = math.log(min_probability)
    for token, decision, kind in decisions:
        alternative, logprob = others.token(token), float(others.logprob[token])
        said = logprobs.token(token)
        same = len(alternative) >= len(said) and logprobs.text.startswith(alternative, int(logprobs.offsets[token]))
        if alternative and logprob >= least and not same:  # NaN is below
            yield BranchPoint(
                token=token,
                entropy=float(logprobs.entropy[token]),
                kind=kind,
                decision=decision,
                alternative=alternative,
                logprob=logprob,
                id=None if others.ids is None else int(others.ids[token]),
            )
