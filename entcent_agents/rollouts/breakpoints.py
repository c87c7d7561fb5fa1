"""Breakpoints that an agent was compiled with, told from steps that a crash cut off.

LangGraph keeps nothing that says so: run again, a graph that had stopped at a breakpoint would walk past it.
"""

from __future__ import annotations

from collections.abc import Collection

from langchain_core.runnables import RunnableConfig
from langgraph.types import StateSnapshot

from entcent_agents.rollouts.isolation import Graph


async def stopped_at_breakpoint(graph: Graph, snapshot: StateSnapshot) -> bool:
    """Whether the graph stops here, before a node or after one; breakpoints of subgraphs are not seen."""
    if _any_of(snapshot.next, graph.interrupt_before_nodes):
        return True
    if not (graph.interrupt_after_nodes and snapshot.parent_config):
        return False
    return _any_of((await graph.aget_state(snapshot.parent_config)).next, graph.interrupt_after_nodes)


def is_at(snapshot: StateSnapshot, other: StateSnapshot) -> bool:
    """Whether two threads, one of which is a copy of the other, are at the same step."""
    return _checkpoint(snapshot.config) == _checkpoint(other.config)


def _any_of(nodes: Collection[str], stops: Collection[str]) -> bool:
    return bool(nodes) if stops == "*" else not set(stops).isdisjoint(nodes)


def _checkpoint(config: RunnableConfig) -> str | None:
    return config.get("configurable", {}).get("checkpoint_id")
