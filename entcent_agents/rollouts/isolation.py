"""How a rollout is kept apart from the graph that started it (checked against LangGraph 1.2.22).

This file alone leans on names that LangGraph and LangChain do not promise: the module prefix of LangGraph's stream
handlers, the `tap_output_aiter` method of streaming handlers, the `__pregel_` and `checkpoint_` keys (of which
`__pregel_read`, `__pregel_cache`, `__pregel_checkpointer`, `__pregel_durability` and `__pregel_runtime` are used), how
a builder keeps its schemas, `schemas_by_name` of validation nodes, and `var_child_runnable_config`.
`tests/test_isolation.py` and `tests/third_party` fail where they change.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import fields, is_dataclass
from typing import Any, Final, Literal, TypeAlias, TypedDict, cast
from uuid import NAMESPACE_OID, uuid5

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager, UsageMetadataCallbackHandler
from langchain_core.messages import convert_to_messages
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config, var_child_runnable_config
from langchain_core.tools import BaseTool
from langchain_core.tracers.base import AsyncBaseTracer, BaseTracer
from langgraph.channels.base import BaseChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode
from langgraph.pregel import Pregel
from langgraph.pregel.protocol import PregelProtocol
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore
from langgraph.types import StreamWriter
from pydantic import BaseModel

from entcent_agents.capture.handlers import single
from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.errors import ConfigurationError
from entcent_agents.rollouts.reach import graphs_behind

NO_STREAM: Final = "nostream"
"""The tag that hides a model's tokens from LangGraph's `messages` stream."""
METADATA_KEYS: Final = ("entcent_request", "entcent_round", "entcent_rollout")
"""Metadata of all runs of a rollout, by which a tracer's user finds and filters them."""

_READ_KEY: Final = "__pregel_read"
_CACHE_KEY: Final = "__pregel_cache"
_CHECKPOINTER_KEY: Final = "__pregel_checkpointer"
_DURABILITY_KEY: Final = "__pregel_durability"
_RUNTIME_KEY: Final = "__pregel_runtime"
_INTERNAL_KEYS: Final = ("__pregel_", "checkpoint_", "langgraph_")
_THREAD_KEYS: Final = ("thread_id", "thread_ts")

Graph: TypeAlias = CompiledStateGraph[Any, Any, Any, Any]
Channel: TypeAlias = BaseChannel[Any, Any, Any]


def isolated_graph(agent: Graph, saver: BaseCheckpointSaver[Any], store: BaseStore | None) -> Graph:
    """The agent on its own checkpointer and store, without the cache that rollouts would share."""
    return agent.copy({"checkpointer": saver, "store": store, "cache": None})


def durability_of(agent: Graph) -> Literal["sync", "async"]:
    """How a rollout writes its checkpoints: each before the next step.

    Where a subgraph was compiled to keep none, LangGraph 1.2.22 would wait for one of it that nobody writes, and fail.
    """
    bound: list[Any] = [node.bound for node in agent.nodes.values()]
    subgraphs: list[Graph] = [found for found in bound if isinstance(found, CompiledStateGraph)]
    forgetful = any(graph.checkpointer is False or durability_of(graph) == "async" for graph in subgraphs)
    return "async" if forgetful else "sync"


def isolated_config(
    parent: RunnableConfig,
    thread_id: str,
    recursion_limit: int | None,
    handlers: list[BaseCallbackHandler],
    *,
    identity: tuple[str, int, int],
) -> RunnableConfig:
    """The configuration of a rollout: the user's own keys, metadata and tracers, on a thread of its own.

    Args:
        parent: Configuration of the node that runs the rollouts.
        thread_id: The rollout's thread.
        recursion_limit: Most supersteps of the rollout; None: as many as the agent has by itself.
        handlers: Callback handlers of ours to add.
        identity: The request, the round and the rollout's index: what a tracer tells its runs from others by.
    """
    config = RunnableConfig(
        callbacks=_forwarded(parent.get("callbacks"), handlers),
        configurable=_own_keys(parent.get("configurable", {}), drop=_THREAD_KEYS)
        | {"thread_id": thread_id, _CACHE_KEY: None},  # subgraphs have caches of their own
        metadata=_own_keys(parent.get("metadata", {}), drop=_THREAD_KEYS)
        | dict(zip(METADATA_KEYS, identity, strict=True)),
        run_name=f"rollout {identity[-1]}",
        tags=[*(parent.get("tags") or ()), NO_STREAM],
    )
    return config if recursion_limit is None else {**config, "recursion_limit": recursion_limit}


