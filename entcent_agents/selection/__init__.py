"""Selectors: which of several rollouts to commit, and why.

A selector is anything with a `name` and a `select(rollouts) -> Selection`. One of your own, in five lines::

    class FewestTurns:
        name = "fewest turns"
        def select(self, rollouts: Sequence[Rollout]) -> Selection:
            return rank(self.name, rollouts, lambda rollout: len(rollout.trajectory.turns))

Selectors of this package chain with `then`: the next one is asked about the rollouts that the one before left tied, or
about all of them where it abstained. `Chain` does the same for selectors of your own.
"""

from __future__ import annotations

from entcent_agents.selection.baselines import First, Longest, RandomChoice, Shortest
from entcent_agents.selection.catalogue import default_selector, named_selectors
from entcent_agents.selection.chain import Chain
from entcent_agents.selection.consensus import EntropyConsensus
from entcent_agents.selection.intrinsic import BySignal, Keep, LowestCentroid, LowestMeanEntropy
from entcent_agents.selection.length import WhereLong
from entcent_agents.selection.ranking import rank
from entcent_agents.selection.result import Candidate, Selection, Selector
from entcent_agents.selection.segments import OnSegments
from entcent_agents.selection.validity import require_scorable
from entcent_agents.selection.votes import BordaVote, MajorityVote, WeightedVote

__all__ = [
    "BordaVote",
    "BySignal",
    "Candidate",
    "Chain",
    "EntropyConsensus",
    "First",
    "Keep",
    "Longest",
    "LowestCentroid",
    "LowestMeanEntropy",
    "MajorityVote",
    "OnSegments",
    "RandomChoice",
    "Selection",
    "Selector",
    "Shortest",
    "WeightedVote",
    "WhereLong",
    "default_selector",
    "named_selectors",
    "rank",
    "require_scorable",
]
