"""Tool calls as text: how tools are described in the prompt, and how calls are read back from what a model wrote.

Prompted calls are ordinary tokens, so their log-probabilities are covered on every server; small models also write
JSON in a code block more readily than a provider's own markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, cast
from uuid import uuid4

from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.messages.tool import invalid_tool_call, tool_call

from entcent_agents.segments.json_calls import json_call
from entcent_agents.segments.lenient_json import Value, plain, read_value, read_values

STOP: Final = "\n```\n"
"""Generation ends with the code block of the call: whatever would follow is an invented result."""


_RESULT: Final = re.compile(r"<\s*(/?)\s*tool_response\s*>", re.IGNORECASE)


class TextCalls(NamedTuple):
    """Tool calls read from text."""

    valid: list[ToolCall]
    invalid: list[InvalidToolCall]


def tool_prompt(tools: Sequence[Mapping[str, Any]], *, forced: bool = False) -> str:
    """What the system message says about the tools.

    Args:
        tools: OpenAI function specifications.
        forced: Whether the reply has to be a call, and the server sees to it.
    """
    functions = [tool["function"] for tool in tools]
    example = json.dumps({"name": functions[0]["name"], "arguments": _example(functions[0])})
    signatures = "You have these tools:\n" + "\n".join(f"- {_signature(function)}" for function in functions)
    if forced:
        return f"{signatures}\n\nCall one of them now: write one JSON object and nothing else, like this:\n{example}"
    return (
        f"{signatures}\n\nTo call a tool, write one JSON object in a code block, like this:\n"
        f"```json\n{example}\n```\nThen stop. The result comes in the next message; never invent it."
    )


def as_text(
    messages: Sequence[BaseMessage], tools: Sequence[Mapping[str, Any]], *, forced: bool = False
) -> list[AnyMessage]:
    """The conversation for a model that knows nothing of tools: calls and results as plain text.

    Args:
        messages: The conversation.
        tools: OpenAI function specifications.
        forced: Whether the reply has to be a call.
    """
    texts: list[AnyMessage] = []
    if tools:
        first = messages[0] if messages and isinstance(messages[0], SystemMessage) else None
        described = tool_prompt(tools, forced=forced)
        system = f"{first.text}\n\n{described}" if first else described
        texts.append(SystemMessage(system))
        messages = messages[1:] if first else messages
    for message in messages:
        if isinstance(message, ToolMessage):
            last = texts.pop() if texts and texts[-1].additional_kwargs.get("results") else None
            texts.append(_results(last, message))
        elif isinstance(message, AIMessage):
            texts.append(AIMessage(_call_text(message)))
        else:
            texts.append(cast(AnyMessage, message))
    return texts


def read_calls(text: str, known: Sequence[str] = ()) -> TextCalls:
    """Tool calls in what a model wrote: fenced or bare JSON, `<tool_call>` markup, doubled braces, Python literals.

    What stands in `<tool_response>` is a result that the model repeats or invents, and holds no call.

    Args:
        text: The whole turn.
        known: Tool names; an object whose name is none of them is a call only where it has arguments too.
    """
    valid: list[ToolCall] = []
    results = _Results(text)
    for value in read_values(text):
        if results.hold(value):
            continue
        for item in value.content if isinstance(value.content, list) else [value]:
            call = _as_call(text, item, known)
            if call:
                valid.append(call)
    broken = None if valid else _broken_call(results.before(), known)
    return TextCalls(valid, [broken] if broken else [])


class _Results:
    """Follows `<tool_response>` through a text; tags within a value are part of what it says."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._first: int | None = None
        self._inside = False

    def hold(self, value: Value) -> bool:
        """Whether the next value stands in a result."""
        self._follow(value.start)
        self._position = value.end
        return self._inside

    def before(self) -> str:
        """The text up to its first result."""
        self._follow(len(self._text))
        return self._text[: self._first]

    def _follow(self, end: int) -> None:
        for tag in _RESULT.finditer(self._text, self._position, end):
            self._inside = not tag[1]
            if self._inside and self._first is None:
                self._first = tag.start()


def _framed(result: str) -> str:
    """A result that cannot end its own frame: tags of the frame in it no longer look like tags."""
    return _RESULT.sub(lambda tag: f"&lt;{tag[0][1:]}", result)


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
    kind = schema.get("type", "any")
    return " | ".join(cast(list[str], kind)) if isinstance(kind, list) else str(kind)


def _example(function: Mapping[str, Any]) -> dict[str, str]:
    schema = function.get("parameters", {})
    return {name: "..." for name in schema.get("required", ())}


def _results(earlier: AnyMessage | None, message: ToolMessage) -> HumanMessage:
    """One more result in a message of results: as text, and with what else it holds behind all texts."""
    text = f"<tool_response>\n{_framed(message.text)}\n</tool_response>"
    parts = _parts(message)
    if earlier:
        text, parts = f"{earlier.text}\n{text}", _parts(earlier) + parts
    content = cast(Any, [{"type": "text", "text": text}, *parts] if parts else text)
    return HumanMessage(content, additional_kwargs={"results": True})


def _parts(message: BaseMessage) -> list[dict[str, Any]]:
    """What of a message's content is no text."""
    blocks = [] if isinstance(message.content, str) else message.content
    return [cast(dict[str, Any], block) for block in blocks if isinstance(block, dict) and block.get("type") != "text"]


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


def _as_call(text: str, item: Value, known: Sequence[str]) -> ToolCall | None:
    name, arguments = json_call(text, item)
    if name is None or (arguments is None and name.content not in known):
        return None
    if arguments is not None and not isinstance(arguments.content, dict):
        return None
    return tool_call(name=str(name.content), args=plain(arguments) if arguments else {}, id=_new_id())


def _broken_call(text: str, known: Sequence[str]) -> InvalidToolCall | None:
    """What was meant as a call and cannot be read as one, so that an agent can say so to its model."""
    match = re.search(r"""\{\s*["'](?:name|tool|function)["']\s*:\s*["']([^"']+)["']""", text)
    if match is None or (known and match[1] not in known):
        return None
    error = "not valid JSON: close every brace and quote, and escape quotes and line breaks inside strings"
    if read_value(text, match.start()).closed:
        error = 'not a call: give the arguments as one JSON object, {"name": ..., "arguments": {...}}'
    return invalid_tool_call(name=match[1], args=text[match.start() :], id=_new_id(), error=error)


def _new_id() -> str:
    return f"call_{uuid4().hex[:24]}"
