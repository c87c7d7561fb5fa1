"""What agents of these tests touch, and what their models say."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.types import interrupt

from entcent_agents.testing import ScriptedTurn

ASK = {"messages": [HumanMessage("go")]}


def entropy(early: bool, tokens: int = 150) -> np.ndarray:
    """Two phases, at the beginning or at the end, on a quiet floor."""
    noise = np.random.default_rng(0).uniform(0.0, 0.05, tokens)
    for start in (5, 25) if early else (tokens - 40, tokens - 15):
        noise[start : start + 8] = 1.5
    return noise


def turn(text: str = "", *calls: tuple[str, dict[str, Any]], early: bool = False) -> ScriptedTurn:
    return ScriptedTurn(text=text, tool_calls=calls, entropy=entropy(early))


class World:
    """What cannot be forked, and tools that touch it."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.looks = 0

        @tool
        async def send(to: str) -> str:
            """Send a mail."""
            await asyncio.sleep(0.01)
            self.sent.append(to)
            return f"sent to {to}"

        @tool
        async def look(x: int) -> str:
            """Look at something."""
            self.looks += 1
            await asyncio.sleep(0.01)
            return f"seen {x}"

        @tool
        def confirm(question: str) -> str:
            """Ask a person."""
            return f"the person says {interrupt(question)}"

        self.tools = [send, look, confirm]
