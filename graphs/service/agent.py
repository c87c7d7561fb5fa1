"""The agent of the service; all requests share it, its model and its budget pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool

from entcent_agents import Branching, Budget, ChatLogprobs, create_entropy_centroid_agent
from entcent_agents.branching import BranchPolicy, BudgetPool
from entcent_agents.ledger import LedgerSettings, PostgresLedger
from entcent_agents.selection.catalogue import named_selectors
from graphs.service.settings import ServiceSettings
from graphs.service.shop import PROMPT
from graphs.service.stores import PooledSaver
from graphs.serving import Agent

_RECURSION_LIMIT: Final = 100


def make_agent(
    settings: ServiceSettings,
    model: ChatLogprobs,
    tools: Sequence[BaseTool],
    saver: PooledSaver,
    ledger: PostgresLedger,
) -> Agent:
    """Build it.

    Args:
        settings: Of the service.
        model: The chat model.
        tools: Those of the shop.
        saver: Keeps conversations, and the rollouts under way.
        ledger: Keeps refunds.

    Raises:
        ConfigurationError: On settings that cannot work.
    """
    asks = [HumanInTheLoopMiddleware(interrupt_on={"refund": True})] if settings.ask_before_refunds else []
    branching = Branching(BranchPolicy(), initial=settings.initial) if settings.initial else None
    return create_entropy_centroid_agent(
        model,
        tools,
        system_prompt=PROMPT,
        middleware=asks,
        n=settings.n,
        selector=named_selectors()[settings.selector],
        shadow=settings.shadow,
        branching=branching,
        pool=BudgetPool(settings.lent_rollouts) if branching else None,
        budget=Budget(max_tokens=settings.max_tokens, max_seconds=settings.max_seconds),
        checkpointer=saver,
        ledger=ledger,
        ledger_settings=LedgerSettings(lease_seconds=settings.lease_seconds),
        recursion_limit=_RECURSION_LIMIT,
        name="shop",
    )


def config_of(thread: str) -> RunnableConfig:
    """Where a conversation is kept."""
    return {"configurable": {"thread_id": thread}}
