"""Which shape a JSON object has, by its fields, and what it says of itself."""

from __future__ import annotations

import math
import re
from typing import Any, Final, Literal, cast

import msgspec

from entcent_agents.errors import RecordingError
from entcent_agents.recordings.records import Reward

Shape = Literal["rollout", "batch", "entropy_results", "response", "llama"]

KNOWN: Final = (
    "a chat.completion or text_completion response, a line of batch output, a llama.cpp completion, "
    "a line of entropy_results, an entcent.rollout record"
)
_ABSENT: Final = msgspec.Raw()
_TRAJECTORY: Final = re.compile(r"(?<=.)_traj_[0-9]+\Z", re.DOTALL)

_Name = str | int | None
_Number = float | bool | None


class Head(msgspec.Struct):
    """The fields that identify; the others are skipped, and raw ones are looked at for being there alone."""

    task: _Name = None
    custom_id: _Name = None
    original_id: _Name = None
    id: _Name = None
    reward: float | bool | list[_Number] | None = None
    format: msgspec.Raw = _ABSENT
    response: msgspec.Raw = _ABSENT
    error: msgspec.Raw = _ABSENT
    choices: msgspec.Raw = _ABSENT
    entropy_sequence: msgspec.Raw = _ABSENT
    completion_probabilities: msgspec.Raw = _ABSENT
    tokens_predicted: msgspec.Raw = _ABSENT

    @property
    def own_id(self) -> str | None:
        """What names the task where the line does not say `task`."""
        return next((str(name) for name in (self.custom_id, self.original_id, self.id) if _there(name)), None)

    @property
    def own_task(self) -> str | None:
        """The task in it; an id of `entropy_results` numbers the trajectory at its end."""
        named = _there(self.custom_id) or _there(self.original_id)
        if named or self.own_id is None or not bytes(self.entropy_sequence):
            return self.own_id
        return _TRAJECTORY.sub("", self.own_id)


_HEAD: Final = msgspec.json.Decoder(Head)


def head_of(data: bytes | msgspec.Raw) -> Head:
    """The identifying fields of one JSON object; every other field is checked for syntax alone."""
    return _HEAD.decode(data)


def shape_of(head: Head) -> Shape:
    """The shape of an object with this head.

    Raises:
        RecordingError: Where it is none of the known ones.
    """
    if bytes(head.format).startswith(b'"entcent.'):
        return "rollout"
    if _there(head.custom_id) and (bytes(head.response) or bytes(head.error)):
        return "batch"
    if bytes(head.entropy_sequence):
        return "entropy_results"
    if bytes(head.choices):
        return "response"
    if bytes(head.completion_probabilities) or bytes(head.tokens_predicted):
        return "llama"
    if bytes(head.error) not in (b"", b"null"):
        raise RecordingError(f"an error instead of a response: {said(msgspec.json.decode(head.error))}")
    raise RecordingError(f"none of the known shapes: expected {KNOWN}")


def reward_of(head: Head) -> Reward:
    """The reward of a line, true as 1 and false as 0."""
    if isinstance(head.reward, list):
        return tuple(None if value is None else _finite(value) for value in head.reward)
    return None if head.reward is None else _finite(head.reward)


def said(error: Any) -> str:
    """What an error object says, in one short line."""
    for key in ("error", "message"):
        if isinstance(error, dict):
            fields = cast("dict[str, Any]", error)
            error = fields.get(key, fields)
    return " ".join(str(error).split())[:200]


def _there(name: _Name) -> bool:
    return name not in (None, "")


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise RecordingError(f"a reward of {value}; expected a number, true, false or null")
    return float(value)
