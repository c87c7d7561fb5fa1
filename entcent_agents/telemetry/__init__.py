"""What operators see of requests: lines in the log, and OpenTelemetry spans (extra `otel`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from entcent_agents.lazy import lazy_names

if TYPE_CHECKING:
    from entcent_agents.telemetry.spans import Spans
else:
    __getattr__, __dir__ = lazy_names(__name__, {"spans": ("Spans",)})

__all__ = ["Spans"]
