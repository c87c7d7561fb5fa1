"""Test-time scaling for agents: parallel rollouts, selected by where their token entropy sits.

What a user of the library begins with is here; each name's own module has what goes with it: `.nodes`, `.middleware`,
`.prebuilt`, `.environments`, `.effects`, `.ledger`, `.chat`, `.capture`, `.branching`, `.budget`, `.selection`,
`.signals`, `.recordings`, `.telemetry`, `.testing`, `.errors`.

Importing this loads NumPy and nothing heavier: the mathematics, the records and the selectors. The other names load
LangGraph, and the middleware LangChain, when they are first used.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from entcent_agents.budget import Budget
from entcent_agents.centroid import entropy_centroid
from entcent_agents.entropy import token_entropy
from entcent_agents.errors import EntcentError
from entcent_agents.lazy import lazy_names
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.phases import PhaseConfig, high_entropy_phases
from entcent_agents.selection import (
    LowestCentroid,
    LowestMeanEntropy,
    MajorityVote,
    Selection,
    Selector,
    WeightedVote,
    default_selector,
    rank,
)
from entcent_agents.trajectory import Rollout, Trajectory, Turn

if TYPE_CHECKING:
    from entcent_agents.capture import with_logprobs
    from entcent_agents.chat import ChatLogprobs
    from entcent_agents.effects import EXTERNAL, READ, WRITE, declare
    from entcent_agents.environments import (
        DirectoryEnvironment,
        Environment,
        MemoryEnvironment,
        SqliteEnvironment,
        current_environment,
    )
    from entcent_agents.ledger import SqliteLedger
    from entcent_agents.middleware import EntropyCentroidMiddleware
    from entcent_agents.nodes import Branching, EntropyCentroidSelector, ParallelRollouts, unfinished
    from entcent_agents.prebuilt import create_entropy_centroid_agent, entropy_centroid_graph
    from entcent_agents.testing import ScriptedChat, ScriptedTurn
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "capture": ("with_logprobs",),
            "chat": ("ChatLogprobs",),
            "effects": ("EXTERNAL", "READ", "WRITE", "declare"),
            "environments": (
                "DirectoryEnvironment",
                "Environment",
                "MemoryEnvironment",
                "SqliteEnvironment",
                "current_environment",
            ),
            "ledger": ("SqliteLedger",),
            "middleware": ("EntropyCentroidMiddleware",),
            "nodes": ("Branching", "EntropyCentroidSelector", "ParallelRollouts", "unfinished"),
            "prebuilt": ("create_entropy_centroid_agent", "entropy_centroid_graph"),
            "testing": ("ScriptedChat", "ScriptedTurn"),
        },
    )

__all__ = [
    "EXTERNAL",
    "READ",
    "WRITE",
    "Branching",
    "Budget",
    "ChatLogprobs",
    "DirectoryEnvironment",
    "EntcentError",
    "EntropyCentroidMiddleware",
    "EntropyCentroidSelector",
    "Environment",
    "LowestCentroid",
    "LowestMeanEntropy",
    "MajorityVote",
    "MemoryEnvironment",
    "ParallelRollouts",
    "PhaseConfig",
    "Rollout",
    "ScriptedChat",
    "ScriptedTurn",
    "Selection",
    "Selector",
    "SqliteEnvironment",
    "SqliteLedger",
    "TokenLogprobs",
    "Trajectory",
    "Turn",
    "WeightedVote",
    "create_entropy_centroid_agent",
    "current_environment",
    "declare",
    "default_selector",
    "entropy_centroid",
    "entropy_centroid_graph",
    "high_entropy_phases",
    "rank",
    "token_entropy",
    "unfinished",
    "with_logprobs",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent, until an application sets up logging
