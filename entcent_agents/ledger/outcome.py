"""What came of an external call, as data: nothing here is raised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from entcent_agents.ledger.record import EffectRecord

QUESTION: Final = "effect in doubt"
CRASHED: Final = "whoever made the call did not live to record what came of it"
CHANGED: Final = "a call with another name or other arguments is on record at the same position"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """It happened.

    Attributes:
        value: What the tool gave, as JSON gives it back; text where it was no JSON.
        replayed: Whether it was read from the ledger, and nothing was called.
    """

    value: Any
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The tool raised, and what it raised says that this is the end of it.

    Attributes:
        error: Name and message of the exception, in one line.
        replayed: Whether it was read from the ledger, and nothing was called.
        exception: The exception itself, where it was raised just now.
    """

    error: str
    replayed: bool
    exception: Exception | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """A person decided that the call shall not be made.

    Attributes:
        reason: What they said, if anything.
    """

    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InDoubt:
    """Nobody knows whether it happened, or the call is another one than before: a person decides.

    Attributes:
        record: What is on record of this call.
        arguments: Those of the call that was asked for just now.
        others: What is on record of other calls at the same position.
    """

    record: EffectRecord
    arguments: Any
    others: tuple[EffectRecord, ...] = ()

    def question(self) -> dict[str, Any]:
        """What a person is asked, plain and JSON-able; `Answer.from_dict` reads what comes back."""
        return {
            "kind": QUESTION,
            "doubt_id": self.record.doubt_id,
            **self.record.position.to_dict(),
            "tool": self.record.tool,
            "arguments": self.arguments,
            "reason": self.record.reason,
            "attempts": self.record.attempt,
            "idempotency_key": self.record.idempotency_key,
            "others": [
                {"tool": other.tool, "arguments": other.arguments, "digest": other.digest, "state": other.state.value}
                for other in self.others
            ],
            "answers": ["happened", "run", "give up"],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """Not settled, and nothing to ask anybody: try again.

    Attributes:
        retry_after_seconds: When trying again can lead to something else; 0 for at once.
        reason: Why, in a line.
    """

    retry_after_seconds: float
    reason: str


Outcome = Done | Failed | GivenUp | InDoubt | Pending
