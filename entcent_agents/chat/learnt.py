"""What was learnt of servers, kept for the life of the process: how many choices they take, how they go on."""

from __future__ import annotations

from typing import Any

_memories: list[dict[str, Any]] = []


def memory() -> dict[str, Any]:
    """A new place to keep something of each server, by what tells it from others."""
    _memories.append({})
    return _memories[-1]


def forget_servers() -> None:
    """Measure again what is needed: for when another server, or model, answers at a known address."""
    for each in _memories:
        each.clear()
