"""JSON as language models write it: values, where they stand in the text, and what was cut off.

Read beside JSON proper: single and triple quotes, Python's words and numbers, doubled braces, a comma before a closing
bracket, line breaks in strings, backslashes that escape nothing. Reading is linear, not recursive, and never raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

Path: TypeAlias = tuple[str | int, ...]
Content: TypeAlias = "dict[str, Value] | list[Value] | str | float | None"

OPENING: Final = r"""\{\{?\s*["']|\[\s*\{"""
"""Where an object with a key, or a list of objects, may begin: most braces in prose and code cannot."""
MOST_FAILURES: Final = 100
"""Openings tried in vain before a text is given up: each may read it to its end, and models do fall into loops."""

_DEEPEST: Final = 100
_OPENING: Final = re.compile(OPENING)
_SPACE: Final = re.compile(r"\s*+")
_QUOTE: Final = re.compile("\"\"\"|'''|\"|'")
_BODIES: Final = {
    **{q: re.compile(rf"[^{q}\\]*+(?:\\.[^{q}\\]*+)*+", re.DOTALL) for q in ('"', "'")},
    **{q * 3: re.compile(rf"[^{q}]*+(?:{q}(?!{q}{q})[^{q}]*+)*+") for q in ('"', "'")},
}
_ESCAPE: Final = r'\\(?:u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|u[\da-fA-F]{4}|["\\/bfnrt])'
_ESCAPES: Final = {'"': re.compile(_ESCAPE, re.ASCII), "'": re.compile(_ESCAPE + r"|\\'", re.ASCII)}
_ESCAPED: Final = {"\\'": "'"} | {f"\\{letter}": json.loads(f'"\\{letter}"') for letter in '"\\/bfnrt'}
_KEYWORD: Final = re.compile(r"([^\W\d]\w*)\s*=")
_RUN: Final = re.compile(r"[-+.\w]++")
_NUMBER: Final = re.compile(r"[-+]?(?:\d++(?:_\d++)*+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_WORDS: Final[dict[str, bool | float | None]] = {
    **{"true": True, "false": False, "null": None, "True": True, "False": False, "None": None},
    **{word: float(word) for word in ("NaN", "Infinity", "-Infinity")},
}


class Value(NamedTuple):
    """One value and where it stands.

    Attributes:
        content: Values by key, in the order of the text; a list of values; or what a scalar says.
        start: Its first character. A string is without its quotes, unless it is empty.
        end: Behind its last character; where it is not closed, where reading stopped.
        closed: Whether its end was found: not where the text is cut off or stops being JSON within it.
    """

    content: Content
    start: int
    end: int
    closed: bool


def read_value(text: str, start: int, end: int | None = None) -> Value:
    """The object or list that begins at `start`, as far as it can be read; `(a=1, b="x")` is an object too.

    Args:
        text: What a model wrote.
        start: Where a `{`, `[` or `(` stands.
        end: Where to stop reading; default: the end of the text.
    """
    return _Reading(text, start, len(text) if end is None else end).value()


def read_quoted(text: str, string: Value) -> Value | None:
    """The object or list that a string holds as JSON text, at its place in `text`; None where it holds something else.

    Of a string that is cut off, the value may be cut off too.
    """
    said = string.content
    if not isinstance(said, str) or not said.lstrip().startswith(("{", "[")):
        return None
    raw = text[string.start : string.end]
    positions = range(string.start, string.end + 1)
    if said != raw:
        positions = _positions(raw, string.start, _ESCAPES["'" if text[string.start - 1] == "'" else '"'])
    reading = _Reading(said, len(said) - len(said.lstrip()), len(said), positions)
    value = reading.value()
    whole = value.closed and not said[reading.position :].strip()
    return value if whole or not string.closed else None


def read_values(text: str) -> Iterator[Value]:
    """Every outermost object with a key, or list of objects, that is whole."""
    position, failures = 0, 0
    while failures < MOST_FAILURES and (match := _OPENING.search(text, position)) is not None:
        value = read_value(text, match.start())
        if value.closed:
            position = value.end
            yield value
        else:
            failures += 1
            position = match.start() + 1


def plain(value: Value) -> Any:
    """What the value says, without its places."""
    content = value.content
    if isinstance(content, dict):
        return {key: plain(inner) for key, inner in content.items()}
    return [plain(inner) for inner in content] if isinstance(content, list) else content


def leaves(value: Value) -> Iterator[tuple[Path, Value]]:
    """The scalars and the empty objects and lists within a value, in the order of the text, each with its path."""
    waiting: list[tuple[Path, Value]] = [((), value)]
    while waiting:
        path, leaf = waiting.pop()
        if isinstance(leaf.content, dict) and leaf.content:
            waiting += [((*path, key), inner) for key, inner in reversed(leaf.content.items())]
        elif isinstance(leaf.content, list) and leaf.content:
            waiting += [((*path, index), inner) for index, inner in reversed([*enumerate(leaf.content)])]
        elif leaf.closed or not isinstance(leaf.content, dict | list):
            yield path, leaf


class _Open:
    """An object or list whose end has not been read yet; `key` is that of the value being read."""

    __slots__ = ("closer", "content", "key", "start")

    def __init__(self, start: int, closer: str) -> None:
        self.start, self.closer, self.key = start, closer, ""
        self.content: dict[str, Value] | list[Value] = [] if closer == "]" else {}


class _Reading:
    """One pass over one value.

    Args:
        text: Where it stands.
        position: Where it begins.
        limit: Where the text ends.
        positions: What to call each position, `limit` included; default: itself.
    """

    def __init__(self, text: str, position: int, limit: int, positions: Sequence[int] | None = None) -> None:
        self.text, self.position, self.limit = text, position, limit
        self._positions = range(limit + 1) if positions is None else positions
        self._stack: list[_Open] = []
        self._outermost: list[Value] = []

    def value(self) -> Value:
        self._open()
        while self._stack and self._entry():
            pass
        while self._stack:
            self._close(closed=False)
        return self._outermost[0]

    def _entry(self) -> bool:
        """Read one entry of the innermost bracket, or its end; False where there is neither."""
        innermost = self._stack[-1]
        self._skip_space()
        if innermost.content and not self._at(innermost.closer):
            if not self._take(","):
                return False
            self._skip_space()
        if self._take(innermost.closer):
            self._close(closed=True)
            return True
        if innermost.closer != "]" and not self._key(innermost):
            return False
        if self._at("{") or self._at("["):
            return len(self._stack) < _DEEPEST and self._open()
        return self._scalar()

    def _open(self) -> bool:
        start, bracket = self.position, self.text[self.position]
        # No object begins with an object: two braces are one, written twice as in a template.
        closer = "}}" if self._at("{{") else {"{": "}", "[": "]", "(": ")"}[bracket]
        self.position += len(closer)
        self._stack.append(_Open(start, closer))
        return True

    def _close(self, *, closed: bool) -> None:
        innermost = self._stack.pop()
        self._add(innermost.content, innermost.start, self.position, closed=closed)

    def _key(self, innermost: _Open) -> bool:
        if innermost.closer == ")":
            keyword = _KEYWORD.match(self.text, self.position, self.limit)
            if keyword is None:
                self._run()
                return False
            innermost.key, self.position = keyword[1], keyword.end()
        else:
            string = self._quoted()
            if string is None or not string.closed:
                return False
            innermost.key = str(string.content)
            self._skip_space()
            if not self._take(":"):
                return False
        self._skip_space()
        return True

    def _scalar(self) -> bool:
        """Read a string, number or word; False where there is none, or the text ends with it."""
        start = self.position
        if string := self._quoted():
            self._add(*string)
            return string.closed
        said = self._run()
        closed = self.position < self.limit
        if said in _WORDS:
            self._add(_WORDS[said], start, self.position, closed=closed)
        elif _NUMBER.fullmatch(said):
            self._add(_number(said), start, self.position, closed=closed)
        elif said and not closed:  # the beginning of a word
            self._add(said, start, self.position, closed=False)
        else:
            self.position = start
            return False
        return closed

    def _quoted(self) -> Value | None:
        """The string that begins here, in positions of this text; None where none does."""
        opening = _QUOTE.match(self.text, self.position, self.limit)
        if opening is None:
            return None
        quote, start = opening[0], opening.end()
        body = _BODIES[quote].match(self.text, start, self.limit)
        end = body.end() if body else start
        closed = self.text.startswith(quote, end, self.limit)
        end = end if closed else self.limit
        said = self.text[start:end]
        if quote in _ESCAPES and "\\" in said:
            said = _ESCAPES[quote].sub(_unescaped, said)
        self.position = end + len(quote) if closed else end
        if closed and start == end:
            start, end = opening.start(), self.position
        return Value(said, start, end, closed)

    def _add(self, content: Content, start: int, end: int, closed: bool) -> None:
        value = Value(content, self._positions[start], self._positions[end], closed)
        if not self._stack:
            self._outermost.append(value)
            return
        innermost = self._stack[-1]
        if isinstance(innermost.content, list):
            innermost.content.append(value)
        else:
            innermost.content.pop(innermost.key, None)  # the last of equal keys counts, at its own place
            innermost.content[innermost.key] = value

    def _run(self) -> str:
        """A number, word or what else stands here without quotes."""
        run = _RUN.match(self.text, self.position, self.limit)
        self.position = run.end() if run else self.position
        return run[0] if run else ""

    def _at(self, sign: str) -> bool:
        return self.text.startswith(sign, self.position, self.limit)

    def _take(self, sign: str) -> bool:
        found = self._at(sign)
        self.position += len(sign) if found else 0
        return found

    def _skip_space(self) -> None:
        if space := _SPACE.match(self.text, self.position, self.limit):
            self.position = space.end()


def _number(said: str) -> float:
    try:
        return int(said)
    except ValueError:  # a fraction, or more digits than Python reads as a whole number
        return float(said)


def _unescaped(escape: re.Match[str]) -> str:
    return _ESCAPED.get(escape[0]) or str(json.loads(f'"{escape[0]}"'))


def _positions(raw: str, start: int, escapes: re.Pattern[str]) -> list[int]:
    """Where each character of an unescaped string stands, and its end; each escape is one character."""
    positions: list[int] = []
    last = 0
    for escape in escapes.finditer(raw):
        positions += range(start + last, start + escape.start() + 1)
        last = escape.end()
    positions += range(start + last, start + len(raw) + 1)
    return positions
