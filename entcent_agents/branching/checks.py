"""Settings that have to be numbers, refused in one line where they are not."""

from __future__ import annotations

import math
from numbers import Integral, Real

from entcent_agents.errors import ConfigurationError


def check_count(name: str, value: object, *, least: int = 0) -> None:
    """Refuse what is no number of things.

    Raises:
        ConfigurationError: On what is no whole number, or below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ConfigurationError(f"{name}={value!r} must be a whole number, at least {least}")


def check_number(name: str, value: object, *, least: float = 0.0, most: float = math.inf) -> None:
    """Refuse what is no finite number within bounds.

    Raises:
        ConfigurationError: On another type, or a number outside.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not least <= float(value) <= most or math.isinf(value):
        bounds = f"from {least:g} to {most:g}" if math.isfinite(most) else f"and finite, at least {least:g}"
        raise ConfigurationError(f"{name}={value!r} must be a number {bounds}")
