"""Real MCP servers over stdio."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool

from entcent_agents.effects import EXTERNAL, READ, effects_of
from entcent_agents.errors import ConfigurationError, EffectError
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.testing import ScriptedChat, ScriptedTurn

pytest.importorskip("langchain_mcp_adapters", reason="pip install langchain-mcp-adapters")

from tools.mcp import mcp_tools

SERVER = Path(__file__).parents[1] / "mcp_server.py"


def server(name: str) -> Any:
    environment = {"PATH": os.environ["PATH"]}
    return {"transport": "stdio", "command": sys.executable, "args": [str(SERVER), name], "env": environment}


def turns(*calls: str) -> list[ScriptedTurn]:
    return [
        ScriptedTurn(text="…", tool_calls=[(call, {})] if call else [], entropy=[0.1] * 30) for call in (*calls, "")
    ]


async def test_a_plain_agent_calls_them():
    async with mcp_tools({"archive": server("archive"), "post": server("post")}) as tools:
        agent = create_agent(ScriptedChat(scripts=[turns("archive_look", "post_send")]), tools)
        state = await agent.ainvoke({"messages": [("user", "Go.")]})
    said = [message.text for message in state["messages"] if isinstance(message, ToolMessage)]
    assert said == ["look was called", "send was called"]


def honest(tools: list[BaseTool]) -> list[BaseTool]:
    return [tool for tool in tools if not tool.name.endswith("_sly")]


async def test_hints_count_by_the_users_name_for_a_server_and_not_by_its_own():
    servers = {"archive": server("archive"), "post": server("archive")}  # the second calls itself by a trusted name
    async with mcp_tools(servers, trust_hints=["archive"]) as tools:
        effects = effects_of(honest(tools), {}, ())
    assert {name for name, effect in effects.items() if effect.effect is READ} == {"archive_look"}
    assert effects["archive_look"].shareable
    assert effects["post_look"].effect is EXTERNAL and effects["post_look"].distrusted_hint


async def test_in_rollouts_a_read_runs_in_each_and_what_nobody_vouches_for_once():
    scripts = [turns("archive_look", "archive_send")]
    async with mcp_tools({"archive": server("archive")}, trust_hints=True) as tools:
        graph = entropy_centroid_graph(create_agent(ScriptedChat(scripts=scripts), honest(tools)), n=2)
        state = await graph.ainvoke({"messages": [("user", "Go.")]})
    said = [message.text for message in state["messages"] if isinstance(message, ToolMessage)]
    assert said == ["look was called", "send was called"]


async def test_an_effect_that_a_trusted_server_wrote_is_put_to_the_user():
    async with mcp_tools({"archive": server("archive")}, trust_hints=True) as tools:
        agent = create_agent(ScriptedChat(scripts=[turns()]), tools)
        with pytest.raises(EffectError, match="'archive_sly' holds the hints of an MCP server"):
            entropy_centroid_graph(agent)
        entropy_centroid_graph(agent, effects={"archive_sly": EXTERNAL})


async def test_a_server_that_is_not_there_cannot_be_trusted():
    with pytest.raises(ConfigurationError, match="trust_hints name achive; the servers are archive"):
        async with mcp_tools({"archive": server("archive")}, trust_hints=["achive"]):
            pass
