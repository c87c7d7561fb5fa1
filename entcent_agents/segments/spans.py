"""What the text of one model turn is made of: reasoning, answer, tool calls, and the markup around them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from entcent_agents.segments.json_calls import json_call
from entcent_agents.segments.lenient_json import MOST_FAILURES, Path, Value, leaves, read_value


class SegmentKind(IntEnum):
    """What a stretch of a turn is; the numbers are those in records."""

    UNKNOWN = 0
    """There is no text to tell by."""
    MARKUP = 1
    """Tags, fences, braces, quotes, keys, special tokens, and the white space beside them."""
    REASONING = 2
    """What a reasoning model writes before it answers."""
    ANSWER = 3
    """Everything else."""
    TOOL_NAME = 4
    """The name of the tool in a call."""
    TOOL_ARGUMENT = 5
    """One value in the arguments of a call."""


class Span(NamedTuple):
    """A stretch of a text.

    Attributes:
        start: Its first character.
        end: Behind its last character.
        kind: What it is.
        call: Which call of the turn it is within, from 0; None outside calls.
        path: Where the value sits in the arguments: keys and list positions; empty elsewhere.
    """

    start: int
    end: int
    kind: SegmentKind
    call: int | None = None
    path: Path = ()


def turn_spans(text: str) -> list[Span]:
    """The spans of a turn: in order, without gaps, none of them empty.

    Args:
        text: What the model wrote, special tokens included where the server gives them.
    """
    turn = _Turn(text)
    turn.read()
    end = _end_of_prompted_reasoning(text)
    if end and not turn.has_argument_around(end.start()):
        turn = _Turn(text)
        turn.begin_with_reasoning(end)
        turn.read()
    return list(_without_gaps(text, turn.spans))


class _Call(NamedTuple):
    """One call: where it stands, and what of it is a name or an argument; the rest is markup."""

    start: int
    end: int
    parts: list[Span]


_NAME: Final = r"[^\W\d][\w.-]*+"
# Every alternative begins with a character of its own: that keeps the search quick in long prose.
_MARK: Final = re.compile(
    r"<(?P<reasoning>(?:think(?:ing)?|reasoning)>)|\[(?P<bracketed_reasoning>THINK\])"
    r"|<(?P<tag>/?tool_calls?>|/?tools>|\|/?tool_calls?\|>|\|python_tag\|>)"
    r"|<(?P<function>function=)|\[(?P<named_call>TOOL_CALLS\])"
    rf"|\[(?P<keyword_calls>\s*+{_NAME}\()"
    r"|\{(?P<object>\{?\s*+[\"'])|\[(?P<objects>\s*+\{)"
    r"|`(?P<fence>``)"
    r"|<(?P<ending>/(?:think(?:ing)?|reasoning|function|parameter)>|/s>(?=\s*\Z))|\[(?P<bracketed_ending>/THINK\])"
    r"|<(?P<special>\|/?\w{1,40}\|>|\uff5c[^\uff5c<>\s]{1,40}\uff5c>|end_of_turn>|eos>)"
)
_REASONING: Final = {
    **{f"<{word}>": f"</{word}>" for word in ("think", "thinking", "reasoning")},
    "[THINK]": "[/THINK]",
}
_REASONING_END: Final = re.compile("|".join(map(re.escape, _REASONING.values())))
_LAST_TOKENS: Final = re.compile(r"(?:(?:<\|\w{1,40}\|>|</s>)\s*+)++\Z")
_LAST_CHARACTERS: Final = 200
_DEEPEST_INDENTATION: Final = 40
_CALL_END: Final = re.compile(r"</tool_call>|</function>|\[TOOL_CALLS\]|<\|\w{1,40}\|>")
_FUNCTION: Final = re.compile(r"([^<>\s]++)(?:>\s*+|\Z)")
_FUNCTION_END: Final = re.compile(r"\s*+</function>")
_PARAMETER: Final = re.compile(r"\s*+<parameter=([^<>\n]*+)(?:>\n?|\Z)")
_PARAMETER_END: Final = re.compile(r"</parameter>|<parameter=|</function>|</tool_call>")
_NAMED_CALL: Final = re.compile(
    rf"\s*+({_NAME})(?=\s*\{{|\[ARGS\]|\[CALL_ID\]|\Z)(?:\[CALL_ID\]\w*+)?(?:\[ARGS\])?\s*+"
)
_KEYWORD_CALL: Final = re.compile(rf"\s*+({_NAME})(?=\(|\Z)")
_REST_OF_LINE: Final = re.compile(r"[^\S\n]*+(?=\n|<|\Z)")
_FENCE: Final = re.compile(r"([\w+-]*+)[^\S\n]*+\n?")
_FENCED_CALL: Final = re.compile(r"\s*+(?:\{\{?\s*+[\"']|\[\s*+\{|<tool_call>|<function=|\[TOOL_CALLS\])")
_JSON_FENCES: Final = {"", "json", "jsonc", "json5", "tool_call", "tool_calls"}
_SPACE: Final = re.compile(r"\s*+")
_SEPARATORS: Final = re.compile(r"[\s;,\]})]*+")


class _Turn:
    """One pass over a turn; what it does not claim is answer, or space between markup."""

    def __init__(self, text: str) -> None:
        self.text, self.position = text, 0
        self.spans: list[Span] = []
        self._calls = 0
        self._failures = 0
        last = _LAST_TOKENS.search(text, max(0, len(text) - _LAST_CHARACTERS))
        self._end = last.start() if last else len(text)  # what is not closed here was cut off
        self._content = self._after_space(0)  # where the turn, or what follows the last markup, begins
        self._body = -1  # where what follows the opening tag of a call begins
        self._last: dict[str, int] = {}  # where each closing tag of reasoning stands last
        self._in_fence = False
        self._fence: tuple[int, int] | None = None  # the opening of a fence without a call so far

    def begin_with_reasoning(self, end: re.Match[str]) -> None:
        """Take everything before this closing tag as reasoning; the opening tag was in the prompt."""
        self._add_reasoning(0, end.start())
        self.ending(end)
        self.position = end.end()

    def read(self) -> None:
        """Find the spans from here on; they may be out of order."""
        while match := _MARK.search(self.text, self.position):
            self.position = match.end()
            _READERS[match.lastgroup or ""](self, match)

    def has_argument_around(self, position: int) -> bool:
        """Whether an argument that is not cut off goes on at `position`."""
        return any(
            span.kind == SegmentKind.TOOL_ARGUMENT and span.start <= position < span.end < self._end
            for span in self.spans
        )

    def reasoning(self, opening: re.Match[str]) -> None:
        start, closing = opening.end(), _REASONING[opening[0]]
        if closing not in self._last:
            self._last[closing] = self.text.rfind(closing)
        if self._last[closing] >= start:
            end = self.text.find(closing, start)
            self.position = end + len(closing)
            self._add(end, self.position, SegmentKind.MARKUP)
        elif opening.start() == self._content or self._begins_line(opening.start()):
            self.position = end = self._end
        else:  # a tag that prose speaks of
            return
        self.ending(opening)
        self._add_reasoning(start, end)

    def ending(self, mark: re.Match[str]) -> None:
        self._add(mark.start(), mark.end(), SegmentKind.MARKUP)

    def tag(self, tag: re.Match[str]) -> None:
        self._show_fence()
        self.ending(tag)
        self._body = -1 if "/" in tag[0] else self._content

    def named_call(self, tag: re.Match[str]) -> None:
        """`[TOOL_CALLS]name[ARGS]{...}`; what has no name there is a list of objects, and read as such."""
        self.tag(tag)
        if match := _NAMED_CALL.match(self.text, tag.end(), self._end):
            name = Span(*match.span(1), SegmentKind.TOOL_NAME)
            self._add_call(self._with_arguments(name.start, name, match.end()))

    def function(self, tag: re.Match[str]) -> None:
        """`<function=name>`, followed by one JSON object or by parameters in tags of their own."""
        match = _FUNCTION.match(self.text, tag.end(), self._end)
        if match is None:
            return
        self._show_fence()
        name = Span(*match.span(1), SegmentKind.TOOL_NAME)
        call = self._with_arguments(tag.start(), name, match.end())
        end, parameters = self._parameters(call.end)
        closing = _FUNCTION_END.match(self.text, end)
        self._add_call(_Call(tag.start(), closing.end() if closing else end, call.parts + parameters))

    def _with_arguments(self, start: int, name: Span, end: int) -> _Call:
        """The call whose arguments, if there are any, are the object at `end`."""
        if not self.text.startswith("{", end):
            return _Call(start, end, [name])
        value = self._value(end)
        return _Call(start, value.end, [name, *_arguments(value)])

    def _parameters(self, position: int) -> tuple[int, list[Span]]:
        parameters: list[Span] = []
        while opening := _PARAMETER.match(self.text, position, self._end):
            start = opening.end()
            if closing := _PARAMETER_END.search(self.text, start, self._end):
                end = max(start, closing.start() - (self.text[closing.start() - 1] == "\n"))
                position = closing.end() if closing[0] == "</parameter>" else closing.start()
            else:
                position = end = self._end
            parameters.append(Span(start, end, SegmentKind.TOOL_ARGUMENT, None, _printable((opening[1].strip(),))))
        return position, parameters

    def keyword_calls(self, opening: re.Match[str]) -> None:
        """`[f(a="x"), g()]`, where the turn begins with it: within prose such brackets are mathematics, or links."""
        if opening.start() == self._content and (read := _keyword_calls(self.text, opening.start() + 1, self._end)):
            self._add_calls(opening.start(), *read)

    def json(self, opening: re.Match[str]) -> None:
        start = opening.start()
        self.position = start + 1
        if self._failures == MOST_FAILURES:
            return
        tagged = start == self._body
        value = self._value(start) if tagged else read_value(self.text, start, self._end)
        if calls := self._json_calls(value, tagged):
            self._add_calls(start, calls, value.end)
        elif value.closed:
            self.position = value.end
        else:
            self._failures += 1

    def _json_calls(self, value: Value, tagged: bool) -> list[_Call]:
        """The calls in an object or a list; without a tag only what has a name and arguments is one."""
        calls: list[_Call] = []
        if not (tagged or value.closed or value.end == self._end):  # it stops being JSON
            return calls
        for item in value.content if isinstance(value.content, list) else [value]:
            name, arguments = json_call(self.text, item)
            whole = name and arguments and isinstance(arguments.content, dict)
            if not (whole or ((tagged or calls) and (name or arguments))):
                continue
            parts = _arguments(arguments) if arguments else []
            if name:
                parts.append(Span(name.start, name.end, SegmentKind.TOOL_NAME))
            calls.append(_Call(item.start, item.end, parts))
        return calls

    def _value(self, start: int) -> Value:
        """The value that begins at `start` within a call; what cannot be read to its end stops at the call's end."""
        value = read_value(self.text, start, self._end)
        if value.closed or self._failures == MOST_FAILURES:
            return value
        self._failures += 1
        end = _CALL_END.search(self.text, start, self._end)
        return read_value(self.text, start, end.start()) if end else value

    def code(self, fence: re.Match[str]) -> None:
        """The beginning or end of a code block; a block that can hold no call is passed over."""
        if self._in_fence:
            if self._fence is None:
                self.ending(fence)
            self._in_fence, self._fence = False, None
            return
        language = _FENCE.match(self.text, fence.end())
        body = language.end() if language else fence.end()
        if (language and language[1].lower() in _JSON_FENCES) or _FENCED_CALL.match(self.text, body):
            self._in_fence, self._fence, self.position = True, (fence.start(), body), body
        elif self._begins_line(fence.start()):
            end = self.text.find("```", body)
            self.position = end + 3 if end >= 0 else len(self.text)

    def _show_fence(self) -> None:
        """The fence around a call is markup, that around an answer is part of it."""
        if self._fence:
            self._add(*self._fence, SegmentKind.MARKUP)
            self._fence = None

    def _add(self, start: int, end: int, kind: SegmentKind, call: int | None = None, path: Path = ()) -> None:
        if start < end:
            self.spans.append(Span(start, end, kind, call, path))
            self._content = self._after_space(end)

    def _add_reasoning(self, start: int, end: int) -> None:
        said = self.text[start:end]
        self._add(end - len(said.lstrip()), start + len(said.rstrip()), SegmentKind.REASONING)

    def _add_calls(self, start: int, calls: list[_Call], end: int) -> None:
        """Calls in brackets of their own, or one without."""
        self._show_fence()
        self._add(start, calls[0].start, SegmentKind.MARKUP)
        for call in calls:
            self._add_call(call)
        self._add(calls[-1].end, end, SegmentKind.MARKUP)
        self.position = end

    def _add_call(self, call: _Call) -> None:
        self._show_fence()
        end = call.start
        for part in sorted(call.parts, key=_start):
            self._add(end, part.start, SegmentKind.MARKUP, self._calls)
            self._add(part.start, part.end, part.kind, self._calls, part.path)
            end = part.end
        self._add(end, call.end, SegmentKind.MARKUP, self._calls)
        self._calls += 1
        self.position = call.end

    def _begins_line(self, position: int) -> bool:
        """Whether nothing but indentation stands before it on its line; elsewhere prose speaks of a tag or fence."""
        first = max(0, position - _DEEPEST_INDENTATION)
        _, line_break, indentation = self.text[first:position].rpartition("\n")
        return (bool(line_break) or first == 0) and not indentation.strip()

    def _after_space(self, position: int) -> int:
        space = _SPACE.match(self.text, position)
        return space.end() if space else position


