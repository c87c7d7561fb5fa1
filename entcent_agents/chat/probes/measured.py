"""What a probe found: a value, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Semantics(StrEnum):
    """What a server's log-probabilities are of."""

    RAW = "raw"
    """The model's own distribution, whatever the sampling settings."""
    TEMPERED = "tempered"
    """The distribution after the temperature."""
    UNKNOWN = "unknown"
    """Neither of these; the ratio that was measured is in the details."""


class Constraint(StrEnum):
    """What a server makes of `response_format` with a JSON schema."""

    ENFORCED = "enforced"
    IGNORED = "ignored"
    REFUSED = "refused"


class Seeding(StrEnum):
    """What a server makes of `seed`."""

    REPEATABLE = "repeatable"
    """The same seed gives the same text, another one another."""
    UNREPEATABLE = "unrepeatable"
    """The same seed gives different texts: it is ignored, or the server computes differently each time."""
    FIXED = "fixed"
    """Every seed gives the same text: a rollout is a copy of the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One capability, as measured.

    Attributes:
        value: A number, a yes or no, or one of a StrEnum; None where it was not measured.
        shown: The value for people.
        means: What follows from it for the user; why there is none where it was not measured.
        details: The figures it stands on, JSON-able.
    """

    value: str | int | float | bool | None
    shown: str
    means: str
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])


def not_measured(why: object) -> Measured:
    """The record of a probe that found nothing."""
    return Measured(value=None, shown="not measured", means=str(why))
