"""Claims of the conformance suite: a failure says what was expected, without pytest's help too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

E = TypeVar("E", bound=Exception)


def expect_raised(kind: type[E], action: Callable[..., object], *arguments: object) -> E:
    """The error that calling `action` leads to."""
    try:
        action(*arguments)
    except kind as error:
        return error
    raise AssertionError(f"{getattr(action, '__name__', action)} should have raised {kind.__name__}")


def expect_equal(what: str, seen: object, expected: object) -> None:
    """Fail unless what was seen is what was expected."""
    expect_true(seen == expected, f"{what}: {seen!r}, expected {expected!r}")


def expect_true(condition: bool, otherwise: str) -> None:
    """Fail unless the condition holds."""
    if not condition:
        raise AssertionError(otherwise)
