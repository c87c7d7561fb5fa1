"""Test-time scaling for agents: parallel rollouts, selected by where their token entropy sits.

The mathematics, the records and the selectors are here and load NumPy alone. What touches LangGraph is imported from
where it lives: `entcent_agents.prebuilt`, `.nodes`, `.middleware`, `.environments`, `.effects`, `.ledger`, `.chat`;
beside them `.budget`, `.recordings` and `.telemetry`.
"""

from __future__ import annotations

import logging

from entcent_agents.centroid import centroid_from_starts, centroid_moment, centroid_raw, entropy_centroid
from entcent_agents.entropy import token_distribution, token_entropy
from entcent_agents.errors import EntcentError
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.phases import Phase, PhaseConfig, high_entropy_phases
from entcent_agents.segments import Segment, SegmentKind
from entcent_agents.selection import (
    BordaVote,
    BySignal,
    Chain,
    EntropyConsensus,
    First,
    Keep,
    Longest,
    LowestCentroid,
    LowestMeanEntropy,
    MajorityVote,
    OnSegments,
    RandomChoice,
    Selection,
    Selector,
    Shortest,
    WeightedVote,
    WhereLong,
    default_selector,
    named_selectors,
)
from entcent_agents.signals import SignalSettings, signal_table
from entcent_agents.trajectory import Rollout, Trajectory, Turn, Usage

__all__ = [
    "BordaVote",
    "BySignal",
    "Chain",
    "EntcentError",
    "EntropyConsensus",
    "First",
    "Keep",
    "Longest",
    "LowestCentroid",
    "LowestMeanEntropy",
    "MajorityVote",
    "OnSegments",
    "Phase",
    "PhaseConfig",
    "RandomChoice",
    "Rollout",
    "Segment",
    "SegmentKind",
    "Selection",
    "Selector",
    "Shortest",
    "SignalSettings",
    "TokenLogprobs",
    "Trajectory",
    "Turn",
    "Usage",
    "WeightedVote",
    "WhereLong",
    "centroid_from_starts",
    "centroid_moment",
    "centroid_raw",
    "default_selector",
    "entropy_centroid",
    "high_entropy_phases",
    "named_selectors",
    "signal_table",
    "token_distribution",
    "token_entropy",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent, until an application sets up logging
