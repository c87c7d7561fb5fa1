"""What a generated text says without its thoughts: the tool calls that are written in it, else its answer."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from entcent_agents.segments import SegmentKind
from entcent_agents.segments.json_calls import json_call
from entcent_agents.segments.lenient_json import Value, plain, read_value
from entcent_agents.segments.spans import Span, turn_spans

_BEFORE_ARGUMENTS: Final = re.compile(r"(?:\[CALL_ID\]\w*+)?(?:\[ARGS\])?>?\s*+")
"""Between the name of a call and its arguments, in the formats that do not write both in one object."""


def said_in(text: str) -> tuple[list[tuple[str, Any]], str]:
    """The tool calls as (name, arguments), and the text that is neither thought, call nor markup."""
    spans = turn_spans(text)
    calls: dict[int, list[Span]] = {}
    for span in spans:
        if span.call is not None:
            calls.setdefault(span.call, []).append(span)
    answer = "\n".join(text[span.start : span.end] for span in spans if span.kind == SegmentKind.ANSWER)
    return [_call(text, parts) for parts in calls.values()], answer


def _call(text: str, spans: list[Span]) -> tuple[str, Any]:
    """One call, from its spans; their order is that of the text."""
    start, end = spans[0].start, spans[-1].end
    if text[start] == "{":
        name, arguments = json_call(text, read_value(text, start, end))
        return str(name.content) if name else "", None if arguments is None else _arguments(text, arguments)
    named = next((span for span in spans if span.kind == SegmentKind.TOOL_NAME), Span(start, start, SegmentKind.MARKUP))
    before = _BEFORE_ARGUMENTS.match(text, named.end, end)
    position = before.end() if before else named.end
    name = text[named.start : named.end]
    if position < end and text[position] in "{(":
        return name, _arguments(text, read_value(text, position, end))
    return name, {
        "/".join(map(str, span.path)): _parameter(text[span.start : span.end])
        for span in spans
        if span.kind == SegmentKind.TOOL_ARGUMENT
    }


def _arguments(text: str, value: Value) -> Any:
    """What they say; letter by letter where they are cut off, which no whole ones are equal to."""
    return plain(value) if value.closed else text[value.start : value.end]


def _parameter(said: str) -> Any:
    """The text in a parameter's tags; an object or a list where it is one."""
    if not said.lstrip().startswith(("{", "[")):
        return said
    try:
        return json.loads(said)
    except (ValueError, RecursionError):
        return said
