"""The names of LangGraph and LangChain that isolation leans on, and what it makes of them."""

from __future__ import annotations

import langgraph.pregel._messages as langgraph_messages
from langchain.agents import create_agent
from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers.event_stream import _AstreamEventsCallbackHandler
from langchain_core.tracers.log_stream import LogStreamCallbackHandler
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.store.memory import InMemoryStore

from entcent_agents.rollouts.isolation import isolated_config, isolated_graph, no_ambient_config, tools_of
from entcent_agents.testing import ScriptedChat


class UsersOwn(BaseCallbackHandler):
    """A handler that prints tokens, say."""


def names(handlers: list[BaseCallbackHandler]) -> set[str]:
    return {type(handler).__name__ for handler in handlers}


def test_tracers_and_usage_follow_and_whatever_feeds_a_stream_does_not():
    ours = UsersOwn()
    followers = [RunCollectorCallbackHandler(), UsageMetadataCallbackHandler()]
    streams = [
        langgraph_messages.StreamMessagesHandler(lambda chunk: None, True),
        _AstreamEventsCallbackHandler(),
        LogStreamCallbackHandler(),
    ]
    manager = AsyncCallbackManager([], inheritable_handlers=[*followers, *streams, UsersOwn()])
    config = isolated_config(RunnableConfig(callbacks=manager), "thread", 9, [ours])
    kept = config["callbacks"].inheritable_handlers
    assert kept == [*followers, ours]
    assert config["callbacks"] is not manager and len(manager.inheritable_handlers) == 6
    as_list = isolated_config(RunnableConfig(callbacks=[*streams, *followers]), "thread", 9, [])
    assert as_list["callbacks"] == followers


def test_the_users_keys_follow_and_langgraphs_own_do_not():
    parent = RunnableConfig(
        configurable={
            "thread_id": "parent",
            "user": "u1",
            "__pregel_send": 1,
            "checkpoint_ns": "x",
            "checkpoint_id": "y",
        },
        metadata={"team": "blue", "langgraph_node": "rollouts", "thread_id": "parent"},
        tags=["mine"],
    )
    config = isolated_config(parent, "child", 9, [])
    assert config["configurable"] == {"user": "u1", "thread_id": "child", "__pregel_cache": None}
    assert config["metadata"] == {"team": "blue"}
    assert config["tags"] == ["mine", "nostream"]
    assert config["recursion_limit"] == 9


def test_the_ambient_configuration_is_forgotten_and_comes_back():
    def inside(_: None, config: RunnableConfig) -> tuple[bool, bool]:
        before = var_child_runnable_config.get() is not None
        with no_ambient_config():
            return before, var_child_runnable_config.get() is None

    assert RunnableLambda(inside).invoke(None, {"tags": ["x"]}) == (True, True)


def test_a_copy_has_its_own_saver_and_store_and_no_cache():
    builder = StateGraph(MessagesState)
    builder.add_node("n", lambda state: {})
    builder.add_edge(START, "n")
    graph = builder.compile(checkpointer=InMemorySaver(), cache=InMemoryCache(), store=InMemoryStore())
    saver, store = InMemorySaver(), InMemoryStore()
    copy = isolated_graph(graph, saver, store)
    assert (copy.checkpointer, copy.store, copy.cache) == (saver, store, None)
    assert graph.cache is not None and graph.checkpointer is not saver


def test_tools_are_found_in_tool_nodes():
    def look(x: int) -> str:
        """Look."""
        return ""

    assert [tool.name for tool in tools_of(create_agent(ScriptedChat(scripts=[]), [look]))] == ["look"]
    assert tools_of(create_agent(ScriptedChat(scripts=[]), [])) == []
