"""What models and tools say, for a terminal."""

from __future__ import annotations

import json
from typing import Any


def readable(value: Any) -> str:
    """A text as it is, anything else as JSON; nothing in it steers the terminal."""
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2, default=str))


def printable(text: str) -> str:
    """The text without what a terminal would obey or hide: a person approves what they see."""
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode() for each in text
    )