def silent_config(handlers: list[BaseCallbackHandler], runtime: Runtime[Any]) -> RunnableConfig:
    """The ambient configuration, for what a node asks of models and may be lost: none of it reaches a stream.

    It stays in its place in the graph. Callbacks follow as into rollouts, and so do those of a rollout around it.

    Args:
        handlers: Callback handlers of ours to add.
        runtime: What `get_runtime` and `get_stream_writer` are to find.
    """
    here = var_child_runnable_config.get() or RunnableConfig()
    return {
        **here,
        "callbacks": _forwarded(here.get("callbacks"), handlers, and_ours=True),
        "configurable": {**here.get("configurable", {}), _RUNTIME_KEY: runtime},
        "tags": [*(here.get("tags") or ()), NO_STREAM],
    }


def ambient_recorders() -> list[TurnRecorder]:
    """Those that follow the rollout which this code runs in; none outside rollouts."""
    callbacks = (var_child_runnable_config.get() or RunnableConfig()).get("callbacks")
    handlers = callbacks.handlers if isinstance(callbacks, BaseCallbackManager) else callbacks or []
    return [handler for handler in single(handlers) if isinstance(handler, TurnRecorder)]


@contextmanager
def ambient_config(config: RunnableConfig | None) -> Generator[None]:
    """Replace the configuration that LangChain hands down through a context variable; None: forget it."""
    token = var_child_runnable_config.set(config)
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


def writer_from_anywhere(write: StreamWriter, config: RunnableConfig) -> StreamWriter:
    """The stream writer of a node, for whatever runs below it.

    LangGraph's looks for its place in the ambient configuration: inside another graph it would find another place, and
    in the later steps of a sequence none at all.

    Args:
        write: The node's.
        config: Of the node.
    """
    here = ensure_config(config)

    def written(event: Any) -> None:
        with ambient_config(here):
            write(event)

    return written


def outer_channels(config: RunnableConfig) -> Mapping[str, Channel] | None:
    """The channels of the graph whose node runs with this configuration; None outside graphs."""
    read = config.get("configurable", {}).get(_READ_KEY)
    return None if read is None else read.args[1]


def whole_input(state: Any, config: RunnableConfig, also: str) -> dict[str, Any]:
    """A node's input as a dict, whatever kind of schema the graph has, and a channel that the schema may leave out.

    Messages without an id are given one here, for all rollouts and for all processes that run them: what rollouts add
    is told from them by ids.

    Args:
        state: What LangGraph gave the node.
        config: The node's configuration.
        also: The channel's name.
    """
    if isinstance(state, BaseModel):
        values = {name: getattr(state, name) for name in state.model_fields_set}
    elif is_dataclass(state):
        values = {field.name: getattr(state, field.name) for field in fields(state)}
    else:
        values = dict(cast("Mapping[str, Any]", state))
    if values.get("messages"):
        values["messages"] = convert_to_messages(values["messages"])
        task = config.get("configurable", {}).get("checkpoint_ns", "")
        for number, message in enumerate(values["messages"]):
            message.id = message.id or str(uuid5(NAMESPACE_OID, f"{task}:{number}"))
    channel = (outer_channels(config) or {}).get(also)
    if channel is not None and channel.is_available():
        values.setdefault(also, channel.get())
    return values


def state_channels(agent: Graph) -> Mapping[str, Channel]:
    """The channels of its state, without LangGraph's own."""
    return cast("Mapping[str, Channel]", agent.builder.channels)


def accepted_channels(agent: Graph) -> Collection[str]:
    """The channels that its input may set; what else a state holds, the agent never sees."""
    return tuple(cast("Mapping[str, Any]", agent.builder.schemas[agent.builder.input_schema]))


def with_every_channel_public(agent: Graph) -> Graph:
    """The agent, for a graph that stands for it: its private channels come in and go out as all others do.

    Raises:
        ConfigurationError: See `require_rollouts_possible`.
    """
    require_rollouts_possible(agent)
    schema = cast(type[Any], TypedDict("EveryChannel", {}))
    builder = copy(agent.builder)
    builder.schemas = {**builder.schemas, schema: dict(state_channels(agent))}
    builder.input_schema = schema
    opened = agent.copy({"builder": builder, "nodes": dict(agent.nodes), "output_channels": [*state_channels(agent)]})
    opened.attach_node(START, None)
    for start, end in builder.edges:
        if start == START:
            opened.attach_edge(start, end)
    for name, branch in builder.branches.get(START, {}).items():
        opened.attach_branch(START, name, branch)
    return opened.validate()


