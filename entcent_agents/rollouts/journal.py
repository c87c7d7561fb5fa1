"""What a rollout store keeps of one rollout beside the agent's own checkpoints, and how it is written down."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, cast
from uuid import UUID

import msgspec
from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.checkpoint.base.id import uuid6

from entcent_agents.errors import RecordingError

JOURNAL_VERSION: Final = 1
NAMESPACE: Final = "entcent:journal"
"""Our checkpoint namespace on a rollout's thread. No graph's can be the same: what follows its colon is a task's id."""

CLAIM: Final = "claim"
JOURNAL: Final = "journal"
START: Final = "start"
"""The channel of what a rollout was begun with."""

_ROLE: Final = "entcent"
_VERSION: Final = "entcent_version"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that happened in a rollout.

    Attributes:
        kind: What it is.
        value: Plain data: dictionaries, lists, strings, bytes, numbers, None.
    """

    kind: str
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """What is on record of one rollout.

    Attributes:
        start: What it was begun with.
        entries: What happened since, in the order in which it was appended.
    """

    start: Mapping[str, Any]
    entries: Sequence[Entry]


def of_role(role: str) -> dict[str, Any]:
    """The metadata by which checkpoints of ours are found among all of a saver."""
    return {_ROLE: role}


def metadata_of(role: str) -> CheckpointMetadata:
    """The metadata of a checkpoint of ours."""
    return cast(
        "CheckpointMetadata", {"source": "update", "step": -1, "parents": {}, _ROLE: role, _VERSION: JOURNAL_VERSION}
    )


def checkpoint_of(values: Mapping[str, bytes], versions: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint that no graph reads; ids rise, so the latest made is the latest found."""
    return Checkpoint(
        v=4,
        id=str(uuid6(clock_seq=-2)),
        ts=datetime.now(UTC).isoformat(),
        channel_values=dict(values),
        channel_versions=dict(versions),
        versions_seen={},
        updated_channels=None,
    )


def is_journal(found: CheckpointTuple) -> bool:
    """Whether it is a journal that was begun, and not merely the claim to a thread.

    Raises:
        RecordingError: On a journal of another version.
    """
    metadata = cast("Mapping[str, Any]", found.metadata)
    if metadata.get(_VERSION) != JOURNAL_VERSION:
        raise RecordingError(
            f"the journal of a rollout of version {metadata.get(_VERSION)!r}; this release reads {JOURNAL_VERSION}: "
            "resume the request with the release that recorded it"
        )
    return metadata.get(_ROLE) == JOURNAL


def encoded(value: Any) -> bytes:
    """Plain data as bytes of our own making: whatever a saver makes of other types never happens to them.

    Raises:
        TypeError: On what is no plain data.
    """
    return msgspec.msgpack.encode(value)


def encoded_entry(value: Any) -> bytes:
    """An entry's value, with the time."""
    return encoded([time.time(), value])


def journal_of(found: CheckpointTuple) -> Journal:
    """What was written; in the order of the numbers, whatever order the saver keeps writes in."""
    writes = sorted(found.pending_writes or (), key=lambda write: UUID(write[0]).int)
    return Journal(
        start=msgspec.msgpack.decode(found.checkpoint["channel_values"][START]),
        entries=[Entry(kind=kind, value=msgspec.msgpack.decode(value)[1]) for _, kind, value in writes],
    )


def last_number(found: CheckpointTuple) -> int:
    """The number of the latest entry; 0 where there is none."""
    return max((UUID(task).int >> 64 for task, _, _ in found.pending_writes or ()), default=0)


def entry_id(number: int, writer: int) -> str:
    """A task id for an entry: savers want a UUID, keep one write for each, and order them by it.

    The writer's 64 random bits keep two processes that write at once from replacing each other's entries.
    """
    return str(UUID(int=number << 64 | writer))


def last_sign(found: CheckpointTuple) -> float:
    """When a checkpoint, or an entry on a journal that can be read, was written, in seconds since 1970."""
    times = [datetime.fromisoformat(found.checkpoint["ts"]).timestamp()]
    metadata = cast("Mapping[str, Any]", found.metadata)
    if metadata.get(_ROLE) == JOURNAL and metadata.get(_VERSION) == JOURNAL_VERSION:
        times += (msgspec.msgpack.decode(value)[0] for _, _, value in found.pending_writes or ())
    return max(times)
