"""What an attempt came to, in canonical form: equal keys are equal outcomes."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, cast

_FULL_STOPS: Final = ".\u3002"
_DIGEST_BYTES: Final = 16
_WIDTHS: Final = {
    code: chr(int(_form[-1], 16))
    for code in (0x3000, *range(0xFF00, 0xFFF0))
    if (_form := unicodedata.decomposition(chr(code)).split())[:1] in (["<wide>"], ["<narrow>"])
}
"""Forms of a character that differ in width alone."""


def outcome_key(calls: Sequence[tuple[str, Any]], answer: str, pattern: re.Pattern[str] | None = None) -> str | None:
    """A digest of what was called, else of what was answered; None where neither is there.

    Args:
        calls: Tool calls as (name, arguments), arguments as a mapping or as JSON text.
        answer: What was said; it counts only where nothing was called.
        pattern: Where in `answer` the outcome is: the first group of its last match, or that whole match where it has
            no group. Without a match there is no outcome.
    """
    if calls:
        return _digest("calls", canonical_calls(calls))
    found = answer if pattern is None else _last_match(pattern, answer)
    canonical = canonical_answer(found)
    return _digest("answer", canonical) if canonical else None


def canonical_calls(calls: Sequence[tuple[str, Any]]) -> str:
    """Tool calls as one string, in their order: each name, then its arguments with their keys sorted.

    The numbers 1 and 1.0 are equal; no arguments, empty ones and `{}` are equal. Arguments that are no JSON are kept
    letter by letter.
    """
    return json.dumps([_call(name, arguments) for name, arguments in calls], ensure_ascii=False, separators=(",", ":"))


def canonical_answer(text: str) -> str:
    """Text without what does not change an answer: width, case, spacing, full stops at its end.

    Superscripts, subscripts, circled and other compatible characters stay: 10² is not 102.
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", text.translate(_WIDTHS)).casefold())
    return " ".join(folded.split()).rstrip(_FULL_STOPS + " ")


def _last_match(pattern: re.Pattern[str], text: str) -> str:
    last: re.Match[str] | None = None
    for last in pattern.finditer(text):  # noqa: B007  the last one is what is wanted
        pass
    if last is None:
        return ""
    return next((group for group in last.groups() if group is not None), last[0])


def _call(name: str, arguments: Any) -> list[Any]:
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, str):
        return [name, _canonical(arguments)]
    if not arguments.strip():
        return [name, {}]
    try:
        return [name, _canonical(json.loads(arguments))]
    except (ValueError, RecursionError):
        return [name, arguments, "verbatim"]  # one element more: never equal to arguments that are JSON


def _canonical(value: Any) -> Any:
    """The same value with sorted keys, and whole numbers without a fraction."""
    if isinstance(value, Mapping):
        items = {str(key): _canonical(each) for key, each in cast("Mapping[Any, Any]", value).items()}
        return dict(sorted(items.items()))
    if isinstance(value, list | tuple):
        return [_canonical(each) for each in cast("Sequence[Any]", value)]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, str | int | float | None) else str(value)


def _digest(kind: str, text: str) -> str:
    return blake2b(f"{kind}\0{text}".encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()
