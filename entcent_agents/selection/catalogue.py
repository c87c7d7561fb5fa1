"""The selectors by name: what `entcent score` and the evaluation compare, and the default."""

from __future__ import annotations

from collections.abc import Mapping

from entcent_agents.selection.baselines import First, Longest, RandomChoice, Shortest
from entcent_agents.selection.chain import Chain
from entcent_agents.selection.consensus import EntropyConsensus
from entcent_agents.selection.intrinsic import BySignal, Keep, LowestCentroid, LowestMeanEntropy
from entcent_agents.selection.length import WhereLong
from entcent_agents.selection.result import Selector
from entcent_agents.selection.votes import BordaVote, MajorityVote, WeightedVote
from entcent_agents.signals import SIGNALS, SignalSettings


def default_selector(centroid: LowestCentroid | None = None) -> Chain:
    """Where trajectories are long, the vote weighted by the centroid and of the outcome it elects the lowest centroid.

    Where they are short, or no two came to the same outcome: the lowest centroid within its floors, else the vote
    weighted by mean entropy, else the lowest mean entropy. Chosen on a calibration split, and confirmed on other tasks:
    docs/validity.md. Where none of these can say anything, for want of log-probabilities, the majority, else the first.

    Args:
        centroid: With other floors or settings than the default ones; its `min_scored_tokens` is what is long.

    Example:
        >>> from entcent_agents import default_selector
        >>> from entcent_agents.testing import scripted_rollouts
        >>> selection = default_selector().select(scripted_rollouts([0.9, 0.7], [0.2, 0.4]))
        >>> selection.winner, selection.selector  # too short for a centroid
        (1, 'lowest mean entropy')
    """
    centroid = centroid or LowestCentroid()
    vote = WeightedVote(BySignal("centroid", settings=centroid.settings, min_coverage=centroid.min_coverage))
    mean_entropy = LowestMeanEntropy(settings=centroid.settings)
    long = WhereLong(vote, min_scored_tokens=centroid.min_scored_tokens)
    return long.then(centroid, WeightedVote(mean_entropy), mean_entropy, MajorityVote(), First())


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
