"""Replies that the server forces into a shape: forced tool calls in text, and structured answers.

Servers compile the JSON schema of `response_format` into a grammar and sample among the tokens it allows. A server that
does not know the field ignores it: what came is parsed as ever, and no call is made up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from langchain_core.utils.json_schema import dereference_refs

from entcent_agents.errors import ConfigurationError

JSON_MODE: Final = {"type": "json_object"}
"""Some JSON object, whatever is in it; the prompt has to ask for JSON."""

_UNFORCED: Final = (None, False, "auto")
_ANY: Final = (True, "any", "required")


def call_format(tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The `response_format` of a reply that is one call of one of these tools, in the shape of calls in text.

    Args:
        tools: OpenAI function specifications.
    """
    calls = [_call_schema(tool["function"]) for tool in tools]
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    strict = all(tool["function"].get("strict") for tool in tools)
    return json_format("tool_call", schema, strict=strict or None)


def json_format(name: str, schema: Mapping[str, Any], *, strict: bool | None = None) -> dict[str, Any]:
    """The `response_format` of a reply that is JSON of this schema.

    Args:
        name: What the API wants it to be called.
        schema: JSON schema.
        strict: What OpenAI is told; None leaves it out. Other servers always hold to the schema.
    """
    described: dict[str, Any] = {"name": name, "schema": schema}
    return {"type": "json_schema", "json_schema": described if strict is None else {**described, "strict": strict}}


def text_binding(
    tools: Sequence[Mapping[str, Any]],
    tool_choice: str | Mapping[str, Any] | bool | None,
    response_format: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What tools bound as text are bound with: those that may be called, and whether one must.

    Args:
        tools: OpenAI function specifications.
        tool_choice: In any of LangChain's and the API's ways.
        response_format: What is asked of the answer beside.

    Raises:
        ConfigurationError: On a choice that names none of the tools, and where a reply would have to be a call and a
            structured answer in one.
    """
    if tool_choice == "none":
        return {}
    if response_format and response_format.get("type") == "json_schema":
        raise ConfigurationError(
            "a reply held to a schema could never be a tool call in text: bind the schema as one more tool "
            "(ToolStrategy), or use tool_calling='native'"
        )
    if tool_choice in _UNFORCED:
        return {"text_tools": list(tools)}
    allowed = [tool for tool in tools if tool_choice in _ANY or tool["function"]["name"] == chosen_name(tool_choice)]
    if not allowed:
        names = ", ".join(tool["function"]["name"] for tool in tools)
        raise ConfigurationError(f"tool_choice={tool_choice!r} is none of the tools: {names}")
    return {"text_tools": allowed, "tool_choice": "required"}


def native_tool_choice(choice: str | Mapping[str, Any] | bool) -> Any:
    """LangChain's ways to say it, in the API's."""
    if choice in _ANY:
        return "required"
    if isinstance(choice, str) and choice not in ("auto", "none"):
        return {"type": "function", "function": {"name": choice}}
    return choice


def chosen_name(choice: str | Mapping[str, Any] | bool | None) -> str | None:
    """The tool that a forced choice names; None where it names none."""
    if isinstance(choice, Mapping):
        function = cast(Mapping[str, Any], choice.get("function") or choice)
        return function.get("name")
    return choice if isinstance(choice, str) else None


def _call_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    properties = {"name": {"type": "string", "enum": [function["name"]]}, "arguments": _arguments_schema(function)}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _arguments_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    """The tool's own schema; references are resolved, for they are addressed from the root, which it no longer is."""
    schema: dict[str, Any] = {"type": "object", "properties": {}, **(function.get("parameters") or {})}
    if "$defs" in schema or "definitions" in schema:
        schema = dereference_refs(schema, skip_keys=[])
    return {"additionalProperties": False} | {k: v for k, v in schema.items() if k not in ("$defs", "definitions")}
