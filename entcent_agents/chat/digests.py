"""What stands for a value where the value itself is too long, or must not be seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec


def digest(value: Any) -> str:
    """Of anything that JSON can say; equal values have equal digests."""
    return blake2b(msgspec.json.encode(value, order="deterministic"), digest_size=16).hexdigest()


def prompt_digest(body: Mapping[str, Any], start: str = "") -> str:
    """Of what a model is asked; seeds follow from it.

    Servers name each native call at random. Here calls are numbered as they appear, so that a run that is repeated has
    the same digests, and equal calls of two rollouts too.

    Args:
        body: The request's, without its seed.
        start: How the answer begins.
    """
    numbers: dict[str, int] = {}
    messages = [_numbered(message, numbers) for message in body["messages"]]
    asked = {**body, "messages": messages}
    return digest([asked, start] if start else asked)


def _numbered(message: Mapping[str, Any], numbers: dict[str, int]) -> Mapping[str, Any]:
    """A message whose calls have numbers in place of names."""
    changed: dict[str, Any] = {}
    calls: Sequence[Mapping[str, Any]] = message.get("tool_calls") or ()
    if calls:
        changed["tool_calls"] = [{**call, "id": _number(call.get("id"), numbers)} for call in calls]
    if "tool_call_id" in message:
        changed["tool_call_id"] = _number(message["tool_call_id"], numbers)
    return {**message, **changed} if changed else message


def _number(name: str | None, numbers: dict[str, int]) -> int:
    return numbers.setdefault(name or "", len(numbers))
