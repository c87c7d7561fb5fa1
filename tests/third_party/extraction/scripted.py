"""The model of this extractor: rollout i reads age 30 + i, and the best has to correct itself."""

from __future__ import annotations

from tests.third_party.saying import model_of, says


def _turn(index, messages):
    calls = [call for message in messages if message.type == "ai" for call in message.tool_calls]
    if not calls:
        age = "unknown" if index == 2 else 30 + index
        return says(index, "", ("Person", {"name": f"Ann {index}", "age": age}), first=True)
    patch = {"op": "replace", "path": "/age", "value": 30 + index}
    fix = {"json_doc_id": calls[0]["id"], "planned_edits": "a number", "patches": [patch]}
    return says(index, "", ("PatchFunctionErrors", fix))


model = model_of(_turn)