_READERS: Final = {
    "reasoning": _Turn.reasoning,
    "bracketed_reasoning": _Turn.reasoning,
    "tag": _Turn.tag,
    "function": _Turn.function,
    "named_call": _Turn.named_call,
    "keyword_calls": _Turn.keyword_calls,
    "object": _Turn.json,
    "objects": _Turn.json,
    "fence": _Turn.code,
    "ending": _Turn.ending,
    "bracketed_ending": _Turn.ending,
    "special": _Turn.ending,
}


def _end_of_prompted_reasoning(text: str) -> re.Match[str] | None:
    """The first closing tag, where no opening tag stands before it."""
    end = _REASONING_END.search(text)
    opening = next((tag for tag, closing in _REASONING.items() if end and end[0] == closing), "")
    return end if end and text.find(opening, 0, end.start()) < 0 else None


def _keyword_calls(text: str, position: int, limit: int) -> tuple[list[_Call], int] | None:
    """The calls `f(a="x"), g()]` that begin here and where they end; None where this is something else."""
    calls: list[_Call] = []
    while name := _KEYWORD_CALL.match(text, position, limit):
        parts, position, closed = [Span(*name.span(1), SegmentKind.TOOL_NAME)], name.end(), False
        if position < limit:
            arguments = read_value(text, position, limit)
            parts += _arguments(arguments)
            position, closed = arguments.end, arguments.closed
        calls.append(_Call(name.start(1), position, parts))
        after = _SPACE.match(text, position, limit)
        position = after.end() if closed and after else position
        if text.startswith(",", position):
            position += 1
        elif text.startswith("]", position):
            return (calls, position + 1) if _REST_OF_LINE.match(text, position + 1) else None
        else:
            break
    return (calls, position) if calls and position == limit else None


