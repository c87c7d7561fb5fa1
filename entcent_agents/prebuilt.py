"""Whole graphs in one line."""

from __future__ import annotations

from typing import Any, Literal, cast, get_type_hints

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.store.base import BaseStore
from langgraph.types import Command
from typing_extensions import TypedDict  # of Python's own, pydantic makes no schemas before 3.12

from entcent_agents.nodes import EntropyCentroidSelector, ParallelRollouts, RolloutsState, unfinished
from entcent_agents.nodes.unclaimed import RequestGraph
from entcent_agents.recordings import Records
from entcent_agents.rollouts.isolation import Graph, with_every_channel_public
from entcent_agents.selection import Selector


class _Selected(TypedDict):
    selection: dict[str, Any]


class _StandIn(EntropyCentroidSelector):
    hands_over_in = Command.PARENT


def entropy_centroid_graph(
    agent: Graph,
    *,
    n: int = 4,
    selector: Selector | None = None,
    on_unscorable: Literal["error", "fallback"] = "error",
    shadow: bool = False,
    records: Records | None = None,
    checkpointer: BaseCheckpointSaver[Any] | bool | None = None,
    store: BaseStore | None = None,
    name: str = "entropy_centroid_graph",
    **settings: Any,
) -> Graph:
    """An agent that runs as n rollouts of itself and commits the selected one.

    Takes and gives what the agent takes and gives, and the `selection` besides.

    Args:
        agent: A compiled graph whose state has `messages`.
        n: How many rollouts.
        selector: How to choose; see `EntropyCentroidSelector`.
        on_unscorable: What to do where no rollout carries log-probabilities; see `EntropyCentroidSelector`.
        shadow: Whether the first rollout is committed, whatever the selector says; see `EntropyCentroidSelector`.
        records: Where the rollouts of committed rounds are recorded; see `EntropyCentroidSelector`.
        checkpointer: The checkpointer of the graph that is returned.
        store: The store of the graph that is returned.
        name: Its name.
        **settings: Of `ParallelRollouts`: effects, environments, max_concurrency, seed and so on.

    Raises:
        ConfigurationError: On settings that cannot work, effects included; before any model call.
    """
    rollouts = ParallelRollouts(with_every_channel_public(agent), n=n, **settings)
    select = _StandIn(rollouts, selector=selector, on_unscorable=on_unscorable, shadow=shadow, records=records)
    schema = cast(Any, agent.builder)
    every_channel = _joined("RolloutsInput", *schema.schemas, RolloutsState)
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(
        schema.state_schema,
        context_schema=schema.context_schema,
        input_schema=schema.input_schema,
        output_schema=_joined("Output", schema.output_schema, _Selected),
    )
    builder.add_node("rollouts", rollouts, input_schema=every_channel)
    builder.add_node("select", select, input_schema=RolloutsState)
    builder.add_edge(START, "rollouts")
    builder.add_edge("rollouts", "select")
    builder.add_conditional_edges("select", unfinished, {True: "rollouts", False: END})
    return RequestGraph.of(builder.compile(checkpointer=checkpointer, store=store, name=name))


def _joined(name: str, *schemas: type[Any]) -> type[Any]:
    """A state schema with the channels of all; where several have one, the first stands."""
    channels: dict[str, Any] = {}
    for schema in reversed(schemas):
        channels |= get_type_hints(schema, include_extras=True)
    return cast(type[Any], TypedDict(name, channels, total=False))  # type: ignore[operator]
