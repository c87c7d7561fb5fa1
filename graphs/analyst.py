"""An agent that answers questions on a database or a folder of files and stores what it found.

It looks around, writes a plan, then thinks aloud and calls one tool a turn; an answer before anything is stored, or
before what is stored was checked, is sent back once. `make_agent` is the agent alone; `make_graph` is the application
that `langgraph dev` serves: the same agent as parallel rollouts.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any, Final, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
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

PROMPT: Final = """\
You are a careful data analyst who works step by step with tools, one call in each turn.
Before every call write one or two sentences: what you know now, and what you do next and why.
Look at the values first, with every condition that the task names. To store a result in a new table, use one
statement: CREATE TABLE name AS SELECT ... Then read what you stored, and answer in one sentence, without a call."""

PLAN: Final = "Write a plan of three short steps, and then make the first call."
STORE: Final = "Nothing is stored yet. Say what has to be stored, and then write the JSON block that stores it."
CHECK: Final = "Now write the JSON block of a call that reads what you stored, to check it."
ANSWER: Final = "There is no time for another call: answer now, in one sentence."
"""What the agent says between the turns, each once."""

MAX_TURNS: Final = 6
"""Most generations of one rollout."""
_LOOK: Final = "look_"
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
        calls = [tool_call(name=name, args={}, id=f"{_LOOK}{name}") for name in looks]
        return {"messages": [AIMessage("First I look at what there is.", tool_calls=calls)]}

    async def think(state: MessagesState) -> dict[str, Any]:
        """One turn of the model."""
        return {"messages": [await bound.ainvoke([SystemMessage(PROMPT), *state["messages"]])]}

    def think_sync(state: MessagesState) -> dict[str, Any]:
        """As `think`, from synchronous code."""
        return {"messages": [bound.invoke([SystemMessage(PROMPT), *state["messages"]])]}

    def guide(state: MessagesState) -> dict[str, Any]:
        """Say what comes next."""
        return {"messages": [HumanMessage(_guidance(state), name="guide")]}

    builder = StateGraph(MessagesState)
    builder.add_node("look", look)
    builder.add_node("think", RunnableLambda(think_sync, think))
    builder.add_node("tools", ToolNode(tools))
    builder.add_node("guide", guide)
    builder.add_edge(START, "look")
    builder.add_edge("look", "tools")
    builder.add_conditional_edges("tools", _after_tools)
    builder.add_conditional_edges("think", _after_thinking)
    builder.add_edge("guide", "think")
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


def _after_tools(state: MessagesState) -> Literal["guide", "think"]:
    """After the first look the plan is asked for, before the last turn the answer; otherwise the model goes on."""
    return "guide" if not _said(state) or _turns(state) == MAX_TURNS - 1 else "think"


def _after_thinking(state: MessagesState) -> Literal["tools", "guide", "__end__"]:
    """The tools that the turn called, guidance where something is missing, or the end."""
    last = state["messages"][-1]
    if _turns(state) >= MAX_TURNS:
        return "__end__"
    if isinstance(last, AIMessage) and last.tool_calls:
        return "tools"
    return "guide" if _guidance(state) else "__end__"


def _guidance(state: MessagesState) -> str:
    """What comes next, in words for the model; empty where an answer may stand."""
    said, last = _said(state), state["messages"][-1]
    if not said:
        return PLAN
    if isinstance(last, ToolMessage):
        return ANSWER
    if isinstance(last, AIMessage) and last.invalid_tool_calls:
        return f"The call could not be read: {last.invalid_tool_calls[0]['error']}. Write it again."
    own = [
        call["name"] in _WRITES
        for message in state["messages"]
        if isinstance(message, AIMessage)
        for call in message.tool_calls
        if not str(call["id"]).startswith(_LOOK)
    ]
    if not any(own):
        return "" if STORE in said else STORE
    return CHECK if own[-1] and CHECK not in said else ""


def _turns(state: MessagesState) -> int:
    """Turns of the model; the first look is the agent's own."""
    return sum(isinstance(message, AIMessage) for message in state["messages"]) - 1


def _said(state: MessagesState) -> list[str]:
    """The guidance given so far."""
    return [str(message.text) for message in state["messages"] if message.name == "guide"]
