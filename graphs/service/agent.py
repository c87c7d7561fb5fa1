"""The agent of the service: what all of its requests share, and what a request brings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg_pool import AsyncConnectionPool

from entcent_agents.branching import BranchPolicy, BudgetPool
from entcent_agents.budget import Budget
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.ledger import LedgerSettings, PostgresLedger
from entcent_agents.nodes import Branching, sweep
from entcent_agents.prebuilt import create_entropy_centroid_agent
from entcent_agents.selection.catalogue import named_selectors
from graphs.service.settings import ServiceSettings
from graphs.service.shop import PROMPT
from graphs.serving import Agent

_RECURSION_LIMIT: Final = 100
_SAVERS: Final = 8
"""A saver of LangGraph's does one thing at a time, whatever its pool could: several stand side by side."""


class Agents:
    """The agent, several times over; they share the model, the ledger, the pool of connections and the budget pool."""

    def __init__(self, graphs: Sequence[Agent], saver: AsyncPostgresSaver, ledger: PostgresLedger) -> None:
        self._next = itertools.cycle(graphs)
        self._saver, self._ledger = saver, ledger

    @classmethod
    async def of(
        cls, settings: ServiceSettings, model: ChatLogprobs, tools: Sequence[BaseTool], pool: AsyncConnectionPool[Any]
    ) -> Agents:
        """Build them, and the tables of what they keep.

        Raises:
            ConfigurationError: On settings that cannot work.
        """
        ledger = PostgresLedger(pool.connection)
        lent = BudgetPool(settings.lent_rollouts)
        branching = Branching(BranchPolicy(), initial=settings.initial) if settings.initial else None
        asks = [HumanInTheLoopMiddleware(interrupt_on={"refund": True})] if settings.ask_before_refunds else []
        savers = [AsyncPostgresSaver(pool) for _ in range(_SAVERS)]
        await savers[0].setup()
        graphs = [
            create_entropy_centroid_agent(
                model,
                tools,
                system_prompt=PROMPT,
                middleware=asks,
                n=settings.n,
                selector=named_selectors()[settings.selector],
                shadow=settings.shadow,
                branching=branching,
                pool=lent if branching else None,
                budget=Budget(max_tokens=settings.max_tokens, max_seconds=settings.max_seconds),
                checkpointer=saver,
                ledger=ledger,
                ledger_settings=LedgerSettings(lease_seconds=settings.lease_seconds),
                recursion_limit=_RECURSION_LIMIT,
                name="shop",
            )
            for saver in savers
        ]
        return cls(graphs, savers[0], ledger)

    def one(self) -> Agent:
        """The one whose turn it is."""
        return next(self._next)

    async def sweep(self) -> None:
        """Remove what requests left a week ago that nobody went on with."""
        await sweep(self._saver, self._ledger)


def config_of(thread: str) -> RunnableConfig:
    """Where a conversation is kept."""
    return {"configurable": {"thread_id": thread}}
