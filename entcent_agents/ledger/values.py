"""What a tool gave, as the ledger keeps it: JSON, or the nearest there is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

Form = Literal["json", "text", "cut"]

MAX_ERROR_CHARACTERS: Final = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredValue:
    """A result that can be given again.

    Attributes:
        text: JSON, or plain text.
        form: `json`; `text` where the value was no JSON and `text` is what `str` makes of it; `cut` where it was
            longer than is kept, and `text` is how it begins.
    """

    text: str
    form: Form = "json"

    @classmethod
    def of(cls, value: Any, max_characters: int) -> Self:
        """Keep a value, as JSON where it is some.

        What the first run gets is what is kept, so that a replay cannot differ from it: tuples are lists at once.
        """
        form: Form = "json"
        try:
            text = json.dumps(value)
        except (TypeError, ValueError, RecursionError):
            text, form = _text(value), "text"
        if len(text) <= max_characters:
            return cls(text=text, form=form)
        return cls(text=f"{text[:max_characters]}… [cut: {max_characters} of {len(text)} characters]", form="cut")

    @property
    def value(self) -> Any:
        """What a caller gets."""
        return json.loads(self.text) if self.form == "json" else self.text

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able form."""
        return {"text": self.text, "form": self.form}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(text=record["text"], form=record["form"])


def error_line(error: BaseException) -> str:
    """An exception as one line: its name and what it says."""
    return " ".join(f"{type(error).__name__}: {_text(error)}".split())[:MAX_ERROR_CHARACTERS]


def _text(value: Any) -> str:
    """`str` of a foreign object; the effect is done, so nothing that the object does may lose that fact."""
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"
