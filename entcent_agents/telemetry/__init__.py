"""What operators see of requests: lines in the log, and OpenTelemetry spans (extra `otel`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from entcent_agents.errors import MissingExtraError

if TYPE_CHECKING:
    from entcent_agents.telemetry.spans import Spans

__all__ = ["Spans"]


def __getattr__(name: str) -> Any:
    """Spans are loaded at first use: OpenTelemetry is an extra.

    Raises:
        MissingExtraError: Without OpenTelemetry.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from entcent_agents.telemetry.spans import Spans
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("opentelemetry"):
            raise
        raise MissingExtraError("opentelemetry-api", "otel") from None
    return Spans
