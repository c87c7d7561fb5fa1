"""Tool calls as text: how tools are described in the prompt, and how calls are read back from what a model wrote.

Prompted calls are ordinary tokens, so their log-probabilities are covered on every server; small models also write
JSON in a code block more readily than a provider's own markup.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple
from uuid import uuid4

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import InvalidToolCall, ToolCall, invalid_tool_call, tool_call

STOP: Final = "\n```\n"
"""Generation ends with the code block of the call: whatever would follow is an invented result."""

_ARGUMENT_KEYS: Final = ("arguments", "args", "parameters", "input")
_NAME_KEYS: Final = ("name", "tool", "function")


class TextCalls(NamedTuple):
    """Tool calls read from text."""

    valid: list[ToolCall]
    invalid: list[InvalidToolCall]


def tool_prompt(tools: Sequence[Mapping[str, Any]]) -> str:
    """What the system message says about the tools.

    Args:
        tools: OpenAI function specifications.
    """
    functions = [tool["function"] for tool in tools]
    example = json.dumps({"name": functions[0]["name"], "arguments": _example(functions[0])})
    return (
        "You have these tools:\n"
        + "\n".join(f"- {_signature(function)}" for function in functions)
        + "\n\nTo call a tool, write one JSON object in a code block, like this:\n"
        + f"```json\n{example}\n```\nThen stop. The result comes in the next message; never invent it."
    )


def as_text(messages: Sequence[BaseMessage], tools: Sequence[Mapping[str, Any]]) -> list[AnyMessage]:
    """The conversation for a model that knows nothing of tools: calls and results as plain text."""
    texts: list[AnyMessage] = []
    if tools:
        first = messages[0] if messages and isinstance(messages[0], SystemMessage) else None
        system = f"{first.text}\n\n{tool_prompt(tools)}" if first else tool_prompt(tools)
        texts.append(SystemMessage(system))
        messages = messages[1:] if first else messages
    for message in messages:
        if isinstance(message, ToolMessage):
            result = f"Result of {message.name or 'the tool'}:\n{message.text}"
            if texts and isinstance(texts[-1], HumanMessage) and texts[-1].additional_kwargs.get("results"):
                texts[-1] = _results(f"{texts[-1].text}\n\n{result}")
            else:
                texts.append(_results(result))
        elif isinstance(message, AIMessage):
            texts.append(AIMessage(_call_text(message)))
        else:
            texts.append(message)  # type: ignore[arg-type]
    return texts


def read_calls(text: str, known: Sequence[str] = ()) -> TextCalls:
    """Tool calls in what a model wrote: fenced or bare JSON, `<tool_call>` markup, doubled braces, Python literals.

    Args:
        text: The whole turn.
        known: Tool names; an object whose name is none of them is a call only where it has arguments too.
    """
    valid: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for value in _objects(text):
        for item in value if isinstance(value, list) else [value]:
            call = _as_call(item, known)
            if call:
                valid.append(call)
    if not valid and (broken := _broken_call(text, known)):
        invalid.append(broken)
    return TextCalls(valid, invalid)


def _signature(function: Mapping[str, Any]) -> str:
    schema = function.get("parameters", {})
    required = schema.get("required", ())
    arguments = ", ".join(
        f"{name}{'' if name in required else '?'}: {_type(argument)}"
        for name, argument in schema.get("properties", {}).items()
    )
    description = " ".join(str(function.get("description", "")).split())
    return f"{function['name']}({arguments}): {description}"


def _type(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}"
    if "anyOf" in schema:
        return " | ".join(_type(option) for option in schema["anyOf"])
    return str(schema.get("type", "any"))


def _example(function: Mapping[str, Any]) -> dict[str, str]:
    schema = function.get("parameters", {})
    return {name: "..." for name in schema.get("required", ())}


def _results(text: str) -> HumanMessage:
    return HumanMessage(text, additional_kwargs={"results": True})


def _call_text(message: AIMessage) -> str:
    """What the model wrote; calls that are not in its text (made by hand, or native) are written out."""
    text = str(message.text)
    if text.count("```") % 2:
        text += "\n```"  # the stop sequence took the closing fence
    if not message.tool_calls or len(read_calls(text).valid) >= len(message.tool_calls):
        return text
    calls = "\n".join(
        f"```json\n{json.dumps({'name': call['name'], 'arguments': call['args']})}\n```" for call in message.tool_calls
    )
    return f"{text}\n{calls}".lstrip()


def _objects(text: str) -> Iterator[Any]:
    """Every outermost JSON object or list of objects in the text, leniently decoded."""
    position = 0
    while (match := re.compile(r"[\[{]").search(text, position)) is not None:
        decoded = _decode(text[match.start() :])
        if decoded is None:
            position = match.start() + 1
            continue
        value, length = decoded
        position = match.start() + length
        yield value


def _decode(text: str) -> tuple[Any, int] | None:
    try:
        return json.JSONDecoder(strict=False).raw_decode(text)
    except ValueError:
        pass
    if text.startswith("{{") and (inner := _decode(text[1:])) is not None:
        return inner[0], inner[1] + 1  # the closing brace that is left over is skipped by the search
    length = _balanced(text)
    if length is None:
        return None
    candidate = text[:length]
    repaired = re.sub(r",\s*([}\]])", r"\1", candidate)
    try:
        return json.loads(repaired, strict=False), length
    except ValueError:
        pass
    try:
        value = ast.literal_eval(candidate)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return (value, length) if isinstance(value, dict | list) else None


def _balanced(text: str) -> int | None:
    """Length of the bracketed expression that `text` starts with, quotes respected; None where it never closes."""
    depth, quote, escaped = 0, "", False
    for i, character in enumerate(text):
        if quote:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == quote:
                quote = ""
        elif character in "\"'":
            quote = character
        elif character in "{[":
            depth += 1
        elif character in "}]":
            depth -= 1
            if not depth:
                return i + 1
    return None


def _as_call(item: Any, known: Sequence[str]) -> ToolCall | None:
    if not isinstance(item, dict):
        return None
    name: Any = next((item[key] for key in _NAME_KEYS if key in item), None)
    if isinstance(name, dict):  # {"function": {"name": …, "arguments": …}}
        return _as_call(name, known)
    if not isinstance(name, str) or not name:
        return None
    arguments: Any = next((item[key] for key in _ARGUMENT_KEYS if key in item), None)
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments, strict=False)
        except ValueError:
            return None
    if arguments is None:
        if name not in known:
            return None
        arguments = {}
    if not isinstance(arguments, dict):
        return None
    return tool_call(name=name, args=arguments, id=f"call_{uuid4().hex[:24]}")


def _broken_call(text: str, known: Sequence[str]) -> InvalidToolCall | None:
    """A block that was meant as a call and cannot be read, so that an agent can say so to its model."""
    match = re.search(r'[{]\s*"(?:name|tool|function)"\s*:\s*"([^"]+)"', text)
    if match is None or (known and match.group(1) not in known):
        return None
    return invalid_tool_call(
        name=match.group(1),
        args=text[match.start() :],
        id=f"call_{uuid4().hex[:24]}",
        error="not valid JSON: close every brace and quote, and escape quotes and line breaks inside strings",
    )
