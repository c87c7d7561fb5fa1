"""What a rollout adds to the agent's state, packed for the state of the parent graph.

The text of a losing rollout may reach no stream, and state updates are streamed; so a rollout's output travels as one
opaque string, which only a commit opens. Only plain data and LangChain messages are unpacked.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, RemoveMessage, ToolMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.types import Overwrite

from entcent_agents.capture.messages import strip_logprobs

_SERIALIZER: Final = JsonPlusSerializer()
Messages = Sequence[BaseMessage]


def pack(output: Mapping[str, Any]) -> str:
    """An opaque string of it."""
    kind, data = _SERIALIZER.dumps_typed(dict(output))
    return f"{kind}:{base64.b64encode(zlib.compress(data)).decode()}"


def unpack(packed: str) -> dict[str, Any]:
    """What was packed."""
    kind, _, data = packed.partition(":")
    return _SERIALIZER.loads_typed((kind, zlib.decompress(base64.b64decode(data))))


def state_difference(before: Mapping[str, Any], after: Mapping[str, Any], reduced: Collection[str]) -> dict[str, Any]:
    """What has to be written to go from one state to the other: new messages alone where history stands.

    Args:
        before: State at the fork point.
        after: State at the end.
        reduced: Channels with a reducer, which is not to be applied a second time.
    """
    difference: dict[str, Any] = {
        key: Overwrite(value) if key in reduced else value
        for key, value in after.items()
        if key != "messages" and (key not in before or before[key] != value)
    }
    if "messages" in after:
        difference["messages"] = _new_messages(before.get("messages", ()), after["messages"])
    return difference


def is_answered(messages: Messages) -> bool:
    """Whether the conversation ends in an answer: an AI message last, and no tool call without its result."""
    answered = {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
    calls = [call["id"] for message in messages if isinstance(message, AIMessage) for call in message.tool_calls]
    return bool(messages) and isinstance(messages[-1], AIMessage) and answered.issuperset(calls)


def _new_messages(before: Messages, after: Messages) -> list[AnyMessage | RemoveMessage]:
    for message in after:
        strip_logprobs(message)
    kept = len(before)
    if [message.id for message in after[:kept]] == [message.id for message in before]:
        return list(after[kept:])  # type: ignore[arg-type]
    return [RemoveMessage(id=REMOVE_ALL_MESSAGES), *after]  # type: ignore[list-item]
