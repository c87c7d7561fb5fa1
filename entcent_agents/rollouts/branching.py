"""How the rollouts of a round branch: who may begin, and from whom."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from entcent_agents.branching import BranchPoint
from entcent_agents.branching.policy import BranchPolicy
from entcent_agents.branching.watch import Watch
from entcent_agents.chat.branches import BRANCH_METHODS
from entcent_agents.errors import ConfigurationError
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.rollouts.heritage import Heritage, Origin
from entcent_agents.rollouts.places import Places
from entcent_agents.rollouts.stopping import Stopping
from entcent_agents.trajectory import BranchMethod, Turn

BeginBranch = Callable[[int, Heritage], Awaitable[None]]
"""Begins a rollout of this index with what it has from its parent."""


@dataclass(frozen=True, slots=True)
class Branching:
    """Begin few rollouts, and let them branch where they hesitate, up to the node's n in all.

    Attributes:
        policy: Where and how often a rollout branches.
        initial: How many rollouts are sampled from the beginning.
        methods: In which ways a branch may be made; the best one that the server can do is taken.

    Raises:
        ConfigurationError: On settings that cannot work.

    Example:
        >>> from entcent_agents import Branching, ParallelRollouts, ScriptedChat, ScriptedTurn
        >>> from langchain.agents import create_agent
        >>> agent = create_agent(ScriptedChat(scripts=[[ScriptedTurn(text="Gentoo.")]]))
        >>> rollouts = ParallelRollouts(agent, n=8, branching=Branching(initial=2))
        >>> rollouts.branching.initial, rollouts.n  # two are begun, and branch where they hesitate, up to eight
        (2, 8)
    """

    policy: BranchPolicy = field(default_factory=BranchPolicy)
    initial: int = 2
    methods: tuple[BranchMethod, ...] = BRANCH_METHODS

    def __post_init__(self) -> None:
        if not isinstance(self.policy, BranchPolicy):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"branching: policy={self.policy!r} must be a BranchPolicy")
        if self.initial < 1:
            raise ConfigurationError(f"branching: initial={self.initial} rollouts: at least one is needed")
        if not self.methods or not {*self.methods} <= {*BRANCH_METHODS}:
            raise ConfigurationError(f"branching: methods={self.methods!r} must be some of {', '.join(BRANCH_METHODS)}")


class Tree:
    """The rollouts of a round as they branch. It lives on the round's event loop.

    Args:
        branching: How.
        places: Where branches may begin.
        begin: Begins one; when it returns, the branch outlives whatever the rollouts do, as far as their store does.
        recorded: Where rollouts branched that another process began.
        stopping: What ends rollouts early; once they agree nothing branches any more.
    """

    def __init__(
        self,
        branching: Branching,
        places: Places,
        begin: BeginBranch,
        recorded: Iterable[Origin] = (),
        stopping: Stopping | None = None,
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.methods: tuple[BranchMethod, ...] = branching.methods
        self.begin = begin
        self._watch = Watch(branching.policy)
        self._stopping = stopping
        self._places = places
        self._recorded = Counter[tuple[int, int]]()
        for origin in recorded:
            self._recorded[origin.parent, origin.turn] += 1
            self._watch.recall_branch(origin.parent, origin.turn, origin.said, origin.point, prompt=origin.prompt)

    def points(
        self, rollout: int, turn: int, logprobs: TokenLogprobs, *, reused: int, prompt: str
    ) -> list[tuple[int, BranchPoint]]:
        """Where a turn branches, each with the index of the branch; for the arguments see `Watch.points`."""
        room = 0 if self._stopping and self._stopping.agreed else self._places.room
        points = self._watch.points(rollout, turn, logprobs, room=room, reused=reused, prompt=prompt)
        found = [*zip(self._places.take(len(points)), points, strict=False)]  # others may be lent what there was
        for point in points[len(found) :]:
            self._watch.take_back(rollout, turn, logprobs, point, prompt=prompt)
        for index, _ in found:
            self._watch.begin(index, parent=rollout, turn=turn)
        return found

    def recall(self, rollout: int, before: int, turns: Sequence[Turn]) -> None:
        """Take up the turns of a rollout of another process.

        Args:
            rollout: Its index.
            before: How many turns it had before this round.
            turns: Those of this round.
        """
        for number, turn in enumerate(turns, before):
            if turn.logprobs:
                branches = self._recorded[rollout, number]
                self._watch.recall(rollout, number, turn.logprobs, branches=branches, reused=turn.reused_tokens)

    def give_back(self, index: int, origin: Origin) -> None:
        """A branch was not made: another one may have its index, and its place.

        Args:
            index: Its index.
            origin: Where it was to leave its parent.
        """
        self._watch.take_back(origin.parent, origin.turn, origin.said, origin.point, prompt=origin.prompt)
        self._places.give_back(index)