def require_rollouts_possible(agent: Any) -> None:
    """Refuse a graph that cannot be run as rollouts.

    Raises:
        ConfigurationError: With what to do instead.
    """
    if isinstance(agent, StateGraph):
        raise ConfigurationError("the agent is not compiled yet: pass agent.compile()")
    if not isinstance(cast(object, agent), PregelProtocol):
        raise ConfigurationError(
            f"the agent is of the type {type(agent).__name__}, not a compiled graph: pass what "
            "create_agent(model, tools) or builder.compile() gives"
        )
    for name, graph in ((agent.name, agent), *(_subgraphs(agent) if isinstance(agent, Pregel) else ())):
        if not isinstance(graph, Pregel):
            raise ConfigurationError(
                f"{name!r} runs on another server, where its rollouts can be neither kept apart nor scored: "
                "put entropy_centroid_graph around it there"
            )
        if graph is not agent and graph.checkpointer is True:
            raise ConfigurationError(
                f"the subgraph {name!r} keeps a history of its own (checkpointer=True), which ends with the thread of "
                "a rollout: keep what it is to remember in the state that it shares, or in the store"
            )
    if not isinstance(agent, CompiledStateGraph):
        raise ConfigurationError(
            f"the workflow {agent.name!r} made with @entrypoint has no state that a rollout could be committed to: "
            "call it in a node of a StateGraph with `messages`"
        )


def tools_of(agent: Graph) -> list[BaseTool]:
    """The tools that the agent's tool nodes run, those of its subgraphs and sub-agents included.

    A name may come twice.
    """
    return [tool for node in tool_nodes_of(agent) for tool in node.tools_by_name.values()]


def tool_nodes_of(agent: Graph) -> list[ToolNode]:
    """The agent's tool nodes, those of its subgraphs and of the graphs that its tools call included, each once."""
    found: dict[int, ToolNode] = {}
    waiting: list[Any] = [agent]
    while waiting:
        nodes = [node for node in _tool_nodes_in(waiting.pop()) if id(node) not in found]
        found |= {id(node): node for node in nodes}
        waiting += [graph for node in nodes for tool in node.tools_by_name.values() for graph in graphs_behind(tool)]
    return [*found.values()]


def _tool_nodes_in(agent: Any) -> list[ToolNode]:
    return [node for node in _bound_in(agent) if isinstance(node, ToolNode)]


def schemas_of(agent: Graph) -> frozenset[str]:
    """Names of calls that nodes of the agent only validate: what it extracts, and no tool is to answer."""
    schemas = [cast("Mapping[str, Any]", getattr(node, "schemas_by_name", {})) for node in _bound_in(agent)]
    return frozenset(name for known in schemas for name in known) - {tool.name for tool in tools_of(agent)}


def _bound_in(agent: Any) -> list[Any]:
    """What the nodes of an agent and its subgraphs run."""
    graphs = [agent, *dict(_subgraphs(agent)).values()]
    return [node.bound for graph in graphs if isinstance(graph, Pregel) for node in graph.nodes.values()]


def parent_saver(config: RunnableConfig) -> BaseCheckpointSaver[Any] | None:
    """The checkpointer of the graph that runs this node, if it has one."""
    saver: Any = config.get("configurable", {}).get(_CHECKPOINTER_KEY)
    return cast("BaseCheckpointSaver[Any]", saver) if isinstance(saver, BaseCheckpointSaver) else None


def durable_parent_saver(config: RunnableConfig) -> BaseCheckpointSaver[Any] | None:
    """The same, if what it keeps outlives the process."""
    saver = parent_saver(config)
    return None if isinstance(saver, InMemorySaver) else saver


def _subgraphs(graph: Any) -> Iterable[tuple[str, Any]]:
    return graph.get_subgraphs(recurse=True)


def written_at_the_end(config: RunnableConfig) -> bool:
    """Whether the graph that runs this node was told to write nothing before it ends or is interrupted."""
    return config.get("configurable", {}).get(_DURABILITY_KEY) == "exit"


def _forwarded(callbacks: Any, handlers: list[BaseCallbackHandler], *, and_ours: bool = False) -> Any:
    def follow(found: Iterable[BaseCallbackHandler]) -> list[BaseCallbackHandler]:
        return [handler for handler in found if _may_follow(handler) or (and_ours and _is_ours(handler))]

    if not isinstance(callbacks, BaseCallbackManager):
        return [*follow(callbacks or ()), *handlers]
    manager = callbacks.copy()
    manager.handlers = follow(manager.handlers)
    manager.inheritable_handlers = follow(manager.inheritable_handlers)
    for handler in handlers:
        manager.add_handler(handler, inherit=True)
    return manager


def _may_follow(handler: BaseCallbackHandler) -> bool:
    """Tracers, usage counters and budgets follow into rollouts; whatever feeds a user's stream does not."""
    if getattr(handler, "into_rollouts", False):
        return True
    if type(handler).__module__.startswith("langgraph.") or hasattr(handler, "tap_output_aiter"):
        return False
    return isinstance(handler, BaseTracer | AsyncBaseTracer | UsageMetadataCallbackHandler)


def _is_ours(handler: BaseCallbackHandler) -> bool:
    return type(handler).__module__.startswith("entcent_agents.")


def _own_keys(keys: Mapping[str, Any], drop: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if key not in drop and not key.startswith(_INTERNAL_KEYS)}
