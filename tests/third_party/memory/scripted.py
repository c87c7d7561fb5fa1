"""The model of this agent: rollout i remembers shade i."""

from __future__ import annotations

from tests.third_party.saying import model_of, says


def _turn(index, messages):
    last = messages[-1]
    if last.type == "tool":
        return says(index, f"{last.text} ({index})" if last.name == "search_memory" else f"Shade {index} it is.")
    if "Remember" in last.text:
        return says(index, "", ("manage_memory", {"content": f"likes dark mode, shade {index}"}), first=True)
    return says(index, "", ("search_memory", {"query": "mode"}), first=True)


model = model_of(_turn)
