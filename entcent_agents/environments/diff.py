"""Readable differences, cut at a stated number of lines."""

from __future__ import annotations

import difflib
import hashlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

LINES = 60  # of one change's text
TEXT_BYTES = 1_000_000  # files above it are named, not compared line by line
_VALUE_CHARACTERS = 120


def truncated(lines: list[str], total: int | None = None) -> str:
    """At most `LINES` lines as one text; `total` is how many there were, where `lines` was cut before."""
    more = (len(lines) if total is None else total) - LINES
    return "\n".join([*lines[:LINES], f"… {more} more"] if more > 0 else lines)


def printable(text: str) -> str:
    """A name in one line of valid Unicode, whatever its maker had in mind."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


class Content(NamedTuple):
    """What is in a file; of large ones without the bytes, which may be more than memory holds."""

    size: int
    digest: bytes
    data: bytes | None


def content_of(path: Path) -> Content:
    """Read a file."""
    with path.open("rb") as file:
        data = file.read(TEXT_BYTES + 1)
        file.seek(0)
        digest = hashlib.file_digest(file, "blake2b").digest()
        return Content(size=file.tell(), digest=digest, data=None if len(data) > TEXT_BYTES else data)


def file_difference(path: str, before: Content | None, after: Content | None) -> str:
    """Unified diff of one file's contents; None where the file is not there."""
    sizes = f"{_size(before)} → {_size(after)}"
    sides = [b"" if content is None else content.data for content in (before, after)]
    try:
        old, new = (None if data is None else data.decode("utf-8").splitlines() for data in sides)
    except UnicodeDecodeError:
        return f"(binary file: {sizes})"
    if old is None or new is None:
        return f"(large file: {sizes})"
    names = ("/dev/null" if before is None else f"a/{path}", "/dev/null" if after is None else f"b/{path}")
    return truncated(list(difflib.unified_diff(old, new, *names, lineterm="")))


def value_difference(before: str | None, after: str | None) -> str:
    """Unified difference of two values, written out as texts; None where there is none."""
    old, new = ((text or "").encode("utf-8", "backslashreplace").decode().splitlines() for text in (before, after))
    return truncated(list(difflib.unified_diff(old, new, lineterm=""))[2:])  # without the names of files


def row_line(sign: str, values: Iterable[object]) -> str:
    """One table row as a line of a difference."""
    return sign + " | ".join(_value(value) for value in values)


def _value(value: object) -> str:
    if value is None:
        return "NULL"
    text = f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value).replace("\n", "\\n")
    return text if len(text) <= _VALUE_CHARACTERS else text[:_VALUE_CHARACTERS] + "…"


def _size(content: Content | None) -> str:
    return "none" if content is None else f"{content.size:,} bytes"
