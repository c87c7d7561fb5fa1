"""What a person says about a call in doubt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, cast, get_args

from entcent_agents.errors import LedgerAnswerError

Decision = Literal["happened", "run", "give up"]

_DECISIONS: Final = get_args(Decision)
_FIELDS: Final = {"doubt_id", "decision", "result", "reason", "by"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One decision about one doubt.

    It names the doubt it is about, and counts for no other. Frameworks give a person's answer again when they run a
    node again; given twice, it changes nothing, and given for a later doubt about the same call, it is not taken.

    Attributes:
        doubt_id: As in the question.
        decision: `happened` (with `result`), `run` (it did not happen: make it once) or `give up`.
        result: What the tool would have given, JSON-able.
        reason: Anything to be kept with it; where the call is given up, the agent may be told.
        by: Who says so.
    """

    doubt_id: str
    decision: Decision
    result: Any = None
    reason: str | None = None
    by: str | None = None

    @classmethod
    def from_dict(cls, answer: Any) -> Self:
        """Read an answer from outside, and refuse what is none.

        Raises:
            LedgerAnswerError: It is no mapping, has no or other fields, or `happened` comes without a result.
        """
        if not isinstance(answer, Mapping):
            raise LedgerAnswerError(f"an answer about a call in doubt must be a mapping, not {type(answer).__name__}")
        fields = cast("Mapping[Any, Any]", answer)
        unknown = sorted(str(key) for key in fields if key not in _FIELDS)
        if unknown:
            raise LedgerAnswerError(f"an answer has no {', '.join(unknown)}; it has {', '.join(sorted(_FIELDS))}")
        if fields.get("decision") not in _DECISIONS:
            raise LedgerAnswerError(
                f"an answer's decision is {' or '.join(map(repr, _DECISIONS))}, not {fields.get('decision')!r}"
            )
        for name in ("doubt_id", "reason", "by"):
            if not isinstance(fields.get(name), str) and (name == "doubt_id" or fields.get(name) is not None):
                raise LedgerAnswerError(f"an answer's {name} must be text, not {fields.get(name)!r}")
        if fields["decision"] == "happened" and "result" not in fields:
            raise LedgerAnswerError("the answer 'happened' needs the result that the agent goes on with: result=…")
        return cls(**fields)
