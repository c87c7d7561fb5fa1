"""What a rollout leaves behind: turns, trajectory, usage, outcome. Frozen records, plain when serialised."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from entcent_agents import errors
from entcent_agents.centroid import entropy_centroid
from entcent_agents.confidence import mean_entropy
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.phases import PhaseConfig, high_entropy_phases
from entcent_agents.segments import SegmentKind

RECORD_VERSION: Final = 4
READ_VERSIONS: Final = (1, 2, 3, 4)
"""Versions of a rollout's record that this release reads. The first knew neither held nor plain rollouts, the second
nothing of cached tokens, calls that were cut off, cost, and what a request had used before, the third no branches."""

Column = Literal["entropy", "logprob", "confidence"]
"""A per-token quantity of `TokenLogprobs` that signals are taken from."""
T = TypeVar("T")
Decision = Literal["call", "tool", "argument"]
"""What a token decides: whether a tool is called or an answer given, which tool, the value of an argument."""
BranchMethod = Literal["continued", "forced", "resampled"]
"""From the parent's tokens and the alternative; the alternative tool, its turn anew; the whole turn anew."""
Status = Literal["finished", "held", "unfinished", "failed"]
CANDIDATES: Final = ("finished", "held")
"""Rollouts that can be selected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of a rollout, in tokens of the model's own tokenizer; a lower bound where calls were cut off.

    Attributes:
        prompt_tokens: Tokens read by the server, those it had cached included.
        cached_tokens: Of these, what the server says it had cached.
        generated_tokens: Tokens the server sampled for us; of calls without a count, those that were seen to arrive.
        reused_tokens: Tokens of the trajectory that were generated, and counted, in the rollout it branched from.
        model_calls: Requests answered.
        cut_calls: Calls of which no count of the server's is known: cut off, failed after they had begun, or answered
            without one.
        cost: Of these tokens, in the currency of the prices; None where a model has no price.
        charged_tokens: What a budget was charged: of calls without a count, the most they may have used.
        charged_cost: The same in money.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    reused_tokens: int = 0
    model_calls: int = 0
    cut_calls: int = 0
    cost: float | None = 0.0
    charged_tokens: int = 0
    charged_cost: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            generated_tokens=self.generated_tokens + other.generated_tokens,
            reused_tokens=self.reused_tokens + other.reused_tokens,
            model_calls=self.model_calls + other.model_calls,
            cut_calls=self.cut_calls + other.cut_calls,
            cost=None if self.cost is None or other.cost is None else self.cost + other.cost,
            charged_tokens=self.charged_tokens + other.charged_tokens,
            charged_cost=self.charged_cost + other.charged_cost,
        )

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what `asdict` made; nobody knows what a usage cost that was recorded before there were prices."""
        return cls(**{**dict[str, Any](cost=None), **record})


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a request has used up to some point, each rollout counted once.

    Attributes:
        usage: Of all model calls.
        rollouts: How many were begun.
        borrowed: Of these, how many were beyond the node's n: a pool or a batch lent them.
        rounds: How many came to a commit.
        seconds: Of its nodes, so without the time that people take to answer.
        seconds_to_first_visible: From its beginning to its first commit, which is the first thing that a user can see;
            None before that.
    """

    usage: Usage = field(default_factory=Usage)
    rollouts: int = 0
    borrowed: int = 0
    rounds: int = 0
    seconds: float = 0.0
    seconds_to_first_visible: float | None = None

    def plus(self, rollouts: Sequence[Rollout], *, seconds: float, rounds: int = 0, borrowed: int = 0) -> Spent:
        """With these rollouts and so much time besides; the first round that is added makes them visible."""
        seconds += self.seconds
        first = self.seconds_to_first_visible
        return Spent(
            usage=sum((rollout.usage for rollout in rollouts), self.usage),
            rollouts=self.rollouts + len(rollouts),
            borrowed=self.borrowed + borrowed,
            rounds=self.rounds + rounds,
            seconds=seconds,
            seconds_to_first_visible=seconds if first is None and rounds else first,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able form, flat: the usage record of a request."""
        return {
            "rollouts": self.rollouts,
            "borrowed": self.borrowed,
            "rounds": self.rounds,
            **asdict(self.usage),
            "seconds": self.seconds,
            "seconds_to_first_visible": self.seconds_to_first_visible,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        own = {name: record[name] for name in ("rollouts", "borrowed", "rounds", "seconds", "seconds_to_first_visible")}
        return cls(usage=Usage.from_dict({name: value for name, value in record.items() if name not in own}), **own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One model generation that entered the agent's messages.

    Attributes:
        message_id: Identifier of the AIMessage.
        generated_tokens: Tokens the server generated for it.
        logprobs: Their log-probabilities, as far as the server gave them; None where it gave none.
        reused_tokens: Of these, the first ones, which were generated for the rollout that this one branched from.

    Example:
        >>> from entcent_agents import Turn
        >>> from entcent_agents.testing import scripted_logprobs
        >>> turn = Turn(message_id="a", generated_tokens=5, logprobs=scripted_logprobs([0.4, 0.1]))
        >>> turn.scored_tokens, turn.unlisted_tokens
        (2, 3)
    """

    message_id: str
    generated_tokens: int
    logprobs: TokenLogprobs | None = None
    reused_tokens: int = 0

    @property
    def scored_tokens(self) -> int:
        """Tokens of this turn that carry a distribution."""
        return self.logprobs.scored_tokens if self.logprobs else 0

    @property
    def listed_tokens(self) -> int:
        """Tokens of this turn that the server listed, with or without a distribution."""
        return len(self.logprobs) if self.logprobs else 0

    @property
    def unlisted_tokens(self) -> int:
        """Tokens that the server generated and did not list."""
        return max(self.generated_tokens - self.listed_tokens, 0)

    def to_dict(self, *, text: bool = False) -> dict[str, Any]:
        """Plain JSON-able form; what the tokens say only where `text` asks for it."""
        return {
            "message_id": self.message_id,
            "generated_tokens": self.generated_tokens,
            "logprobs": self.logprobs.to_dict(text=text) if self.logprobs else None,
            "reused_tokens": self.reused_tokens,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        logprobs = record["logprobs"]
        return cls(
            message_id=record["message_id"],
            generated_tokens=record["generated_tokens"],
            logprobs=TokenLogprobs.from_dict(logprobs) if logprobs else None,
            reused_tokens=record.get("reused_tokens", 0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """Where a rollout left its parent.

    Attributes:
        parent: The index of the rollout it branched from.
        turn: The turn it branched in, from 0.
        token: The token of that turn which it does not share with its parent, from 0.
        entropy: Of that token, nats.
        kind: What the parent's token belongs to.
        decision: What was decided there.
        method: How the rest of the turn was made; None where it was not.
        odds: How likely the model held what was taken instead, over how likely what the parent has there.
    """

    parent: int
    turn: int
    token: int
    entropy: float
    kind: SegmentKind
    decision: Decision
    method: BranchMethod | None
    odds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able form. What was written at the token, neither here nor there: records say nothing of that."""
        return {**asdict(self), "kind": int(self.kind)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        fields = dict[str, Any](record)
        fields["kind"] = SegmentKind(fields["kind"])
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """The ordered turns of a rollout, over the whole task.

    Example:
        >>> from entcent_agents import Trajectory, Turn
        >>> from entcent_agents.testing import scripted_logprobs
        >>> turn = Turn(message_id="a", generated_tokens=4, logprobs=scripted_logprobs([0.4, 0.1]))
        >>> Trajectory(turns=(turn, turn)).coverage
        0.5
    """

    turns: tuple[Turn, ...] = ()

    def append(self, turn: Turn) -> Trajectory:
        """The trajectory with one more turn; percentiles move, so every signal is that of the whole."""
        return Trajectory(turns=(*self.turns, turn))

    def only(self, kinds: Collection[SegmentKind]) -> Trajectory:
        """What is left of it where tokens of these kinds alone count, say those of tool arguments.

        Tokens that were never listed may be of any kind: as many of them count as the share of these kinds among the
        listed ones. So a part is covered about as well as the whole.
        """
        wanted = frozenset(kinds)
        return self.remember(("only", wanted), lambda: self._only(wanted))

    def column(self, name: Column) -> NDArray[np.float64]:
        """One quantity of every token that has it, turns in order, shape `(L,)`."""
        return self.remember(("column", name), lambda: self._column(name))

    @property
    def entropy(self) -> NDArray[np.float64]:
        """Nats of every scored token of every turn, in order, shape `(L,)`."""
        return self.column("entropy")

    @property
    def scored_tokens(self) -> int:
        """L: tokens that carry a distribution."""
        return len(self.entropy)

    @property
    def generated_tokens(self) -> int:
        """Tokens generated in all turns, scored or not."""
        return self.remember(
            "generated_tokens", lambda: sum(turn.listed_tokens + turn.unlisted_tokens for turn in self.turns)
        )

    @property
    def coverage(self) -> float:
        """Scored tokens over generated tokens, in [0, 1]; 0 for a trajectory without tokens."""
        return self.coverage_of("entropy")

    def coverage_of(self, name: Column) -> float:
        """Tokens that carry this quantity over generated tokens, in [0, 1]; 0 for a trajectory without tokens."""
        return len(self.column(name)) / self.generated_tokens if self.generated_tokens else 0.0

    @property
    def mean_entropy(self) -> float | None:
        """Mean over the scored tokens, nats; None without any."""
        return self.remember("mean_entropy", lambda: mean_entropy(self.entropy))

    @property
    def top_k(self) -> int | None:
        """The k behind the entropies; None without scored tokens, 0 where turns differ (they do not compare)."""
        return self.remember("top_k", self._top_k)

    def phases(self, config: PhaseConfig | None = None) -> int:
        """How many high-entropy phases there are."""
        config = config or PhaseConfig()
        return self.remember(("phases", config), lambda: len(high_entropy_phases(self.entropy, config)))

    def centroid(self, config: PhaseConfig | None = None) -> float | None:
        """The entropy centroid, in (0, 1); None without a phase."""
        config = config or PhaseConfig()
        return self.remember(("centroid", config), lambda: entropy_centroid(self.entropy, config))

    def remember(self, key: Hashable, value: Callable[[], T]) -> T:
        """The value under this key, worked out once: many selectors look at one trajectory."""
        memory = self._memory
        if key not in memory:
            memory[key] = value()
        return memory[key]

    @cached_property
    def _memory(self) -> dict[Hashable, Any]:
        return {}

    def _top_k(self) -> int | None:
        found = {turn.logprobs.top_k for turn in self.turns if turn.logprobs and turn.scored_tokens}
        return (found.pop() if len(found) == 1 else 0) if found else None

    def _only(self, kinds: frozenset[SegmentKind]) -> Trajectory:
        cut = tuple(
            replace(turn, generated_tokens=len(kept), logprobs=kept)
            for turn in self.turns
            if turn.logprobs
            for kept in [turn.logprobs.only(kinds)]
        )
        listed = sum(turn.listed_tokens for turn in self.turns)
        share = sum(turn.listed_tokens for turn in cut) / listed if listed else 1.0
        unlisted = int(share * sum(turn.unlisted_tokens for turn in self.turns))
        return Trajectory(turns=(*cut, Turn(message_id="", generated_tokens=unlisted)) if unlisted else cut)

    def _column(self, name: Column) -> NDArray[np.float64]:
        found = [getattr(turn.logprobs, name) for turn in self.turns if turn.logprobs]
        values = np.concatenate(found).astype(np.float64) if found else np.empty(0)
        values = values[np.isfinite(values)]
        values.setflags(write=False)
        return values


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One speculative attempt.

    Attributes:
        index: Its number among the rollouts of a request, from 0.
        thread_id: The thread it ran on, in the rollouts' own checkpointer.
        status: `finished` (a final answer), `held` (stopped before an external call, or to ask a person), `unfinished`
            (neither), `failed`.
        trajectory: Its turns.
        usage: Tokens of all its model calls, those outside the trajectory included.
        seconds: Wall-clock time it took.
        error: What went wrong, in one line; None where nothing did. Records keep the name alone of an error that is
            not this library's.
        vote_key: What it came to, in canonical form and digested: equal keys are equal outcomes; None: no outcome.
        forks: Where its forks of the environments are, by environment name.
        output: What it adds to the agent's state, packed; opened at commit only.
        plain: Whether it was run in the place of rollouts that failed, and needs no log-probabilities.
        spent: What its request used beside the rollouts that it stands with; of one that was committed and is held,
            all that the request used up to there. None where another record of the round says it.
        branch: Where it left another rollout; None where it was sampled from the beginning.
        votes: How many votes it has: one, and one for each other that came to the same and was merged into it. Records
            do not have them, because rollouts are never merged there.

    Example:
        >>> from entcent_agents import Rollout
        >>> from entcent_agents.testing import scripted_rollouts
        >>> rollout = scripted_rollouts([0.4, 0.1])[0]
        >>> rollout.status, Rollout.from_dict(rollout.to_dict()).trajectory.scored_tokens
        ('finished', 2)
    """

    index: int
    thread_id: str
    status: Status
    trajectory: Trajectory = field(default_factory=Trajectory)
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    error: str | None = None
    vote_key: str | None = None
    forks: Mapping[str, str] = field(default_factory=dict[str, str])
    output: str | None = None
    plain: bool = False
    spent: Spent | None = None
    branch: Branch | None = None
    votes: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able form, without the text of the tokens."""
        return {
            "version": RECORD_VERSION,
            "index": self.index,
            "thread_id": self.thread_id,
            "status": self.status,
            "turns": [turn.to_dict() for turn in self.trajectory.turns],
            "usage": asdict(self.usage),
            "seconds": self.seconds,
            "error": _without_quotes(self.error),
            "vote_key": self.vote_key,
            "forks": dict(self.forks),
            "output": self.output,
            "plain": self.plain,
            "spent": self.spent.to_dict() if self.spent else None,
            "branch": self.branch.to_dict() if self.branch else None,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            RecordingError: On a record of another version.
        """
        if record.get("version") not in READ_VERSIONS:
            raise errors.RecordingError(
                f"a rollout record of version {record.get('version')!r}; this release reads "
                f"{', '.join(map(str, READ_VERSIONS))}"
            )
        return cls(
            index=record["index"],
            thread_id=record["thread_id"],
            status=record["status"],
            trajectory=Trajectory(turns=tuple(Turn.from_dict(turn) for turn in record["turns"])),
            usage=Usage.from_dict(record["usage"]),
            seconds=record["seconds"],
            error=record["error"],
            vote_key=record["vote_key"],
            forks=dict(record["forks"]),
            output=record["output"],
            plain=record.get("plain", False),
            spent=Spent.from_dict(record["spent"]) if record.get("spent") else None,
            branch=Branch.from_dict(record["branch"]) if record.get("branch") else None,
        )


def _without_quotes(error: str | None) -> str | None:
    """An error as records may have it: records are streamed, and other libraries' messages quote what was generated."""
    name = (error or "").partition(":")[0]
    return error if error is None or " " in name or hasattr(errors, name) else name
