"""Every saver that a rollout store is used with, under one name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from tests.rollouts.worlds import World


@asynccontextmanager
async def opened(request: pytest.FixtureRequest, kind: str) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    match kind:
        case "memory":
            yield InMemorySaver()
        case "sqlite":
            folder: Path = request.getfixturevalue("tmp_path")
            async with AsyncSqliteSaver.from_conn_string(str(folder / "rollouts.db")) as saver:
                yield saver
        case _:
            pytest.importorskip("langgraph.checkpoint.postgres", reason="pip install langgraph-checkpoint-postgres")
            database = request.getfixturevalue("database")
            from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

            async with AsyncPostgresSaver.from_conn_string(database) as saver:
                await saver.setup()
                yield saver


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def saver(request: pytest.FixtureRequest) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """Each of the three savers, empty."""
    async with opened(request, request.param) as made:
        yield made


@pytest.fixture
def world() -> World:
    return World()
