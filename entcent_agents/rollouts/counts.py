"""How many are wanted."""

from __future__ import annotations

from numbers import Integral

from entcent_agents.errors import ConfigurationError


def require_count(n: object, what: str) -> None:
    """Refuse what is no number of rollouts, or candidates, where it is given.

    Raises:
        ConfigurationError: It is no whole number, or less than 1.
    """
    if isinstance(n, bool) or not isinstance(n, Integral):
        raise ConfigurationError(f"n={n!r} {what}: it must be a whole number")
    if n < 1:
        raise ConfigurationError(f"n={n} {what}: at least one is needed")