def _arguments(value: Value) -> list[Span]:
    """The leaves of a call's arguments; the brackets of no arguments at all are none."""
    return [
        Span(leaf.start, leaf.end, SegmentKind.TOOL_ARGUMENT, None, _printable(path))
        for path, leaf in leaves(value)
        if path or not isinstance(leaf.content, dict | list)
    ]


def _printable(path: Path) -> Path:
    """Half a character in a key, as JSON can write it, would fail wherever the path is printed."""
    return tuple(key.encode("utf-8", "replace").decode() if isinstance(key, str) else key for key in path)


def _start(span: Span) -> int:
    return span.start


def _without_gaps(text: str, spans: Iterable[Span]) -> Iterator[Span]:
    end = 0
    for span in (*sorted(spans, key=_start), Span(len(text), len(text), SegmentKind.MARKUP)):
        if end < span.start:
            yield from _gap(text, end, span.start)
        if span.start < span.end:
            yield span
        end = span.end


def _gap(text: str, start: int, end: int) -> Iterator[Span]:
    """What stands between two spans: answer, without the white space beside markup."""
    said = text[start:end]
    if (start > 0 or end < len(text)) and _SEPARATORS.fullmatch(said):
        yield Span(start, end, SegmentKind.MARKUP)
        return
    first = end - len(said.lstrip()) if start > 0 else start
    last = start + len(said.rstrip()) if end < len(text) else end
    for a, b, kind in (
        (start, first, SegmentKind.MARKUP),
        (first, last, SegmentKind.ANSWER),
        (last, end, SegmentKind.MARKUP),
    ):
        if a < b:
            yield Span(a, b, kind)
