"""The LangGraph nodes: `ParallelRollouts` speculates, `EntropyCentroidSelector` selects and commits.

In a graph of one's own::

    rollouts = ParallelRollouts(agent, n=8, effects={"search": READ})
    builder.add_node("rollouts", rollouts)
    builder.add_node("select", EntropyCentroidSelector(rollouts))
    builder.add_edge("rollouts", "select")
    builder.add_conditional_edges("select", unfinished, {True: "rollouts", False: END})
"""

from __future__ import annotations

from entcent_agents.nodes.batch import abatch
from entcent_agents.nodes.parallel_rollouts import ParallelRollouts
from entcent_agents.nodes.selector import EntropyCentroidSelector
from entcent_agents.nodes.state import RolloutsState, unfinished
from entcent_agents.nodes.sweeping import sweep
from entcent_agents.rollouts.branching import Branching
from entcent_agents.rollouts.events import SelectionEvent
from entcent_agents.rollouts.hooks import guarded
from entcent_agents.rollouts.retries import Retries

__all__ = [
    "Branching",
    "EntropyCentroidSelector",
    "ParallelRollouts",
    "Retries",
    "RolloutsState",
    "SelectionEvent",
    "abatch",
    "guarded",
    "sweep",
    "unfinished",
]
