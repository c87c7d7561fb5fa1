"""The selectors by name: what `entcent score` and the evaluation compare, and the default."""

from __future__ import annotations

from collections.abc import Mapping

from entcent_agents.selection.baselines import First, Longest, RandomChoice, Shortest
from entcent_agents.selection.chain import Chain
from entcent_agents.selection.consensus import EntropyConsensus
from entcent_agents.selection.intrinsic import BySignal, Keep, LowestCentroid, LowestMeanEntropy
from entcent_agents.selection.result import Selector
from entcent_agents.selection.votes import BordaVote, MajorityVote, WeightedVote
from entcent_agents.signals import SIGNALS, SignalSettings


def default_selector(centroid: LowestCentroid | None = None) -> Chain:
    """Lowest centroid where it means something, else entropy-weighted vote, else lowest mean entropy, else first.

    Args:
        centroid: With other floors or settings than the default ones.
    """
    centroid = centroid or LowestCentroid()
    mean_entropy = LowestMeanEntropy(settings=centroid.settings)
    return centroid.then(WeightedVote(mean_entropy), mean_entropy, First())


def named_selectors(settings: SignalSettings | None = None) -> Mapping[str, Selector]:
    """Every selector of the literature that this library has, by its name in results.

    Args:
        settings: What signals are measured with; default: the published phases, a window of 2,048 tokens.
    """
    settings = settings or SignalSettings()
    centroid = LowestCentroid(settings=settings)
    any_centroid = BySignal("centroid", settings=settings)
    mean_entropy = LowestMeanEntropy(settings=settings)
    tail = BySignal("tail_confidence", settings=settings)
    likelihood = BySignal("sum_logprob", settings=settings)
    return {
        "default chain": default_selector(centroid),
        "lowest centroid, with floors": centroid,
        **{selector.name: selector for selector in (BySignal(name, settings=settings) for name in SIGNALS)},
        "entropy consensus": EntropyConsensus(),
        "majority vote": MajorityVote(),
        **{
            vote.name: vote
            for vote in (
                WeightedVote(mean_entropy),
                WeightedVote(any_centroid),
                WeightedVote(tail),
                WeightedVote(likelihood),
                BordaVote(BySignal("self_certainty", settings=settings)),
            )
        },
        "DeepConf vote (best 90% by tail confidence)": Keep(tail, share=0.9).then(WeightedVote(tail)),
        "best half by mean entropy, then lowest centroid": Keep(mean_entropy).then(any_centroid),
        "majority vote, then lowest centroid": MajorityVote().then(any_centroid),
        "first": First(),
        "random": RandomChoice(),
        "shortest": Shortest(),
        "longest": Longest(),
    }
