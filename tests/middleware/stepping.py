"""Agents with the middleware, asked synchronously and asynchronously, and what they did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.tools import BaseTool, tool

from entcent_agents.selection import Selection, rank
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from entcent_agents.trajectory import Rollout

WAYS = pytest.mark.parametrize("way", ["sync", "async"])
GO: Any = {"messages": [("user", "Go.")]}


async def ask(agent: Any, way: str, given: Any = GO, thread: str | None = None) -> Any:
    config: Any = {"configurable": {"thread_id": thread}} if thread else {}
    return agent.invoke(given, config) if way == "sync" else await agent.ainvoke(given, config)


async def stream(agent: Any, way: str, given: Any = GO, **settings: Any) -> list[Any]:
    if way == "sync":
        return list(agent.stream(given, **settings))
    return [event async for event in agent.astream(given, **settings)]


def texts(result: Any) -> list[str]:
    return [message.text for message in result["messages"]]


def said(text: str, *calls: tuple[str, dict[str, Any]], entropy: float = 0.1, tokens: int = 20) -> ScriptedTurn:
    return ScriptedTurn(text=text, tool_calls=calls, entropy=[entropy] * tokens)


def chat(script: Callable[[int], Any], n: int = 4) -> ScriptedChat:
    """A model whose candidates each have a script of their own."""
    return ScriptedChat(scripts=[script(index) for index in range(n)])


def turns(*script: ScriptedTurn) -> Callable[[Sequence[BaseMessage]], ScriptedTurn]:
    """Those in order since the last word of the user."""

    def next_turn(messages: Sequence[BaseMessage]) -> ScriptedTurn:
        number = 0
        for message in messages:
            number = 0 if message.type == "human" else number + isinstance(message, AIMessage)
        return script[number]

    return next_turn


class Chosen:
    """A selector that wants the candidate nearest to a number, and remembers what it was asked about."""

    name = "chosen"

    def __init__(self, index: int) -> None:
        self.index = index
        self.asked: list[Sequence[Rollout]] = []

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        self.asked.append(rollouts)
        return rank(self.name, rollouts, lambda rollout: abs(rollout.index - self.index), what="distance")


def looking(seen: list[str]) -> BaseTool:
    """A tool that notes where it was told to look."""

    @tool
    def look(at: str) -> str:
        """See what is somewhere."""
        seen.append(at)
        return f"saw {at}"

    return look
