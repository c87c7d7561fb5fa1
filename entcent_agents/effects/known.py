"""Tools of other packages whose code is known here: all they do is hand over, or keep a list in the agent's state.

A tool is known by the function it runs, never by its name or its metadata: a server cannot send a function, and a tool
that somebody writes themselves under the same name is another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from entcent_agents.effects.effect import READ, Effect
from entcent_agents.effects.metadata import Tool

_KNOWN: Final[Mapping[tuple[str, str], Effect]] = {
    ("langgraph_supervisor.handoff", "create_handoff_tool.<locals>.handoff_to_agent"): READ,
    ("langgraph_supervisor.handoff", "create_forward_message_tool.<locals>.forward_message"): READ,
    ("langgraph_swarm.handoff", "create_handoff_tool.<locals>.handoff_to_agent"): READ,
    ("langchain.agents.middleware.todo", "_write_todos"): READ,
    ("langchain.agents.middleware.todo", "_awrite_todos"): READ,
}
"""By module and qualified name. Each was read, and writes nothing but the state that it returns."""


def known_effect(tool: Tool) -> Effect | None:
    """What a tool does all of whose code is known; None for any other."""
    functions = [found for name in ("func", "coroutine") if (found := getattr(tool, name, None)) is not None]
    known = {_known(function) for function in functions}
    is_plain = type(tool).__module__.partition(".")[0] == "langchain_core"  # a class of one's own may run anything
    return known.pop() if is_plain and len(known) == 1 else None


def _known(function: Any) -> Effect | None:
    """Of its own code: what wraps another function takes over its names, and not its code."""
    code, names = getattr(function, "__code__", None), getattr(function, "__globals__", {})
    return _KNOWN.get((names.get("__name__", ""), getattr(code, "co_qualname", "")))
