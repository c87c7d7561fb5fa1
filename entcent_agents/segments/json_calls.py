"""Tool calls as JSON objects: under which keys models write the name and the arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from entcent_agents.segments.lenient_json import Value, read_quoted

_ARGUMENT_KEYS: Final = ("arguments", "args", "parameters", "input")
_NAME_KEYS: Final = ("name", "tool", "function")


class JsonCall(NamedTuple):
    """What an object says as a tool call.

    Attributes:
        name: A string that is not empty; None where there is none.
        arguments: Whatever stands in their place, in an object or list if it is one or is written as JSON text;
            None where nothing or null does.
    """

    name: Value | None
    arguments: Value | None


def json_call(text: str, value: Value) -> JsonCall:
    """The name and the arguments in an object; neither in any other value.

    Args:
        text: What the value was read from.
        value: The object.
    """
    if not isinstance(value.content, dict):
        return JsonCall(None, None)
    name = _first(value.content, _NAME_KEYS)
    if name and isinstance(name.content, dict):  # {"function": {"name": ..., "arguments": ...}}
        return json_call(text, name)
    arguments = _first(value.content, _ARGUMENT_KEYS)
    if arguments and arguments.content is None:
        arguments = None
    if arguments and arguments.content == "" and arguments.closed:  # no arguments, as JSON text
        arguments = arguments._replace(content={})
    if arguments and isinstance(arguments.content, str):
        arguments = read_quoted(text, arguments) or arguments
    return JsonCall(name if name and isinstance(name.content, str) and name.content else None, arguments)


def _first(fields: dict[str, Value], keys: Sequence[str]) -> Value | None:
    return next((fields[key] for key in keys if key in fields), None)
