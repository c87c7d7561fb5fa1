"""The chains among which a default is chosen: few, and named before anybody looks at labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from entcent_agents.selection import (
    BySignal,
    First,
    LowestCentroid,
    LowestMeanEntropy,
    MajorityVote,
    Selector,
    WeightedVote,
    WhereLong,
    default_selector,
)
from entcent_agents.signals import SignalSettings

CHAIN_FLOORS: Final = (100, 200, 400)
"""Scored tokens from which a chain listens to the centroid."""


def candidate_chains(settings: SignalSettings) -> Mapping[str, Selector]:
    """Every chain that is tried, by its name; the simplest first: of equal ones the first is chosen.

    A pilot and the papers suggest votes on short trajectories, equal ones (arXiv 2203.11171) or weighted by likelihood
    or mean entropy, and the centroid on long ones: its minimum (arXiv 2604.26173), or as the weight of a vote.

    Args:
        settings: What signals are measured with.
    """
    entropy = LowestMeanEntropy(settings=settings)
    likelihood = BySignal("sum_logprob", settings=settings)
    by_entropy, by_likelihood = WeightedVote(entropy), WeightedVote(likelihood)
    by_centroid = WeightedVote(BySignal("centroid", settings=settings))
    chains: dict[str, Selector] = {
        "majority": MajorityVote().then(entropy, First()),
        "mean-entropy vote": by_entropy.then(entropy, First()),
        "likelihood vote": by_likelihood.then(likelihood, entropy, First()),
        "centroid vote": by_centroid.then(entropy, First()),
    }
    for floor in CHAIN_FLOORS:
        long = WhereLong(by_centroid, min_scored_tokens=floor)
        lowest = LowestCentroid(settings=settings, min_scored_tokens=floor)
        chains |= {
            f"lowest centroid from {floor}, else mean-entropy vote": lowest.then(by_entropy, entropy, First()),
            f"centroid vote from {floor}, else mean-entropy vote": default_selector(lowest),
            f"centroid vote from {floor}, else likelihood vote": long.then(by_likelihood, likelihood, entropy, First()),
            f"centroid vote from {floor}, else likelihood": long.then(likelihood, entropy, First()),
        }
    return chains
