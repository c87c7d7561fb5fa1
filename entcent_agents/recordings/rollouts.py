"""This library's own records: a rollout with its task, one a line."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from entcent_agents.capture.entropy_results import check_entropies
from entcent_agents.entropy import ROUNDING
from entcent_agents.errors import LogprobsMalformedError, RecordingError
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.trajectory import READ_VERSIONS, Rollout, Status

FORMAT: Final = "entcent.rollout"
VERSION: Final = 1

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Base64 = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9+/]*={0,2}$")]


class _Arrays(msgspec.Struct):
    top_k: _Count
    text: _Base64 = ""
    offsets: _Base64 = ""
    logprob: _Base64 = ""
    entropy: _Base64 = ""
    residual: _Base64 = ""
    confidence: _Base64 = ""
    kind: _Base64 = ""


class _Turn(msgspec.Struct):
    message_id: str
    generated_tokens: _Count
    logprobs: _Arrays | None


class _Usage(msgspec.Struct):
    prompt_tokens: _Count
    generated_tokens: _Count
    model_calls: _Count
    cached_tokens: _Count = 0
    cut_calls: _Count = 0
    cost: float | None = None
    charged_tokens: _Count = 0
    charged_cost: float = 0.0


class _Rollout(msgspec.Struct):
    """The types of a record, checked before it is read; fields that are not here are the reader's."""

    status: Status
    turns: list[_Turn]
    usage: _Usage
    seconds: float
    error: str | None
    vote_key: str | None
    forks: dict[str, str]
    output: str | None


class _Line(msgspec.Struct):
    format: str
    version: int
    task: str | int
    rollout: dict[str, Any]


_LINE: Final = msgspec.json.Decoder(_Line)


def recorded_line(task: str, rollout: Rollout, reward: float | None = None, text: bool = False) -> str:
    """A rollout as one line of JSON, without the line's end, for `read_recordings`.

    Args:
        task: What it is a candidate for.
        rollout: What to record.
        reward: How good it was, where that is known.
        text: Whether to keep what was generated. Without it the line has neither the text of the tokens nor the packed
            output, which holds the messages, nor where forks are, and of an error the name of its class alone.
    """
    return msgspec.json.encode(rollout_record(task, rollout, reward, text=text)).decode()


def rollout_record(task: str, rollout: Rollout, reward: float | None = None, *, text: bool = False) -> dict[str, Any]:
    """The same, before it is encoded."""
    record = rollout.to_dict()
    record["turns"] = [turn.to_dict(text=text) for turn in rollout.trajectory.turns]
    if not text:
        record |= {"output": None, "forks": {}, "error": _class_name(rollout.error)}
    return {"format": FORMAT, "version": VERSION, "task": task, "reward": reward, "rollout": record}


def read_rollout(data: bytes, where: str, answer: re.Pattern[str] | None) -> list[Rollout]:
    """One candidate; its vote key is the recorded one.

    Raises:
        RecordingError: On another format or version, or a record that lacks something.
        LogprobsMalformedError: On arrays that cannot be.
    """
    line = _LINE.decode(data)
    if (line.format, line.version) != (FORMAT, VERSION):
        raise RecordingError(
            f"a record {line.format!r} of version {line.version}; this release reads {FORMAT!r} of version {VERSION}"
        )
    if line.rollout.get("version") in READ_VERSIONS:  # of any other, `from_dict` names the version
        msgspec.convert(line.rollout, _Rollout)
    try:
        rollout = Rollout.from_dict(line.rollout)
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordingError(f"a rollout that cannot be read: {error!r}; expected what recorded_line writes") from None
    for turn in rollout.trajectory.turns:
        if turn.logprobs is not None:
            _check(turn.logprobs)
    return [replace(rollout, thread_id=where)]


def _class_name(error: str | None) -> str | None:
    """Of `Name: message` the name; None where the error is a sentence."""
    name = (error or "").partition(":")[0]
    return name if name.isidentifier() else None


def _check(logprobs: TokenLogprobs) -> None:
    check_entropies(logprobs.entropy)
    if np.any(logprobs.logprob > ROUNDING):
        raise LogprobsMalformedError("a positive logprob; a natural-log probability is at most 0")
