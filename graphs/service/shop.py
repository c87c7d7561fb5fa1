"""What the service's agent works on: orders that can be looked up, and refunds that must happen once."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from langchain_core.tools import BaseTool, tool
from psycopg_pool import AsyncConnectionPool

from entcent_agents.effects import EXTERNAL_IDEMPOTENT, READ, declare
from entcent_agents.ledger import current_idempotency_key

_CENT: Final = Decimal("0.01")
PROMPT: Final = """\
You answer customers of a shop. Look an order up before you say anything of it. Refund only what was paid for the order,
and only if the customer asks for it. Before every call write a sentence: what you know, and what you do next."""
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS shop_orders (id TEXT PRIMARY KEY, item TEXT NOT NULL, paid NUMERIC NOT NULL)",
    """CREATE TABLE IF NOT EXISTS shop_refunds (
        key TEXT PRIMARY KEY, of_order TEXT NOT NULL REFERENCES shop_orders, amount NUMERIC NOT NULL
    )""",
    """INSERT INTO shop_orders VALUES ('A-1', 'a kettle', 39.90), ('A-2', 'two lamps', 84), ('A-3', 'a chair', 120)
       ON CONFLICT DO NOTHING""",
)
_ORDER: Final = """
    SELECT item, paid, (SELECT coalesce(sum(amount), 0) FROM shop_refunds WHERE of_order = id) AS refunded
    FROM shop_orders WHERE id = %s"""
_LOCK: Final = "SELECT FROM shop_orders WHERE id = %(order)s FOR UPDATE"
# A statement of its own, after the lock: it has to see what whoever had the lock before has refunded.
_LEFT: Final = """
    SELECT paid - (SELECT coalesce(sum(amount), 0) FROM shop_refunds WHERE of_order = id) AS amount,
           EXISTS (SELECT FROM shop_refunds WHERE key = %(key)s) AS made
    FROM shop_orders WHERE id = %(order)s"""


async def open_shop(pool: AsyncConnectionPool[Any]) -> list[BaseTool]:
    """The shop's tables, made where they are not there, and the tools that work on them.

    Args:
        pool: Connections that commit by themselves.
    """
    async with pool.connection() as connection:
        for statement in _TABLES:
            await connection.execute(statement)

    @tool
    async def look_up_order(order: str) -> str:
        """What was ordered, what was paid, and what was refunded already.

        Args:
            order: The number of the order, say A-1.
        """
        async with pool.connection() as connection:
            row: Any = await (await connection.execute(_ORDER, [order])).fetchone()
        if row is None:
            return f"There is no order {order}."
        return f"{order}: {row['item']}, paid {row['paid']}, refunded {row['refunded']}."

    @tool
    async def refund(order: str, amount: float) -> str:
        """Pay money back to the customer.

        Args:
            order: The number of the order.
            amount: How much.
        """
        key = current_idempotency_key()  # the same whenever this very call is made again, after a crash say
        money = Decimal(str(amount)).quantize(_CENT)
        async with pool.connection() as connection, connection.transaction():
            await connection.execute(_LOCK, {"order": order})
            left: Any = await (await connection.execute(_LEFT, {"order": order, "key": key})).fetchone()
            if left is None:
                return f"There is no order {order}."
            if not left["made"]:
                if not 0 < money <= left["amount"]:
                    return f"Not refunded: {left['amount']} of what was paid for {order} is left."
                await connection.execute("INSERT INTO shop_refunds VALUES (%s, %s, %s)", [key, order, money])
        return f"Refunded {money} for {order}."

    return [declare(look_up_order, READ, environment=None), declare(refund, EXTERNAL_IDEMPOTENT)]
