"""The tools of MCP servers, with effects read from what the servers that are trusted say of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from langchain_core.tools import BaseTool
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.sessions import Connection
from langchain_mcp_adapters.tools import load_mcp_tools

from entcent_agents.effects import READ, declare
from entcent_agents.effects.metadata import forgeable_effect, read_only_hint
from entcent_agents.errors import ConfigurationError


@asynccontextmanager
async def mcp_tools(
    servers: Mapping[str, Connection], *, trust_hints: bool | Collection[str] = ()
) -> AsyncGenerator[list[BaseTool]]:
    """The tools of all servers, over one session each for as long as this is open; for asynchronous agents.

    They are named `server_tool`. Those that a trusted server hints to be read-only are declared READ, and of all others
    nothing is known: rollouts are held before them until `effects=` says more.

    Args:
        servers: By your name for each, what langchain-mcp-adapters connects to: a command, or an address.
        trust_hints: The servers whose hints are believed, by your name for them, whatever they call themselves; True
            for all.

    Raises:
        ConfigurationError: `trust_hints` names no server.
    """
    trusted = set(servers) if trust_hints is True else set(trust_hints or ())
    if unknown := sorted(trusted - set(servers)):
        raise ConfigurationError(f"trust_hints name {', '.join(unknown)}; the servers are {', '.join(servers)}")
    client = MultiServerMCPClient(dict(servers))
    async with AsyncExitStack() as sessions:
        tools: list[BaseTool] = []
        for name in servers:
            session = await sessions.enter_async_context(client.session(name))
            found = await load_mcp_tools(session, server_name=name, tool_name_prefix=True)
            tools += [_declared(tool) for tool in found] if name in trusted else found
        yield tools


def _declared(tool: BaseTool) -> BaseTool:
    """The tool as its server hints; it acts on no environment of ours, so that equal reads at one time may be one.

    A server that writes an effect beside its hints stays as it is: whoever makes rollouts is told.
    """
    reads = read_only_hint(tool) is True and forgeable_effect(tool) is None
    return declare(tool, READ, environment=None) if reads else tool
