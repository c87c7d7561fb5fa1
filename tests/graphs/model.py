"""A scripted model server for applications that run in processes of their own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from tests.chat_server import ChatServer, Reply, Request, says


class Model:
    """A model server whose turns each test sets."""

    def __init__(self) -> None:
        self._turns: list[Reply] = []
        self._own = 0
        self.server = ChatServer(self._answer)

    def says(self, *turns: Reply, own: int = 0) -> None:
        """Turn after turn of a new conversation, in which the agent says so many by itself before."""
        self._turns, self._own = list(turns), own
        self.server.requests.clear()

    def _answer(self, request: Request) -> list[Reply]:
        return [self._turns[self._turn(request)]] * request.n

    def sampled(self, turn: int) -> int:
        """How often a turn was asked for, in however many requests."""
        return sum(request.n for request in self.server.answered if self._turn(request) == turn)

    def _turn(self, request: Request) -> int:
        return sum(message["role"] == "assistant" for message in request.body["messages"]) - self._own


def calls(tool: str, **arguments: Any) -> Reply:
    return says(f"I call it now.\n```json\n{json.dumps({'name': tool, 'arguments': arguments})}\n```")


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - it is another process that is waited for
        await asyncio.sleep(0.1)
