"""What the votes of rollouts count for that branched: each has a share of the vote of the one it branched from."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby

from entcent_agents.trajectory import Branch, Rollout


def branch_shares(rollouts: Sequence[Rollout]) -> Mapping[int, float]:
    """The share of a vote that each rollout has, by its index; 1 for those that branched from nobody.

    A sampled rollout stands for what the model would do as often as it would do it. A branch does not: a policy took
    an alternative that the model held for less likely. So the vote that a rollout has when others branch from it is
    divided as the model's probabilities of the tokens that they differ in (`Branch.odds`): p_i over the sum of those of
    the parent and of all that branched there. Where odds are not known, or a turn was made anew, the parts are equal.

    What the model gives to tokens that nobody took is left out: shares of all that go back to one sampled rollout add
    up to 1, where all of them vote.

    Args:
        rollouts: Those that vote. A parent that is not among them has its part all the same, as of a whole vote: what
            it had itself of another's is not known.
    """
    branches = {rollout.index: rollout.branch for rollout in rollouts if rollout.branch is not None}
    children: defaultdict[int, list[int]] = defaultdict(list)
    for index, branch in branches.items():
        children[branch.parent].append(index)
    shares = {index: 1.0 for index in [*(rollout.index for rollout in rollouts), *children] if index not in branches}

    def place(index: int) -> tuple[int, int]:
        return branches[index].turn, branches[index].token

    waiting = [*shares]
    while waiting:
        parent = waiting.pop()
        for _, siblings in groupby(sorted(children.get(parent, ()), key=place), place):
            group = [*siblings]
            whole = shares[parent]
            shares[parent], *parts = [whole * part for part in _parts([branches[index] for index in group])]
            shares.update(zip(group, parts, strict=True))
            waiting += group
    return {rollout.index: shares[rollout.index] for rollout in rollouts}


def _parts(branches: Sequence[Branch]) -> list[float]:
    """How a share is divided among a parent, the first, and those that branched from it at one token."""
    odds = [1.0, *(_odds(each) for each in branches)]
    if any(math.isnan(each) for each in odds):
        return [1.0 / len(odds)] * len(odds)
    return [each / math.fsum(odds) for each in odds]


def _odds(branch: Branch) -> float:
    """Not a number where they are not known, or the turn was made anew: it is a sample then, as the parent's is."""
    if branch.odds is None or branch.method not in ("continued", "forced"):
        return math.nan
    return branch.odds
