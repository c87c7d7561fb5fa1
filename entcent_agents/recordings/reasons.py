"""Why a line could not be read, in one line of plain words, and what was expected."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from entcent_agents.errors import EntcentError

UNREADABLE: Final = (EntcentError, msgspec.MsgspecError, ValueError, OverflowError, RecursionError)
"""What reading a line may raise; msgspec raises RecursionError on deep nesting."""

_BYTE: Final = re.compile(r"\(byte (\d+)\)")
_NOT_FINITE: Final = re.compile(rb"-?(nan|inf)", re.IGNORECASE)
_HALF_PAIR: Final = re.compile(rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|[c-fC-F])")


def reason_of(error: Exception, data: bytes) -> str:
    """The reason in plain words.

    Args:
        error: What reading raised.
        data: What was read.
    """
    if isinstance(error, RecursionError):
        return "nested too deeply; expected a recorded generation"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start}); expected JSON in UTF-8"
    message = " ".join(str(error).split())
    if isinstance(error, msgspec.DecodeError) and not isinstance(error, msgspec.ValidationError):
        return _of_syntax(message, data)
    return message


def error_position(error: Exception, data: bytes) -> int:
    """Which byte broke the syntax; the last one where the input ended too early."""
    found = _BYTE.search(str(error))
    return int(found[1]) if found else max(0, len(data) - 1)


def is_cut_off(error: Exception) -> bool:
    """Whether the input ended in the middle of a value."""
    return isinstance(error, msgspec.DecodeError) and "truncated" in str(error)


def _of_syntax(message: str, data: bytes) -> str:
    if ("truncated" in message or "escape" in message) and _HALF_PAIR.search(data):
        return "half a surrogate pair, or JSON that is cut off; expected one whole JSON object"
    if "truncated" in message:
        return "JSON that is cut off; expected one whole JSON object"
    found = _BYTE.search(message)
    if found and _NOT_FINITE.match(data, int(found[1])):
        return f"NaN or Infinity (byte {found[1]}), which JSON does not have; expected a number or null"
    if found and "trailing" in message:
        return f"more after the end of the JSON (byte {found[1]}); expected one JSON object a line"
    return f"{message}; expected a JSON object"
