"""Settings of the nodes that are objects of this library's own."""

from __future__ import annotations

from entcent_agents.errors import ConfigurationError


def require_kind(name: str, value: object, kind: str) -> None:
    """Refuse a setting of another kind where it is given: it would be an AttributeError in the middle of a request.

    Args:
        name: Of the setting.
        value: What was given; None is no setting.
        kind: Name of the class that it is, or extends; a name, because OpenTelemetry is an extra.

    Raises:
        ConfigurationError: It is something else, the class itself included.
    """
    if value is not None and kind not in [each.__name__ for each in type(value).__mro__]:
        raise ConfigurationError(f"{name}={value!r} must be a {kind}(…)")
