"""Tool calls as text: how tools are described in the prompt, and how calls are read back from what a model wrote.

Prompted calls are ordinary tokens, so their log-probabilities are covered on every server; small models also write
JSON in a code block more readily than a provider's own markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
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
            result = f"<tool_response>\n{message.text}\n</tool_response>"
            if texts and isinstance(texts[-1], HumanMessage) and texts[-1].additional_kwargs.get("results"):
                texts[-1] = _results(f"{texts[-1].text}\n{result}")
            else:
                texts.append(_results(result))
        elif isinstance(message, AIMessage):
            texts.append(AIMessage(_call_text(message)))
        else:
            texts.append(cast(AnyMessage, message))
    return texts


def read_calls(text: str, known: Sequence[str] = ()) -> TextCalls:
    """Tool calls in what a model wrote: fenced or bare JSON, `<tool_call>` markup, doubled braces, Python literals.

    Args:
        text: The whole turn.
        known: Tool names; an object whose name is none of them is a call only where it has arguments too.
    """
    valid: list[ToolCall] = []
    for value in _objects(text):
        for item in cast(list[Any], value) if isinstance(value, list) else [value]:
            call = _as_call(item, known)
            if call:
                valid.append(call)
    broken = None if valid else _broken_call(text, known)
    return TextCalls(valid, [broken] if broken else [])


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


_OPENING: Final = re.compile(r"""\{\{?\s*["']|\[\s*\{""")
"""Where an object with a key, or a list of objects, may begin: most braces in prose and code cannot."""

_MOST_FAILURES: Final = 100
"""Openings tried in vain before a text is given up: each may read it to its end, and models do fall into loops."""

_TOKEN: Final = re.compile(
    r'"""(?P<triple>.*?)"""|"(?P<double>(?:\\.|[^"\\])*)"|'
    r"'(?P<single>(?:\\.|[^'\\])*)'|"
    r"(?P<comma>,\s*(?=[}\]]))|\b(?P<word>True|False|None)\b",
    re.DOTALL,
)
_BRACKET: Final = re.compile(r"""[][{}]|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|["']""", re.DOTALL)
_WORDS: Final = {"True": "true", "False": "false", "None": "null"}


def _objects(text: str) -> Iterator[Any]:
    """Every outermost JSON object or list of objects in the text, leniently decoded."""
    position, failures = 0, 0
    while failures < _MOST_FAILURES and (match := _OPENING.search(text, position)) is not None:
        decoded = _decode(text, match.start())
        if decoded is None:
            failures += 1
            position = match.start() + 1
            continue
        value, position = decoded
        yield value


def _decode(text: str, start: int) -> tuple[Any, int] | None:
    """The value that begins at `start` and where it ends; repaired where it is almost JSON."""
    try:
        return json.JSONDecoder(strict=False).raw_decode(text, start)
    except (ValueError, RecursionError):
        end = _balanced(text, start)
    if end is None:
        return None
    candidate = text[start:end]
    attempts = [candidate, candidate[1:-1], candidate.replace("{{", "{").replace("}}", "}")]
    for attempt in attempts if candidate.startswith("{{") else attempts[:1]:
        try:
            return json.loads(_TOKEN.sub(_repaired, attempt), strict=False), end
        except (ValueError, RecursionError):
            continue
    return None


def _repaired(token: re.Match[str]) -> str:
    """One token as JSON has it: quotes, Python's words, backslashes that escape nothing, commas before a bracket."""
    kind, said = token.lastgroup, token[token.lastgroup or 0]
    if kind == "comma":
        return ""
    if kind == "word":
        return _WORDS[said]
    if kind == "triple":
        return json.dumps(said)
    if kind == "single":
        said = said.replace("\\'", "'")
        said = re.sub(r'(\\.)|"', lambda found: found[1] or r"\"", said, flags=re.DOTALL)
    return '"' + re.sub(r'\\(["\\/bfnrtu])|\\', lambda found: found[0] if found[1] else r"\\", said) + '"'


def _balanced(text: str, start: int) -> int | None:
    """Where the bracketed expression that begins at `start` ends, quotes respected; None where it never closes."""
    depth = 0
    for part in _BRACKET.finditer(text, start):
        if part[0] in "{[":
            depth += 1
        elif part[0] in "}]":
            depth -= 1
            if not depth:
                return part.end()
        elif len(part[0]) == 1:
            return None  # a quote that never closes
    return None


def _as_call(item: Any, known: Sequence[str]) -> ToolCall | None:
    if not isinstance(item, dict):
        return None
    fields = cast(dict[str, Any], item)
    name = _first(fields, _NAME_KEYS)
    if isinstance(name, dict):  # {"function": {"name": ..., "arguments": ...}}
        return _as_call(cast(Any, name), known)
    if not isinstance(name, str) or not name:
        return None
    arguments = _first(fields, _ARGUMENT_KEYS)
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}", strict=False)
        except (ValueError, RecursionError):
            return None
    if arguments is None and name in known:
        arguments = {}
    if not isinstance(arguments, dict):
        return None
    return tool_call(name=name, args=cast(dict[str, Any], arguments), id=_new_id())


def _first(fields: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((fields[key] for key in keys if key in fields), None)


def _broken_call(text: str, known: Sequence[str]) -> InvalidToolCall | None:
    """What was meant as a call and cannot be read as one, so that an agent can say so to its model."""
    match = re.search(r"""\{\s*["'](?:name|tool|function)["']\s*:\s*["']([^"']+)["']""", text)
    if match is None or (known and match[1] not in known):
        return None
    error = "not valid JSON: close every brace and quote, and escape quotes and line breaks inside strings"
    if _decode(text, match.start()) is not None:
        error = 'not a call: give the arguments as one JSON object, {"name": ..., "arguments": {...}}'
    return invalid_tool_call(name=match[1], args=text[match.start() :], id=_new_id(), error=error)


def _new_id() -> str:
    return f"call_{uuid4().hex[:24]}"
