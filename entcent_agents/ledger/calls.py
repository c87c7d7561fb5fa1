"""An external call and where it stands: its position, its digest, its idempotency key."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Final, Self
from uuid import UUID, uuid5

from entcent_agents.errors import ConfigurationError
from entcent_agents.outcomes import canonical_calls

_NAMESPACE: Final = UUID("d1fe70a9-e551-4af8-bec6-fd13f1dec032")
"""Of idempotency keys; another one would make every key another."""

_KEY: ContextVar[str | None] = ContextVar("entcent_agents_idempotency_key", default=None)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Position:
    """Where in a rollout a call stands. Unlike a `tool_call_id`, it is the same in every attempt.

    Attributes:
        rollout: The rollout's thread id; no other rollout of any request may have the same.
        turn: Number of the turn, from 0.
        ordinal: Number of the call within its turn, from 0.

    Raises:
        ConfigurationError: On a number below 0, or a name that no database can hold.
    """

    rollout: str
    turn: int
    ordinal: int

    def __post_init__(self) -> None:
        storable(self.rollout, "a rollout")
        if self.turn < 0 or self.ordinal < 0:
            raise ConfigurationError(f"turn {self.turn}, call {self.ordinal}: both are counted from 0")

    def __str__(self) -> str:
        return f"rollout {self.rollout!r}, turn {self.turn}, call {self.ordinal}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able form."""
        return {"rollout": self.rollout, "turn": self.turn, "ordinal": self.ordinal}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(rollout=record["rollout"], turn=record["turn"], ordinal=record["ordinal"])


@dataclass(frozen=True, kw_only=True)
class ExternalCall:
    """One call that touches what cannot be forked.

    Attributes:
        position: Where it stands.
        request: What its records are kept and forgotten by: one name for all rollouts of a request.
        tool: Name of the tool.
        arguments: A mapping, or JSON text as a model wrote it.
        idempotent: Whether the tool, called again with the same idempotency key, does nothing a second time.
    """

    position: Position
    request: str
    tool: str
    arguments: Any
    idempotent: bool = False

    def __post_init__(self) -> None:
        storable(self.request, "a request")

    @cached_property
    def canonical(self) -> str:
        """Tool name and arguments, in the form in which equal calls are equal."""
        return canonical_calls([(self.tool, self.arguments)])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of tool name and canonical arguments, in hexadecimal."""
        return digest_of(self.canonical)

    @cached_property
    def idempotency_key(self) -> str:
        """A UUID that follows from position and digest alone: it is the same even if the ledger was lost."""
        where = self.position
        return str(uuid5(_NAMESPACE, f"{where.rollout}\0{where.turn}\0{where.ordinal}\0{self.digest}"))


def digest_of(canonical: str) -> str:
    """SHA-256 of calls in canonical form, in hexadecimal."""
    return sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def current_idempotency_key() -> str:
    """The key that a tool passes on to the service it calls, so that a repeated call does nothing a second time.

    Raises:
        ConfigurationError: Called outside an external call.
    """
    key = _KEY.get()
    if key is None:
        raise ConfigurationError(
            "current_idempotency_key() works inside an external call only: "
            "run the tool through the ledger, or set a key with use_idempotency_key() in a test"
        )
    return key


@contextmanager
def use_idempotency_key(key: str) -> Generator[None, None, None]:
    """Make this the key that `current_idempotency_key` finds in this context."""
    token = _KEY.set(key)
    try:
        yield
    finally:
        _KEY.reset(token)


def storable(name: str, what: str) -> None:
    """Refuse a name that a database would not give back as it is.

    Raises:
        ConfigurationError: It is empty, or holds a NUL or half of a surrogate pair.
    """
    if not name or "\0" in name or any("\ud800" <= letter <= "\udfff" for letter in name):
        raise ConfigurationError(f"{what} cannot be named {name!r}: give it some text without NUL and lone surrogates")
