"""What a rollout has from the one that it branched from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from entcent_agents.branching import BranchPoint
from entcent_agents.environments import Fork
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.rollouts.calls import Key
from entcent_agents.rollouts.overlay import StoreWrite
from entcent_agents.rollouts.store import Checkpoints
from entcent_agents.segments import SegmentKind
from entcent_agents.trajectory import Branch, BranchMethod, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a rollout left its parent.

    Attributes:
        parent: The parent's index.
        turn: The turn that it branched in, from 0.
        prompt: Digest of what that turn answers.
        point: The token that the parent keeps, and what stands in its place here.
        said: The parent's turn.
    """

    parent: int
    turn: int
    prompt: str
    point: BranchPoint
    said: TokenLogprobs

    def branch(self, method: BranchMethod | None) -> Branch:
        """As records have it.

        Args:
            method: How the rest of the turn was made; None where it was not.
        """
        point = self.point
        return Branch(
            parent=self.parent,
            turn=self.turn,
            token=point.token,
            entropy=point.entropy,
            kind=point.kind,
            decision=point.decision,
            method=method,
            odds=point.odds(self.said),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain form, with what the tokens say: for the journal of a rollout alone."""
        point = {**asdict(self.point), "kind": int(self.point.kind)}
        return {
            "parent": self.parent,
            "turn": self.turn,
            "prompt": self.prompt,
            "point": point,
            "said": self.said.to_dict(),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        point: dict[str, Any] = {**record["point"], "kind": SegmentKind(record["point"]["kind"])}
        return cls(
            parent=record["parent"],
            turn=record["turn"],
            prompt=record["prompt"],
            point=BranchPoint(**point),
            said=TokenLogprobs.from_dict(record["said"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Heritage:
    """All that a branch begins with.

    Attributes:
        origin: Where it left its parent.
        turns: The parent's, as reused ones, each with what its message says.
        writes: The parent's to the LangGraph store.
        results: Of the parent's tool calls, for those that run again.
        thread: What the parent's thread has; known to a branch that is begun here. All that is on it has its turns and
            store writes here: these are read after it.
        forks: Of the parent's forks; known to a branch that is begun here.
    """

    origin: Origin
    turns: Sequence[tuple[Turn, str]] = ()
    writes: Sequence[StoreWrite] = ()
    results: Mapping[Key, Mapping[str, Any]] = field(default_factory=dict[Key, Mapping[str, Any]])
    thread: Checkpoints = ()
    forks: Mapping[str, Fork] = field(default_factory=dict[str, Fork])

    def to_dict(self) -> dict[str, Any]:
        """Plain form for the journal, which keeps the forks beside it."""
        return {
            "origin": self.origin.to_dict(),
            "turns": [[turn.to_dict(), words] for turn, words in self.turns],
            "writes": [list(write) for write in self.writes],
            "results": [[list(key), value] for key, value in self.results.items()],
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(
            origin=Origin.from_dict(record["origin"]),
            turns=[(Turn.from_dict(turn), words) for turn, words in record["turns"]],
            writes=record["writes"],
            results={tuple(key): value for key, value in record["results"]},
        )
