"""An agent that answers questions on a database or a folder of files and stores what it found.

It looks around first, then thinks aloud and calls one tool a turn; an answer before anything is stored, or before
what is stored was checked, is sent back. `make_agent` is the agent alone; `make_graph` is the application that
`langgraph dev` serves: the same agent as parallel rollouts.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any, Final, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.messages.tool import tool_call
from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode

from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.environments import DirectoryEnvironment, Environment, SqliteEnvironment
from entcent_agents.errors import ConfigurationError
from entcent_agents.prebuilt import entropy_centroid_graph
from tools.sql import sql_tools
from tools.workspace import workspace_tools

PROMPT: Final = """You are a careful data analyst. You work step by step with tools, one call in each turn.
In every turn first write two or three sentences: what you know so far, and what you do next and why. Then call a tool.
Look at the values you need before you store anything, and check with another call what you stored.
When everything is stored and checked, give the answer in plain words, without a call."""

FIRST_WORDS: Final = (
    "I know what is asked, but I have not seen the data yet, so I cannot tell what anything is called there. "
    "Next I look at what there is, because what I write later has to use the names and values that really exist."
)
"""The turn that the agent puts into the model's mouth; models write on in the same manner."""
MAX_TURNS: Final = 7
"""Most generations of one rollout."""
_MAX_NUDGES: Final = 3
_WRITES: Final = ("execute", "write_file")
_TOOL_SETS: Final = {"database": sql_tools, "workspace": workspace_tools}
_FIRST_LOOK: Final = {"database": "schema", "workspace": "list_files"}


def make_agent(model: BaseChatModel, environments: Collection[str]) -> CompiledStateGraph[Any, Any, Any, Any]:
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
    bound = model.bind_tools([tool for tool in tools if tool.name not in looks])

    def look(state: MessagesState) -> dict[str, Any]:
        """Look around, as the first call of the conversation; the model is not asked."""
        calls = [tool_call(name=name, args={}, id=f"look_{name}") for name in looks]
        return {"messages": [AIMessage(FIRST_WORDS, tool_calls=calls)]}

    async def think(state: MessagesState) -> dict[str, Any]:
        """One turn of the model."""
        return {"messages": [await bound.ainvoke([SystemMessage(PROMPT), *state["messages"]])]}

    def think_sync(state: MessagesState) -> dict[str, Any]:
        """As `think`, from synchronous code."""
        return {"messages": [bound.invoke([SystemMessage(PROMPT), *state["messages"]])]}

    def nudge(state: MessagesState) -> dict[str, Any]:
        """Say what is missing."""
        return {"messages": [HumanMessage(_missing(state), name="nudge")]}

    builder = StateGraph(MessagesState)
    builder.add_node("look", look)
    builder.add_node("think", RunnableLambda(think_sync, think))
    builder.add_node("tools", ToolNode(tools))
    builder.add_node("nudge", nudge)
    builder.add_edge(START, "look")
    builder.add_edge("look", "tools")
    builder.add_edge("tools", "think")
    builder.add_conditional_edges("think", _next)
    builder.add_edge("nudge", "think")
    return builder.compile(name="analyst")


def make_graph() -> CompiledStateGraph[Any, Any, Any, Any]:
    """The application: the agent as parallel rollouts on what the environment variables name.

    `ENTCENT_MODEL` is `http://…/v1#name`; `ENTCENT_DB` a SQLite file, `ENTCENT_WORKSPACE` a folder,
    `ENTCENT_ROLLOUTS` n.
    """
    address, _, name = os.environ.get("ENTCENT_MODEL", "http://127.0.0.1:8080/v1#default").partition("#")
    environments: list[Environment] = []
    if path := os.environ.get("ENTCENT_DB"):
        environments.append(SqliteEnvironment(path))
    if path := os.environ.get("ENTCENT_WORKSPACE"):
        environments.append(DirectoryEnvironment(path))
    model = ChatLogprobs(model=name or "default", base_url=address, tool_calling="text", max_tokens=400)
    agent = make_agent(model, [environment.name for environment in environments])
    return entropy_centroid_graph(
        agent, n=int(os.environ.get("ENTCENT_ROLLOUTS", "4")), environments=environments, name="analyst"
    )


def _next(state: MessagesState) -> Literal["tools", "nudge", "__end__"]:
    """Where to go after a turn: the tools it called, a nudge where something is missing, or the end."""
    said = state["messages"][-1]
    turns = sum(isinstance(message, AIMessage) for message in state["messages"]) - 1
    if isinstance(said, AIMessage) and said.tool_calls:
        return "tools" if turns < MAX_TURNS else "__end__"
    nudges = sum(message.name == "nudge" for message in state["messages"])
    if turns >= MAX_TURNS or nudges >= _MAX_NUDGES or not _missing(state):
        return "__end__"
    return "nudge"


def _missing(state: MessagesState) -> str:
    """What the conversation lacks for an answer, in words for the model; empty where it lacks nothing."""
    said = state["messages"][-1]
    if isinstance(said, AIMessage) and said.invalid_tool_calls:
        return f"The call could not be read: {said.invalid_tool_calls[0]['error']}. Write it again."
    calls = [
        call["name"] for message in state["messages"] if isinstance(message, AIMessage) for call in message.tool_calls
    ]
    if not any(name in _WRITES for name in calls):
        return "Nothing is stored yet. Write in two sentences what has to be stored and how, then call the tool for it."
    if calls[-1] in _WRITES:
        return "Check with a call what you stored: is it all that the task asks for? If not, mend it; if so, answer."
    return ""
