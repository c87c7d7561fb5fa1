from __future__ import annotations

import pytest

from tests.rollouts.worlds import World


@pytest.fixture
def world() -> World:
    return World()
