"""The names that LangGraph does not promise, and what the hooks do where no rollout runs."""

from __future__ import annotations

from typing import Annotated, Any

from langchain_core.messages import AIMessage
from langchain_core.messages.tool import tool_call
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, ToolNode
from langgraph.runtime import Runtime

from entcent_agents.nodes import guarded
from entcent_agents.rollouts.hooks import hook
from tests.rollouts.worlds import World


async def test_outside_of_rollouts_a_hooked_node_runs_its_tools_as_ever(world: World):
    node = ToolNode(world.tools)
    hook([node])
    hooked = node._execute_tool_async  # type: ignore[attr-defined]
    hook([node])
    assert node._execute_tool_async is hooked  # type: ignore[attr-defined]

    builder = StateGraph(MessagesState)
    builder.add_node("tools", node)
    builder.add_edge(START, "tools")
    call = AIMessage("", tool_calls=[tool_call(name="send", args={"to": "x"}, id="1")])
    result = await builder.compile().ainvoke({"messages": [call]})
    assert world.sent == ["x"]
    assert result["messages"][-1].content == "sent to x"


async def test_outside_of_rollouts_a_guarded_tool_is_the_tool(world: World):
    send = guarded(world.tools[0])
    assert guarded(send) is send
    assert await send.ainvoke({"to": "x"}) == "sent to x"
    assert (send.name, send.args) == ("send", world.tools[0].args)


def test_a_tool_node_has_what_the_hook_takes_hold_of(world: World):
    @tool
    def look_around(state: Annotated[dict, InjectedState]) -> str:
        """Look at the state."""
        return f"{len(state['messages'])} messages"

    node: Any = ToolNode([look_around])
    assert callable(node._execute_tool_async)
    assert callable(node._execute_tool_sync)
    assert node._injected_args["look_around"].state
    assert {"state", "store", "runtime"} <= set(vars(node._injected_args["look_around"]))


async def test_a_task_has_a_namespace_and_a_mark_of_its_own_execution():
    seen: list[dict[str, Any]] = []

    async def node(state: MessagesState, config: RunnableConfig, runtime: Runtime):
        seen.append(config["configurable"])
        return {}

    builder = StateGraph(MessagesState)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    await builder.compile().ainvoke({"messages": []})
    assert seen[0]["checkpoint_ns"].startswith("node:")
    assert seen[0]["__pregel_scratchpad"] is not None
