"""What the votes of rollouts count for that branched: each has a share of the vote of the one it branched from."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby

from entcent_agents.trajectory import Rollout

_Place = tuple[int, int]
"""A turn, and a token of it."""


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
    children: defaultdict[int, list[tuple[_Place, Rollout]]] = defaultdict(list)
    for rollout in rollouts:
        if rollout.branch is not None:
            children[rollout.branch.parent].append(((rollout.branch.turn, rollout.branch.token), rollout))
    branched = {rollout.index for rollout in rollouts if rollout.branch is not None}
    shares = {index: 1.0 for index in [*(rollout.index for rollout in rollouts), *children] if index not in branched}
    waiting = [*shares]
    while waiting:
        parent = waiting.pop()
        for _, siblings in groupby(sorted(children.get(parent, ()), key=_place), _place):
            group = [rollout for _, rollout in siblings]
            whole = shares[parent]
            shares[parent], *parts = [whole * part for part in _parts(group)]
            shares.update({child.index: part for child, part in zip(group, parts, strict=True)})
            waiting += [child.index for child in group]
    return {rollout.index: shares[rollout.index] for rollout in rollouts}


def _place(child: tuple[_Place, Rollout]) -> _Place:
    return child[0]


def _parts(branches: Sequence[Rollout]) -> list[float]:
    """How a share is divided among a parent, the first, and those that branched from it at one token."""
    odds = [1.0, *(_odds(each) for each in branches)]
    if any(math.isnan(each) for each in odds):
        return [1.0 / len(odds)] * len(odds)
    return [each / math.fsum(odds) for each in odds]


def _odds(rollout: Rollout) -> float:
    """Not a number where they are not known, or the turn was made anew: it is a sample then, as the parent's is."""
    branch = rollout.branch
    if branch is None or branch.odds is None or branch.method not in ("continued", "forced"):
        return math.nan
    return branch.odds
