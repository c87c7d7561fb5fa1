"""Tool calls as the guard sees them, and what came of them, in forms that outlive a process."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Final, Self, cast

from langchain_core.messages import ToolMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from entcent_agents.ledger.calls import ExternalCall, Position, digest_of
from entcent_agents.outcomes import canonical_calls

_SERIALIZER: Final = JsonPlusSerializer()
Key = tuple[str, str, str]
"""Namespace, id and digest of a call: the same when its task runs again, in whatever process."""
Run = Callable[[], Awaitable[Any]]
"""Makes a call."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One tool call of a rollout.

    Attributes:
        namespace: The task that makes it, as LangGraph names it; copies of a thread keep it.
        id: Its `tool_call_id`; a number of ours where a node calls a tool without one.
        tool: Name of the tool.
        arguments: As the model gave them.
    """

    namespace: str
    id: str
    tool: str
    arguments: Mapping[str, Any]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of tool name and canonical arguments."""
        return digest_of(canonical_calls([(self.tool, self.arguments)]))

    @cached_property
    def key(self) -> Key:
        """What tells it from the other calls of the rollout."""
        return (self.namespace, self.id, self.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldCall:
    """An external call that a rollout was stopped before.

    Attributes:
        call: The call.
        idempotent: Whether it may be repeated with its idempotency key.
        position: Where the ledger keeps it; None until the rollout has ended.
        question: What a person has to be asked about it; None where it simply was not made yet.
    """

    call: Call
    idempotent: bool
    position: Position | None = None
    question: Mapping[str, Any] | None = None

    def at(self, rollout: str, turn: int, ordinal: int) -> HeldCall:
        """The same, with its position; one that has a position keeps it."""
        return self if self.position else replace(self, position=Position(rollout=rollout, turn=turn, ordinal=ordinal))

    def external(self, request: str, arguments: Mapping[str, Any] | None = None) -> ExternalCall:
        """The call for the ledger.

        Args:
            request: What its records are kept and forgotten by.
            arguments: Those of the call that is made now, where they may differ.
        """
        assert self.position is not None
        return ExternalCall(
            position=self.position,
            request=request,
            tool=self.call.tool,
            arguments=self.call.arguments if arguments is None else arguments,
            idempotent=self.idempotent,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able form."""
        return {
            "call": asdict(self.call),
            "idempotent": self.idempotent,
            "position": self.position and self.position.to_dict(),
            "question": self.question,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(
            call=Call(**record["call"]),
            idempotent=record["idempotent"],
            position=record["position"] and Position.from_dict(record["position"]),
            question=record["question"],
        )


def stored(result: Any, max_characters: int | None = None) -> dict[str, Any]:
    """A tool's result as plain JSON: `text` for people, `packed` to give it again.

    A result that cannot be packed, or is longer than may be kept, is its text from now on, for whoever made the call
    too.
    """
    text = str(result.text) if isinstance(result, ToolMessage) else str(result)
    try:
        kind, data = _SERIALIZER.dumps_typed(result)
    except Exception:  # whatever a foreign object raises: the effect is done, and must not be lost over it
        return {"text": text}
    value = {"text": text, "packed": [kind, base64.b64encode(data).decode()]}
    if max_characters is None or len(json.dumps(value)) <= max_characters:
        return value
    # In JSON a character takes up to six.
    return {"text": f"{text[: max_characters // 8]}… [cut: {max_characters // 8} of {len(text)} characters]"}


def restored(value: object, call: Call) -> Any:
    """A result that was stored, or one that a person gave, as the result of this call."""
    if isinstance(value, Mapping) and "packed" in value:
        kind, data = cast("tuple[str, str]", value["packed"])
        return addressed(_SERIALIZER.loads_typed((kind, base64.b64decode(data))), call)
    if isinstance(value, Mapping) and [*value] == ["text"]:
        value = cast("Mapping[str, object]", value)["text"]
    content = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return ToolMessage(content=content, name=call.tool, tool_call_id=call.id)


def refused(reason: str, call: Call) -> ToolMessage:
    """What the agent reads in the place of a result."""
    return ToolMessage(content=reason, name=call.tool, tool_call_id=call.id, status="error")


def addressed(result: Any, call: Call) -> Any:
    """A result as the answer to this call, where it answered an equal one."""
    if isinstance(result, ToolMessage) and result.tool_call_id != call.id:
        return result.model_copy(update={"tool_call_id": call.id, "id": None})
    return result
