"""Functions as a model is told of them: names and JSON schemas that chat servers take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evals.suites.bfcl.official import official
from evals.suites.protocol import ToolSpec

if TYPE_CHECKING:
    from collections.abc import Mapping


def plain_name(name: str) -> str:
    """Servers take no dots in names; the official handlers write underscores, and the checker knows."""
    return name.replace(".", "_")


def tool_spec(function: Mapping[str, Any]) -> ToolSpec:
    """A function document as a tool."""
    return ToolSpec(
        name=plain_name(function["name"]),
        description=function["description"],
        parameters=_json_schema(function["parameters"]),
    )


def _json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with the names that JSON schemas have for its types; types nobody knows are strings, as officially."""
    changed = dict(schema)
    if "type" in schema:
        changed["type"] = official().json_types.get(schema["type"], "string")
    if "properties" in schema:
        changed["properties"] = {key: _json_schema(value) for key, value in schema["properties"].items()}
    if "items" in schema:
        changed["items"] = _json_schema(schema["items"])
    return changed
