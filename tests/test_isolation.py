"""The names of LangGraph and LangChain that isolation leans on, and what it makes of them."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import langgraph.pregel._messages as langgraph_messages
from langchain.agents import create_agent
from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers.event_stream import _AstreamEventsCallbackHandler
from langchain_core.tracers.log_stream import LogStreamCallbackHandler
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.store.memory import InMemoryStore
from langgraph.types import CachePolicy
from pydantic import BaseModel

from entcent_agents.rollouts.isolation import (
    accepted_channels,
    ambient_config,
    isolated_config,
    isolated_graph,
    outer_channels,
    tools_of,
    whole_input,
    with_every_channel_public,
)
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
    config = isolated_config(RunnableConfig(callbacks=manager), "thread", 9, [ours], identity=("r", 1, 0))
    kept = config["callbacks"].inheritable_handlers
    assert kept == [*followers, ours]
    assert config["callbacks"] is not manager and len(manager.inheritable_handlers) == 6
    as_list = isolated_config(RunnableConfig(callbacks=[*streams, *followers]), "thread", 9, [], identity=("r", 1, 0))
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
    config = isolated_config(parent, "child", 9, [], identity=("r", 1, 0))
    assert config["configurable"] == {"user": "u1", "thread_id": "child", "__pregel_cache": None}
    assert config["metadata"] == {"team": "blue", "entcent_request": "r", "entcent_round": 1, "entcent_rollout": 0}
    assert config["run_name"] == "rollout 0"
    assert config["tags"] == ["mine", "nostream"]
    assert config["recursion_limit"] == 9


def test_the_ambient_configuration_is_forgotten_and_comes_back():
    def inside(_: None, config: RunnableConfig) -> tuple[bool, bool]:
        before = var_child_runnable_config.get() is not None
        with ambient_config(None):
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


class Outer(MessagesState):
    topic: str
    log: Annotated[list[str], operator.add]


class Hidden(TypedDict):
    secret: str


def test_a_nodes_own_graph_tells_its_channels():
    seen: dict[str, Any] = {}

    def node(state: Outer, config: RunnableConfig) -> dict[str, Any]:
        seen.update(outer_channels(config) or {})
        return {}

    builder = StateGraph(Outer)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.compile().invoke({"messages": [], "log": ["a"]})
    assert {"messages", "topic", "log"} <= set(seen)
    assert seen["log"].get() == ["a"] and not seen["topic"].is_available()
    assert outer_channels(RunnableConfig()) is None


@dataclass
class Record:
    messages: list[Any]
    topic: str = "unsaid"


class Model(BaseModel):
    messages: list[Any] = []
    topic: str = "unsaid"


def test_an_input_is_a_dict_whatever_the_schema_and_its_messages_have_ids():
    config = RunnableConfig()
    given = [{"messages": [("user", "a")]}, Record([HumanMessage("a")]), Model(messages=[HumanMessage("a")])]
    as_dicts = [whole_input(state, config, also="rollouts") for state in given]
    assert [set(values) for values in as_dicts] == [{"messages"}, {"messages", "topic"}, {"messages"}]
    assert all(values["messages"][0].id and values["messages"][0].text == "a" for values in as_dicts)


def hiding_agent():
    def choose(state: Outer) -> str:
        return "second" if state.get("topic") == "second" else "first"

    def first(state: Outer) -> dict[str, Any]:
        return {"secret": "made"}

    def second(state: Hidden) -> dict[str, Any]:
        return {"log": [state.get("secret", "none")]}

    builder = StateGraph(Outer, input_schema=MessagesState, output_schema=MessagesState)
    builder.add_node("first", first)
    builder.add_node("second", second)
    builder.add_conditional_edges(START, choose)
    builder.add_edge("first", "second")
    return builder.compile()


def test_a_public_copy_takes_and_gives_every_channel_and_leaves_the_agent_as_it_was():
    agent = hiding_agent()
    public = with_every_channel_public(agent)
    given: Any = {"messages": [], "topic": "second", "secret": "given"}
    assert set(accepted_channels(agent)) == {"messages"}
    assert set(accepted_channels(public)) == {"messages", "topic", "log", "secret"}
    assert public.invoke(given) == {**given, "log": ["given"]}
    assert agent.invoke(given) == {"messages": []}


def test_the_cache_key_turns_off_the_cache_of_a_subgraph():
    calls: list[int] = []

    def count(state: MessagesState) -> dict[str, Any]:
        calls.append(1)
        return {}

    inner = StateGraph(MessagesState)
    inner.add_node("count", count, cache_policy=CachePolicy(key_func=lambda state: "same"))
    inner.add_edge(START, "count")
    outer = StateGraph(MessagesState)
    outer.add_node("inner", inner.compile(cache=InMemoryCache()))
    outer.add_edge(START, "inner")
    graph = outer.compile()
    for _ in range(2):
        graph.invoke({"messages": []}, isolated_config(RunnableConfig(), "t", 9, [], identity=("r", 1, 0)))
    assert len(calls) == 2
    for _ in range(2):
        graph.invoke({"messages": []})
    assert len(calls) == 3


def test_messages_are_given_the_same_ids_whenever_the_task_runs_and_none_is_dropped():
    config = RunnableConfig(configurable={"checkpoint_ns": "rollouts:1"})
    states = [
        whole_input({"messages": [HumanMessage("a"), AIMessage("b", id="x"), AIMessage("c", id="x")]}, config, also="r")
        for _ in range(2)
    ]
    ids = [[message.id for message in state["messages"]] for state in states]
    assert ids[0] == ids[1] and ids[0][1:] == ["x", "x"] and ids[0][0]
