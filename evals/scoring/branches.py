"""Where the rollouts of a run branched, and what came of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from entcent_agents.branching import allocate
from entcent_agents.trajectory import Branch
from evals.scoring.candidates import TaskRollouts
from evals.store import StoredRollout, StoredRun


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchLine:
    """The branches of one kind of decision that were made in one way.

    Attributes:
        decision: What was decided.
        method: How the rest of the turn was made.
        branches: How many.
        entropy: Where they left their parents, the mean, nats.
        other_calls: How many make other calls than their parents in the turn they branched in: another tool, other
            arguments, or calls where the parent answered.
        other_tools: How many of these differ in the names of the tools.
        other_outcomes: How many came to another outcome.
        better: How many are right where their parents are wrong.
        worse: How many are wrong where their parents are right.
    """

    decision: str
    method: str
    branches: int
    entropy: float
    other_calls: int
    other_tools: int
    other_outcomes: int
    better: int
    worse: int


class _Pair(NamedTuple):
    """A branch beside the rollout that it left."""

    branch: Branch
    child: StoredRollout
    parent: StoredRollout


def branch_lines(tasks: Iterable[TaskRollouts]) -> list[BranchLine]:
    """One line for each kind of decision and method that there is, by name, and one for all of them."""
    parts: defaultdict[tuple[str, str], list[_Pair]] = defaultdict(list)
    for task in tasks:
        by_index = {one.rollout.index: one for one in task.stored}
        for child in task.stored:
            if branch := child.rollout.branch:
                parts[branch.decision, branch.method or "sampled"].append(_Pair(branch, child, by_index[branch.parent]))
    if not parts:
        return []
    everything = [pair for part in parts.values() for pair in part]
    return [*(_line(*name, parts[name]) for name in sorted(parts)), _line("all", "all", everything)]


def without_second_pass(run: StoredRun) -> int:
    """How many tasks of a run have yet to get what others did not use: until then its figures are of a first pass."""
    if not run.adapts:
        return 0
    n = run.settings["n"]
    first = {key: [one for one in task if one.rollout.index < n] for key, task in run.tasks.items()}
    unsolved = [key for key, task in first.items() if not any(map(_right, task))] if run.uses_labels else None
    due = allocate({key: len(task) for key, task in first.items()}, n, unsolved=unsolved)
    return max(len(due) - sum(len(task) > len(first[key]) for key, task in run.tasks.items()), 0)


def _line(decision: str, method: str, pairs: Sequence[_Pair]) -> BranchLine:
    turns = [(_calls(pair.child, pair.branch.turn), _calls(pair.parent, pair.branch.turn)) for pair in pairs]
    rewards = [(_right(pair.child), _right(pair.parent)) for pair in pairs]
    return BranchLine(
        decision=decision,
        method=method,
        branches=len(pairs),
        entropy=float(np.mean([pair.branch.entropy for pair in pairs])),
        other_calls=sum(ours != theirs for ours, theirs in turns),
        other_tools=sum([name for name, _ in ours] != [name for name, _ in theirs] for ours, theirs in turns),
        other_outcomes=sum(pair.child.rollout.vote_key != pair.parent.rollout.vote_key for pair in pairs),
        better=sum(ours and not theirs for ours, theirs in rewards),
        worse=sum(theirs and not ours for ours, theirs in rewards),
    )


def _calls(stored: StoredRollout, turn: int) -> list[Any]:
    return stored.replies[turn]["calls"]


def _right(stored: StoredRollout) -> bool:
    return (stored.reward or 0.0) >= 1.0
