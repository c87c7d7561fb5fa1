"""What a ledger keeps of one external call: a frozen, versioned record."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final, Self, cast

from entcent_agents.errors import LedgerVersionError
from entcent_agents.ledger.calls import Position
from entcent_agents.ledger.values import StoredValue

RECORD_VERSION: Final = 1


class State(StrEnum):
    """How far a call got.

    Attributes:
        INTENT: It was about to be made, or is being made: somebody holds a lease on it.
        DONE: It was made, and its result is kept.
        FAILED: It was made and raised, and the error is kept.
        IN_DOUBT: Nobody knows whether it happened; a person decides.
        CLEARED: A person said that it did not happen: it may be made once.
        GIVEN_UP: A person said that it shall not be made.
    """

    INTENT = "intent"
    DONE = "done"
    FAILED = "failed"
    IN_DOUBT = "in doubt"
    CLEARED = "cleared"
    GIVEN_UP = "given up"


SETTLED: Final = frozenset({State.DONE, State.FAILED, State.GIVEN_UP})
"""States in which nothing is left to be done or asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectRecord:
    """One external call, in one version of its arguments.

    Attributes:
        position: Where it stands.
        digest: SHA-256 of tool name and canonical arguments.
        request: The request it belongs to.
        tool: Name of the tool.
        idempotent: Whether every attempt so far was made as one that may be repeated with the same key.
        idempotency_key: The key of all its attempts.
        state: How far it got.
        attempt: Number of the latest attempt, from 1; 0 where there was none. Results count for their attempt only.
        lease_until: Until when the holder of the attempt is taken to be alive, in the store's seconds since 1970.
        result: What it gave, where it is done.
        error: What it raised, in one line, where it failed.
        reason: Why it is in doubt, or given up.
        answered_by: Who answered for it last, where somebody did.
        arguments: The canonical call, where the settings keep it.
        created_at: When it was first recorded, in the store's seconds since 1970.
        changed_at: When it changed last.
    """

    position: Position
    digest: str
    request: str
    tool: str
    idempotent: bool
    idempotency_key: str
    state: State
    attempt: int
    lease_until: float = 0.0
    result: StoredValue | None = None
    error: str | None = None
    reason: str | None = None
    answered_by: str | None = None
    arguments: str | None = None
    created_at: float = 0.0
    changed_at: float = 0.0

    @property
    def settled(self) -> bool:
        """Whether nothing is left to be done or asked."""
        return self.state in SETTLED

    @property
    def doubt_id(self) -> str:
        """What an answer refers to: the call and the attempt. A later doubt about the same call has another id."""
        where = self.position
        parts = (where.rollout, str(where.turn), str(where.ordinal), self.digest, str(self.attempt))
        return sha256("\0".join(parts).encode()).hexdigest()[:32]

    def to_json(self) -> str:
        """One line of ASCII, whatever the call holds."""
        return json.dumps(
            {
                "version": RECORD_VERSION,
                **self.position.to_dict(),
                "digest": self.digest,
                "request": self.request,
                "tool": self.tool,
                "idempotent": self.idempotent,
                "idempotency_key": self.idempotency_key,
                "state": self.state.value,
                "attempt": self.attempt,
                "lease_until": self.lease_until,
                "result": self.result.to_dict() if self.result else None,
                "error": self.error,
                "reason": self.reason,
                "answered_by": self.answered_by,
                "arguments": self.arguments,
                "created_at": self.created_at,
                "changed_at": self.changed_at,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` of this release, or of one whose version it knows, wrote.

        Raises:
            LedgerVersionError: On a record of another version, or on what is no record at all.
        """
        try:
            fields: Any = json.loads(text)
        except ValueError:
            fields = None
        version = cast("Mapping[str, Any]", fields).get("version") if isinstance(fields, dict) else None
        read = _READERS.get(version) if isinstance(version, int) else None
        if read is None:
            known = ", ".join(str(each) for each in sorted(_READERS))
            raise LedgerVersionError(
                f"an effect record of version {version!r}; this release reads {known}: "
                "resume the request with the release that recorded it"
            )
        return cls(**read(cast("Mapping[str, Any]", fields)))


def _read_version_1(record: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in record.items() if key not in {"version", "rollout", "turn", "ordinal"}}
    result = record["result"]
    return {
        **plain,
        "position": Position.from_dict(record),
        "state": State(record["state"]),
        "result": StoredValue.from_dict(result) if result else None,
    }


_READERS: Final[Mapping[int, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {1: _read_version_1}
"""How each version is read; a version that is not here is refused by name."""
