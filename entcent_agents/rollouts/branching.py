"""How the rollouts of a round branch: who may begin, and from whom."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from entcent_agents.branching import BranchPoint
from entcent_agents.branching.policy import BranchPolicy
from entcent_agents.branching.watch import Watch
from entcent_agents.chat.branches import BRANCH_METHODS
from entcent_agents.errors import ConfigurationError
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.rollouts.heritage import Heritage
from entcent_agents.trajectory import BranchMethod


@dataclass(frozen=True, slots=True)
class Branching:
    """Begin few rollouts, and let them branch where they hesitate, up to the node's n in all.

    Attributes:
        policy: Where and how often a rollout branches.
        initial: How many rollouts are sampled from the beginning.
        methods: In which ways a branch may be made; the first that the server can do, in this order.

    Raises:
        ConfigurationError: On settings that cannot work.
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
        free: Indices that branches may have: as many as may begin.
        begin: Begins one; when it returns, the branch outlives whatever the rollouts do, as far as their store does.
    """

    def __init__(
        self, branching: Branching, free: Iterable[int], begin: Callable[[int, Heritage], Awaitable[None]]
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.methods = branching.methods
        self.begin = begin
        self._watch = Watch(branching.policy)
        self._free = [*free]
        heapify(self._free)

    def points(
        self, rollout: int, turn: int, logprobs: TokenLogprobs, *, reused: int, prompt: str
    ) -> list[tuple[int, BranchPoint]]:
        """Where a turn branches, each with the index of the branch; for the arguments see `Watch.points`."""
        points = self._watch.points(
            rollout, turn, logprobs, room=len(self._free), reused=reused, prompt=prompt
        )
        found = [(heappop(self._free), point) for point in points]
        for index, _ in found:
            self._watch.begin(index, rollout)
        return found

    def give_back(self, index: int) -> None:
        """A branch could not be made: another one may have its index."""
        heappush(self._free, index)
