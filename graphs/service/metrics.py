"""What Prometheus is told: requests, rollouts, selections, tokens, and what waits for the model."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from entcent_agents.chat.concurrency import concurrency
from graphs.service.running import Running

_ROUNDS: Final = logging.getLogger("entcent_agents.round")
_BUCKETS: Final = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)


class Metrics(logging.Handler):
    """Counters of one service; rounds are counted from the library's own log lines."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.registry = registry = CollectorRegistry()
        self.under_way = Gauge("entcent_requests_under_way", "Requests under way here", registry=registry)
        self.refused = Counter("entcent_requests_refused", "Requests there was no room for", registry=registry)
        self._seconds = Histogram(
            "entcent_request_seconds", "From the question to its end", ["state"], buckets=_BUCKETS, registry=registry
        )
        self._rollouts = Counter("entcent_rollouts", "Rollouts by how they ended", ["status"], registry=registry)
        self._selections = Counter("entcent_selections", "Rounds by what decided", ["selector"], registry=registry)
        self._errors = Counter("entcent_errors", "Rollouts and rounds that failed", ["error"], registry=registry)
        self._tokens = Counter("entcent_tokens", "Tokens of ended requests", ["kind"], registry=registry)
        model = Gauge("entcent_model_requests", "Requests to the model", ["state"], registry=registry)
        model.labels("under way").set_function(lambda: sum(endpoint.under_way for endpoint in concurrency()))
        model.labels("waiting").set_function(lambda: sum(endpoint.waiting for endpoint in concurrency()))

    @contextmanager
    def timed(self, running: Running) -> Generator[None]:
        """Time a request, to what it came to."""
        since = time.perf_counter()
        try:
            yield
        finally:
            self._seconds.labels(running.came_to).observe(time.perf_counter() - since)

    @contextmanager
    def listening(self) -> Generator[None]:
        """Count rounds."""
        before = _ROUNDS.level
        _ROUNDS.setLevel(logging.INFO)
        _ROUNDS.addHandler(self)
        try:
            yield
        finally:
            _ROUNDS.removeHandler(self)
            _ROUNDS.setLevel(before)

    def emit(self, record: logging.LogRecord) -> None:
        """A round has ended."""
        line: dict[str, Any] = record.__dict__.get("round") or {}
        for status, count in line.get("rollouts", {}).items():
            self._rollouts.labels(status).inc(count)
        for error, count in line.get("errors", {}).items():
            self._errors.labels(error).inc(count)
        if line.get("error"):
            self._errors.labels(line["error"]).inc()
        if line.get("selector"):
            self._selections.labels(line["selector"]).inc()
        usage: dict[str, Any] = line.get("usage") or {}
        if line.get("status") != "held":  # what is held goes on, and its tokens are counted at its end
            for kind in ("prompt", "cached", "generated", "reused"):
                self._tokens.labels(kind).inc(usage.get(f"{kind}_tokens", 0))

    def page(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)
