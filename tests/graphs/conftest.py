"""The service's model, database and settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.graphs.service_process import Shopkeeper

ROOM = 48


@pytest.fixture(scope="module")
def model() -> Iterator[Shopkeeper]:
    model = Shopkeeper()
    with model.server:
        yield model
        model.open.set()


@pytest.fixture(scope="module")
def shop(postgres_server: str) -> Iterator[str]:
    """A database for the module."""
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE shop")
    yield postgres_server.replace("dbname=postgres", "dbname=shop")
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("DROP DATABASE shop WITH (FORCE)")


@pytest.fixture(scope="module")
def settings(model: Shopkeeper, shop: str) -> dict[str, Any]:
    address = f"{model.server.base_url}#scripted"
    return {"model": address, "database": shop, "n": 2, "lease_seconds": 1, "max_requests": ROOM, "max_working": 40}
