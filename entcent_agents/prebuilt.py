"""Whole graphs in one line."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import import_module
from inspect import signature
from typing import Any, Literal, cast, get_type_hints

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import SystemMessage
from langchain_core.tools import BaseTool
from langgraph.cache.base import BaseCache
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.store.base import BaseStore
from langgraph.types import Command
from typing_extensions import TypedDict, Unpack  # of Python's own, pydantic makes no schemas before 3.12

from entcent_agents.capture.settings import with_logprobs_unless_set
from entcent_agents.effects import Effect
from entcent_agents.environments import Environment
from entcent_agents.errors import ConfigurationError, MissingExtraError
from entcent_agents.nodes import EntropyCentroidSelector, ParallelRollouts, RolloutsState, unfinished
from entcent_agents.nodes.settings import HowRolloutsRun, RolloutSettings
from entcent_agents.nodes.unclaimed import RequestGraph
from entcent_agents.recordings import Records
from entcent_agents.rollouts.isolation import Graph, with_every_channel_public
from entcent_agents.rollouts.store import is_awaitable
from entcent_agents.selection import Selector


class _Selected(TypedDict):
    selection: dict[str, Any]


class AgentSettings(HowRolloutsRun, total=False):
    """Settings that an agent in one call hands on, to `entropy_centroid_graph` and to `create_agent`; see there."""

    selector: Selector | None
    on_unscorable: Literal["error", "fallback"]
    shadow: bool
    records: Records | None
    system_prompt: str | SystemMessage | None
    middleware: Sequence[Any]
    response_format: Any
    state_schema: type[Any] | None
    context_schema: type[Any] | None
    interrupt_before: list[str] | None
    interrupt_after: list[str] | None
    debug: bool
    cache: BaseCache[Any] | None
    transformers: Sequence[Any] | None


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
    **settings: Unpack[RolloutSettings],
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

    Example:
        >>> from entcent_agents import ScriptedChat, ScriptedTurn, entropy_centroid_graph
        >>> from langchain.agents import create_agent
        >>> hesitant = [ScriptedTurn(text="Adelie?", entropy=[0.9] * 9)]
        >>> sure = [ScriptedTurn(text="Gentoo.", entropy=[0.1] * 9)]
        >>> graph = entropy_centroid_graph(create_agent(ScriptedChat(scripts=[hesitant, sure])), n=2)
        >>> result = graph.invoke({"messages": [("user", "Which are the heaviest?")]})
        >>> result["messages"][-1].text, result["selection"]["winner"]
        ('Gentoo.', 1)
    """
    rollouts = ParallelRollouts(with_every_channel_public(agent), n=n, **settings)
    select = _StandIn(rollouts, selector=selector, on_unscorable=on_unscorable, shadow=shadow, records=records)
    schema = cast(Any, agent.builder)
    every_channel = _joined("RolloutsInput", *schema.schemas, RolloutsState, without=schema.managed)
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(
        schema.state_schema,
        context_schema=schema.context_schema,
        input_schema=schema.input_schema,
        output_schema=_joined("Output", schema.output_schema, _Selected, without=schema.managed),
    )
    builder.add_node("rollouts", rollouts, input_schema=every_channel)
    builder.add_node("select", select, input_schema=RolloutsState)
    builder.add_edge(START, "rollouts")
    builder.add_edge("rollouts", "select")
    builder.add_conditional_edges("select", unfinished, {True: "rollouts", False: END})
    return RequestGraph.of(builder.compile(checkpointer=checkpointer, store=store, name=name))


