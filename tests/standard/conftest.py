"""What LangChain's standard tests ask their surroundings for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def benchmark() -> Callable[[Callable[[], Any]], Any]:
    """Run what is to be timed once: it has to work, and how fast it is `benchmarks/` measures."""
    return lambda timed: timed()


@pytest.fixture(scope="session")
def vcr_config() -> dict[str, Any]:
    """Let the test that is meant for recorded answers ask its server, which is on this machine."""
    return {"ignore_localhost": True}
