"""How tests ask the service, and look at what came of it."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import psycopg


def refunds(shop: str, order: str = "A-1") -> int:
    with psycopg.connect(shop) as connection:
        return connection.execute("SELECT count(*) FROM shop_refunds WHERE of_order = %s", [order]).fetchone()[0]


def refunded(shop: str, order: str) -> float:
    """How much of an order was paid back."""
    with psycopg.connect(shop) as connection:
        return connection.execute("SELECT sum(amount) FROM shop_refunds WHERE of_order = %s", [order]).fetchone()[0]


def orders(shop: str, *names: str, paid: float = 10.0) -> None:
    with psycopg.connect(shop, autocommit=True) as connection:
        for name in names:
            connection.execute("INSERT INTO shop_orders VALUES (%s, 'a book', %s)", [name, paid])


def asking(question: str, **more: str) -> dict[str, Any]:
    return {"json": {"question": f"Q: {question}", **more}}


def answers(asked: dict[str, Any], *decisions: dict[str, Any]) -> dict[str, Any]:
    """A person's decisions about the calls of what is asked."""
    return {"json": {"answers": {question["id"]: {"decisions": decisions} for question in asked["questions"]}}}


async def events(client: httpx2.AsyncClient, method: str, path: str, **asked: Any) -> list[dict[str, Any]]:
    """All that is streamed."""
    async with client.stream(method, path, **asked) as stream:
        assert stream.status_code == 200
        return [json.loads(line[5:]) async for line in stream.aiter_lines() if line.startswith("data:")]


async def state_of(client: httpx2.AsyncClient, id: str) -> str:
    return (await client.get(f"/requests/{id}")).json()["state"]