def create_entropy_centroid_agent(
    model: str | BaseChatModel,
    tools: Sequence[BaseTool | Callable[..., Any] | dict[str, Any]] = (),
    *,
    effects: Mapping[str, Effect | str] | None = None,
    environments: Sequence[Environment] = (),
    n: int = 4,
    checkpointer: BaseCheckpointSaver[Any] | bool | None = None,
    store: BaseStore | None = None,
    name: str = "entropy_centroid_agent",
    **settings: Unpack[AgentSettings],
) -> Graph:
    """An agent of LangChain's `create_agent` that runs as n rollouts of itself and commits the selected one.

    The model is asked for log-probabilities, unless you set how, and so is one that middleware brings in. Where the
    checkpointer outlives the process and can be awaited, the rollouts are kept there too, so that a request which was
    cut off goes on. With a synchronous one (`SqliteSaver`, `PostgresSaver`) they are kept in memory, unless you pass a
    `rollout_checkpointer`.

    Args:
        model: A chat model, or its name as `init_chat_model` takes it.
        tools: The tools of the agent.
        effects: What they do to the world, by name; a tool of which nothing is known is EXTERNAL: rollouts stop before
            it, and the selected one's call is made.
        environments: The worlds that they change.
        n: How many rollouts.
        checkpointer: The checkpointer of the graph that is returned.
        store: Its store.
        name: Its name.
        **settings: Of `create_agent` (system_prompt, middleware, response_format and so on) and of
            `entropy_centroid_graph` (selector, budget, seed and so on).

    Raises:
        ConfigurationError: On settings that cannot work, a model that gives no log-probabilities included; before any
            model call.

    Example:
        >>> from entcent_agents import READ, ScriptedChat, ScriptedTurn, create_entropy_centroid_agent
        >>> def search(query: str) -> str:
        ...     "Search the documents."
        ...     return "Gentoo penguins are the heaviest."
        >>> call = ScriptedTurn(tool_calls=[("search", {"query": "heaviest"})], entropy=[0.2] * 9)
        >>> model = ScriptedChat(scripts=[[call, ScriptedTurn(text="Gentoo.", entropy=[0.1] * 9)]])
        >>> agent = create_entropy_centroid_agent(model, [search], effects={"search": READ}, n=2)
        >>> agent.invoke({"messages": [("user", "Which are the heaviest?")]})["messages"][-1].text
        'Gentoo.'
    """
    try:
        create_agent: Any = import_module("langchain.agents").create_agent
        init_chat_model: Any = import_module("langchain.chat_models").init_chat_model
    except ModuleNotFoundError as error:
        if error.name not in ("langchain", "langchain.agents"):
            raise
        raise MissingExtraError("langchain", "langchain") from None
    chat: BaseChatModel = init_chat_model(model) if isinstance(model, str) else model
    required = settings.get("on_unscorable") != "fallback"
    try:
        chat = with_logprobs_unless_set(chat)
    except ConfigurationError:
        if required:
            raise
    given = dict[str, Any](settings)
    of_agent = {key: given.pop(key) for key in signature(create_agent).parameters if key in given}
    # Each call asks as well, because middleware and a run's configuration may bring in other models.
    asking: Any = import_module("entcent_agents.middleware.asking").LogprobsAsked
    of_agent["middleware"] = [*of_agent.get("middleware", ()), asking(required=required)]
    durable = isinstance(checkpointer, BaseCheckpointSaver) and not isinstance(checkpointer, InMemorySaver)
    if durable and is_awaitable(cast("BaseCheckpointSaver[Any]", checkpointer)):
        given.setdefault("rollout_checkpointer", checkpointer)
    agent = create_agent(chat, tools, **of_agent)
    return entropy_centroid_graph(
        agent,
        n=n,
        effects=effects,
        environments=environments,
        checkpointer=checkpointer,
        store=store,
        name=name,
        **given,
    )


def _joined(name: str, *schemas: type[Any], without: Collection[str]) -> type[Any]:
    """A state schema with the channels of all; where several have one, the first stands.

    Args:
        name: Of the schema.
        *schemas: Those that are joined.
        without: Values that LangGraph works out for each run, such as the steps that remain: no channels.
    """
    channels: dict[str, Any] = {}
    for schema in reversed(schemas):
        channels |= get_type_hints(schema, include_extras=True)
    channels = {key: value for key, value in channels.items() if key not in without}
    return cast(type[Any], TypedDict(name, channels, total=False))  # type: ignore[operator]
