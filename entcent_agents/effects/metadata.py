"""What a tool's metadata says of its effect: the word of its author, told from the hints of its MCP server.

    langchain-mcp-adapters   {"title": …, "readOnlyHint": …, …}: the server's annotations, at the top
    langchain.mcp            {"mcp": {"tool": {"annotations": {"read_only_hint": …}}, "server": {"name": …}}}

A server may annotate a tool with keys of its own making, and the first of these adapters copies them to the top, where
authors write `effect`. So beside hints a text counts for nothing: only `declare` leaves an `Effect`, which no server
can send.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol, cast

from entcent_agents.effects.effect import Effect

READ_ONLY: Final = ("readOnlyHint", "read_only_hint")
"""The hint as MCP spells it, and as Python does; adapters differ."""


class Tool(Protocol):
    """What is asked of a tool here: a name, and metadata that may say what the tool does."""

    name: str
    metadata: dict[str, Any] | None


def authors_word(tool: Tool) -> Mapping[str, Any]:
    """The tool's metadata, if its author wrote it; nothing where an MCP server may have."""
    metadata = tool.metadata or {}
    return {} if _hinted_at_the_top(metadata) and not isinstance(metadata.get("effect"), Effect) else metadata


def forgeable_effect(tool: Tool) -> str | None:
    """An effect in the metadata that the MCP server may have written itself."""
    said = (tool.metadata or {}).get("effect")
    return None if said is None or "effect" in authors_word(tool) else str(said)


def read_only_hint(tool: Tool) -> bool | None:
    """What the tool's MCP server says; None where it says nothing."""
    metadata = tool.metadata or {}
    hints = metadata if _hinted_at_the_top(metadata) else _mapping(_mcp(tool, "tool").get("annotations"))
    said = next((hints[key] for key in READ_ONLY if key in hints), None)
    return said if isinstance(said, bool) else None


def server_of(tool: Tool) -> str | None:
    """The name that the tool's MCP server gave itself, where the adapter keeps it."""
    name = None if _hinted_at_the_top(tool.metadata or {}) else _mcp(tool, "server").get("name")
    return name if isinstance(name, str) else None


def _hinted_at_the_top(metadata: Mapping[str, Any]) -> bool:
    return any(key in metadata for key in READ_ONLY)


def _mcp(tool: Tool, part: str) -> Mapping[str, Any]:
    return _mapping(_mapping((tool.metadata or {}).get("mcp")).get(part))


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
