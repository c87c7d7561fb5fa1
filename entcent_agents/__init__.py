"""Test-time scaling for agents: parallel rollouts, selected by where their token entropy sits.

The mathematics, the records and the selectors are here and load NumPy alone. What touches LangGraph is imported from
where it lives: `entcent_agents.nodes`, `entcent_agents.prebuilt`, `entcent_agents.environments`,
`entcent_agents.effects`, `entcent_agents.chat.model`.
"""

from __future__ import annotations

from entcent_agents.centroid import centroid_from_starts, centroid_moment, centroid_raw, entropy_centroid
from entcent_agents.entropy import token_distribution, token_entropy
from entcent_agents.errors import EntcentError
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.phases import Phase, PhaseConfig, high_entropy_phases
from entcent_agents.selection import (
    Chain,
    First,
    LowestCentroid,
    LowestMeanEntropy,
    Selection,
    Selector,
    Vote,
    default_selector,
)
from entcent_agents.trajectory import Rollout, Trajectory, Turn, Usage

__all__ = [
    "Chain",
    "EntcentError",
    "First",
    "LowestCentroid",
    "LowestMeanEntropy",
    "Phase",
    "PhaseConfig",
    "Rollout",
    "Selection",
    "Selector",
    "TokenLogprobs",
    "Trajectory",
    "Turn",
    "Usage",
    "Vote",
    "centroid_from_starts",
    "centroid_moment",
    "centroid_raw",
    "default_selector",
    "entropy_centroid",
    "high_entropy_phases",
    "token_distribution",
    "token_entropy",
]
