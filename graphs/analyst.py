"""An agent that answers questions on a database or a folder of files and stores what it found.

It looks around, writes a plan, then thinks aloud and calls one tool a turn; an answer before anything is stored, or
before what is stored was checked, is sent back once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.messages.tool import tool_call
from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph_sdk.runtime import ServerRuntime

from entcent_agents.effects import WRITE
from entcent_agents.environments import DirectoryEnvironment, SqliteEnvironment
from entcent_agents.errors import ConfigurationError
from graphs.guidance import LOOK, PROMPT, guidance, guided, turns
from graphs.serving import Agent, Settings, served
from tools.sql import sql_tools
from tools.workspace import workspace_tools

MAX_TURNS: Final = 6
"""Most generations of one rollout."""
_TOOL_SETS: Final = {"database": sql_tools, "workspace": workspace_tools}
_FIRST_LOOK: Final = {"database": "schema", "workspace": "list_files"}


def make_graph(runtime: ServerRuntime[Settings]) -> AbstractAsyncContextManager[Agent]:
    """The application, on the SQLite file `ENTCENT_DB`, the folder `ENTCENT_WORKSPACE`, or both."""
    worlds = {"ENTCENT_DB": SqliteEnvironment, "ENTCENT_WORKSPACE": DirectoryEnvironment}
    return served(runtime, Settings, lambda model, names, _: make_agent(model, names), worlds)


def make_agent(model: BaseChatModel, environments: Collection[str]) -> Agent:
    """The agent, with the tools of the environments there are.

    Args:
        model: Bound to the tools here.
        environments: Names out of `database` and `workspace`.

    Raises:
        ConfigurationError: Where there is neither.
    """
    tools = [tool for name, tool_set in _TOOL_SETS.items() if name in environments for tool in tool_set()]
    if not tools:
        raise ConfigurationError("the agent has no tools: pass --db FILE or --workspace DIR")
    looks = [look for name, look in _FIRST_LOOK.items() if name in environments]
    writing = [tool.name for tool in tools if (tool.metadata or {})["effect"] is WRITE]
    bound = model.bind_tools([tool for tool in tools if tool.name not in looks])

    def look(state: MessagesState) -> dict[str, Any]:
        """Look around, as the first call after a question; the model is not asked."""
        calls = [tool_call(name=name, args={}, id=f"{LOOK}{name}_{len(state['messages'])}") for name in looks]
        return {"messages": [AIMessage("First I look at what there is.", tool_calls=calls)]}

    def guide(state: MessagesState) -> dict[str, Any]:
        """Say what comes next."""
        return {"messages": [HumanMessage(guidance(state["messages"], writing), name="guide")]}

    def after_tools(state: MessagesState) -> Literal["guide", "think"]:
        """After the first look the plan is asked for, before the last turn the answer; otherwise the model goes on."""
        return "guide" if not guided(state["messages"]) or turns(state["messages"]) == MAX_TURNS - 1 else "think"

    def after_thinking(state: MessagesState) -> Literal["tools", "guide", "__end__"]:
        """The tools that the turn called, guidance where something is missing, or the end."""
        last: Any = state["messages"][-1]
        if turns(state["messages"]) >= MAX_TURNS:
            return "__end__"
        return "tools" if last.tool_calls else "guide" if guidance(state["messages"], writing) else "__end__"

    builder = StateGraph(MessagesState, context_schema=Settings)
    builder.add_node("look", look)
    builder.add_node("think", RunnableLambda(_prompt) | bound | RunnableLambda(_said))
    builder.add_node("tools", ToolNode(tools))
    builder.add_node("guide", guide)
    builder.add_edge(START, "look")
    builder.add_edge("look", "tools")
    builder.add_conditional_edges("tools", after_tools)
    builder.add_conditional_edges("think", after_thinking)
    builder.add_edge("guide", "think")
    return builder.compile(name="analyst")


def _prompt(state: MessagesState) -> Sequence[Any]:
    return [SystemMessage(PROMPT), *state["messages"]]


def _said(message: AIMessage) -> dict[str, Any]:
    return {"messages": [message]}
