"""One stored rollout, and the columns that both forms of the store keep of it.

The columns are the schema, version 2; docs/evaluation.md explains them. Token columns are arrays over all listed tokens
of all turns, in order; `turns` says where one ends. What the tokens say is not kept, only which kind each is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from entcent_agents.errors import EntcentError
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.trajectory import Branch, Rollout, Trajectory, Turn, Usage
from evals.errors import StoreError

SCHEMA_VERSION: Final = 2
READ_SCHEMAS: Final = ("1", "2")
"""Schemas that this release reads; the first knew no branches."""

ColumnType = Literal["text", "integer", "real", "floats", "bytes"]
"""`floats` are float32 arrays and `bytes` uint8 arrays, one element a token."""

TaskKey = tuple[str, str]
"""(suite, task): tasks are unique in their suite."""


class ColumnSpec(NamedTuple):
    """A column of the schema."""

    name: str
    type: ColumnType
    required: bool = True
    since: int = 1


COLUMNS: Final = (
    ColumnSpec("suite", "text"),
    ColumnSpec("task", "text"),
    ColumnSpec("rollout", "integer"),
    ColumnSpec("category", "text"),
    ColumnSpec("status", "text"),
    ColumnSpec("reward", "real", required=False),
    ColumnSpec("reason", "text"),
    ColumnSpec("derived", "text"),
    ColumnSpec("error", "text", required=False),
    ColumnSpec("outcome", "text", required=False),
    ColumnSpec("replies", "text"),
    ColumnSpec("seed", "integer", required=False),
    ColumnSpec("prompt_tokens", "integer"),
    ColumnSpec("generated_tokens", "integer"),
    ColumnSpec("reused_tokens", "integer"),
    ColumnSpec("model_calls", "integer"),
    ColumnSpec("seconds", "real"),
    ColumnSpec("ended_at", "real"),
    ColumnSpec("branch", "text", required=False, since=2),
    ColumnSpec("turns", "text"),
    ColumnSpec("logprob", "floats"),
    ColumnSpec("entropy", "floats"),
    ColumnSpec("residual", "floats"),
    ColumnSpec("confidence", "floats"),
    ColumnSpec("kind", "bytes"),
)
_FLOATS: Final = tuple(column.name for column in COLUMNS if column.type == "floats")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRollout:
    """One rollout of one task, judged.

    Attributes:
        suite: Name of the suite.
        category: The part of the suite that the task is counted in.
        task: Identifier of the task, unique in the suite.
        rollout: What was generated; its index is its number among the rollouts of the task.
        reward: What the checker gave, in [0, 1]; None where it could not judge.
        reason: Why not 1, in the checker's words.
        derived: Figures of ours from the same checker; not official.
        replies: What the model wrote, plain JSON-able values.
        seed: Of the first request; None where the model takes none.
        ended_at: When, in seconds since 1970.
    """

    suite: str
    category: str
    task: str
    rollout: Rollout
    reward: float | None
    reason: str = ""
    derived: Mapping[str, float] = field(default_factory=dict[str, float])
    replies: Sequence[Any] = ()
    seed: int | None = None
    ended_at: float = 0.0

    @property
    def key(self) -> TaskKey:
        """The task it is a rollout of."""
        return (self.suite, self.task)

    def to_row(self) -> dict[str, Any]:
        """Its columns, arrays as arrays."""
        rollout = self.rollout
        return {
            "suite": self.suite,
            "task": self.task,
            "rollout": rollout.index,
            "category": self.category,
            "status": rollout.status,
            "reward": self.reward,
            "reason": self.reason,
            "derived": _json(dict(self.derived)),
            "error": rollout.error,
            "outcome": rollout.vote_key,
            "replies": _json(list(self.replies)),
            "seed": self.seed,
            "prompt_tokens": rollout.usage.prompt_tokens,
            "generated_tokens": rollout.usage.generated_tokens,
            "reused_tokens": rollout.usage.reused_tokens,
            "model_calls": rollout.usage.model_calls,
            "seconds": rollout.seconds,
            "ended_at": self.ended_at,
            "branch": _json(rollout.branch.to_dict()) if rollout.branch else None,
            "turns": _json([_turn(turn) for turn in rollout.trajectory.turns]),
            **_token_columns(rollout.trajectory),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> StoredRollout:
        """Read what `to_row` wrote.

        Raises:
            StoreError: On columns that do not fit each other.
        """
        try:
            return cls(
                suite=row["suite"],
                category=row["category"],
                task=row["task"],
                rollout=_rollout(row),
                reward=row["reward"],
                reason=row["reason"],
                derived=json.loads(row["derived"]),
                replies=json.loads(row["replies"]),
                seed=row["seed"],
                ended_at=row["ended_at"],
            )
        except (KeyError, TypeError, ValueError, EntcentError) as error:
            where = f"{row.get('suite')}/{row.get('task')}, rollout {row.get('rollout')}"
            raise StoreError(f"{where} cannot be read: {error!r}; the store was changed by something else") from error


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _turn(turn: Turn) -> dict[str, Any]:
    top_k = turn.logprobs.top_k if turn.logprobs else None
    reused = {"reused": turn.reused_tokens} if turn.reused_tokens else {}
    return {"generated": turn.generated_tokens, "listed": turn.listed_tokens, "top_k": top_k, **reused}


def _token_columns(trajectory: Trajectory) -> dict[str, NDArray[Any]]:
    found = [turn.logprobs for turn in trajectory.turns if turn.logprobs]
    floats = {
        name: np.concatenate([np.empty(0, np.float32), *(getattr(logprobs, name) for logprobs in found)])
        for name in _FLOATS
    }
    return {**floats, "kind": np.concatenate([np.empty(0, np.uint8), *(logprobs.kind for logprobs in found)])}


def _rollout(row: Mapping[str, Any]) -> Rollout:
    turns: list[Turn] = []
    start = 0
    for place, turn in enumerate(json.loads(row["turns"])):
        end = start + turn["listed"]
        logprobs = None if turn["top_k"] is None else _logprobs(row, start, end, turn["top_k"])
        turns.append(
            Turn(
                message_id=f"turn {place}",
                generated_tokens=turn["generated"],
                logprobs=logprobs,
                reused_tokens=turn.get("reused", 0),
            )
        )
        start = end
    if start != len(row["entropy"]):
        raise ValueError(f"{len(row['entropy'])} tokens, of which the turns have {start}")
    return Rollout(
        index=row["rollout"],
        thread_id=f"{row['suite']}/{row['task']}:{row['rollout']}",
        status=row["status"],
        trajectory=Trajectory(turns=tuple(turns)),
        usage=Usage(
            prompt_tokens=row["prompt_tokens"],
            generated_tokens=row["generated_tokens"],
            reused_tokens=row["reused_tokens"],
            model_calls=row["model_calls"],
        ),
        seconds=row["seconds"],
        error=row["error"],
        vote_key=row["outcome"],
        branch=Branch.from_dict(json.loads(row["branch"])) if row["branch"] else None,
    )


def _logprobs(row: Mapping[str, Any], start: int, end: int, top_k: int) -> TokenLogprobs:
    columns: dict[str, Any] = {name: np.array(row[name][start:end], np.float32) for name in _FLOATS}
    return TokenLogprobs(
        text=b"",
        offsets=np.zeros(end - start + 1, np.int32),
        kind=np.array(row["kind"][start:end], np.uint8),
        top_k=top_k,
        **columns,
    )
