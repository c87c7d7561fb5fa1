"""How a rollout is kept apart from the graph that started it (checked against LangGraph 1.2.22).

This file alone leans on names that LangGraph and LangChain do not promise: the module prefix of LangGraph's stream
handlers, the `tap_output_aiter` method of streaming handlers, the `__pregel_` and `checkpoint_` keys, and
`var_child_runnable_config`. `tests/test_isolation.py` fails where they change.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any, Final, cast

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager, UsageMetadataCallbackHandler
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tools import BaseTool
from langchain_core.tracers.base import AsyncBaseTracer, BaseTracer
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode
from langgraph.store.base import BaseStore

NO_STREAM: Final = "nostream"
"""The tag that hides a model's tokens from LangGraph's `messages` stream."""

_INTERNAL_KEYS: Final = ("__pregel_", "checkpoint_", "langgraph_")
_THREAD_KEYS: Final = ("thread_id", "thread_ts")

Graph = CompiledStateGraph[Any, Any, Any, Any]


def isolated_graph(agent: Graph, saver: BaseCheckpointSaver[Any], store: BaseStore | None) -> Graph:
    """The agent on its own checkpointer and store, without the cache that rollouts would share."""
    return agent.copy({"checkpointer": saver, "store": store, "cache": None})


def isolated_config(
    parent: RunnableConfig, thread_id: str, recursion_limit: int, handlers: list[BaseCallbackHandler]
) -> RunnableConfig:
    """The configuration of a rollout: the user's own keys, metadata and tracers, on a thread of its own.

    Args:
        parent: Configuration of the node that runs the rollouts.
        thread_id: The rollout's thread.
        recursion_limit: Most supersteps of the rollout.
        handlers: Callback handlers of ours to add.
    """
    return RunnableConfig(
        callbacks=_forwarded(parent.get("callbacks"), handlers),
        configurable=_own_keys(parent.get("configurable", {}), drop=_THREAD_KEYS) | {"thread_id": thread_id},
        metadata=_own_keys(parent.get("metadata", {}), drop=_THREAD_KEYS),
        tags=[*(parent.get("tags") or ()), NO_STREAM],
        recursion_limit=recursion_limit,
    )


@contextmanager
def no_ambient_config() -> Generator[None]:
    """Forget the configuration that LangChain hands down through a context variable."""
    token = var_child_runnable_config.set(None)
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


def tools_of(agent: Graph) -> list[BaseTool]:
    """The tools that the agent's tool nodes run, those of its subgraphs included; a name may come twice."""
    return [tool for node in tool_nodes_of(agent) for tool in node.tools_by_name.values()]


def tool_nodes_of(agent: Graph) -> list[ToolNode]:
    """The agent's tool nodes, those of its subgraphs included."""
    graphs = [agent, *dict(cast("Iterable[tuple[str, Graph]]", agent.get_subgraphs(recurse=True))).values()]
    nodes: list[Any] = [node.bound for graph in graphs for node in graph.nodes.values()]
    return [node for node in nodes if isinstance(node, ToolNode)]


def parent_saver(config: RunnableConfig) -> BaseCheckpointSaver[Any] | None:
    """The checkpointer of the graph that runs this node, if it has one."""
    saver: Any = config.get("configurable", {}).get("__pregel_checkpointer")
    return cast("BaseCheckpointSaver[Any]", saver) if isinstance(saver, BaseCheckpointSaver) else None


def _forwarded(callbacks: Any, handlers: list[BaseCallbackHandler]) -> Any:
    if not isinstance(callbacks, BaseCallbackManager):
        return [*(handler for handler in callbacks or () if _may_follow(handler)), *handlers]
    manager = callbacks.copy()
    manager.handlers = [handler for handler in manager.handlers if _may_follow(handler)]
    manager.inheritable_handlers = [handler for handler in manager.inheritable_handlers if _may_follow(handler)]
    for handler in handlers:
        manager.add_handler(handler, inherit=True)
    return manager


def _may_follow(handler: BaseCallbackHandler) -> bool:
    """Tracers and usage counters follow into rollouts; whatever feeds a user's stream does not."""
    if type(handler).__module__.startswith("langgraph.") or hasattr(handler, "tap_output_aiter"):
        return False
    return isinstance(handler, BaseTracer | AsyncBaseTracer | UsageMetadataCallbackHandler)


def _own_keys(keys: Mapping[str, Any], drop: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if key not in drop and not key.startswith(_INTERNAL_KEYS)}
