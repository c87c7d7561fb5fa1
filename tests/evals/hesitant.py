"""A deterministic server whose model hesitates over numbers, and goes on from any text that it is given."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from hashlib import blake2b

from entcent_agents.chat.continuation import PROBE_QUESTION
from tests import chat_server

COUNTED = "one two three four five six seven eight nine ten"
"""What it says when it is asked how it goes on."""
CALL = '<tool_call>{"name": "add", "arguments": {"number": '
OTHERS = {"Total": "Sum", " 0": " 1", " 1": " 2", " 2": " 0"}
"""What it hesitates over, and the alternative."""


def choices(request: chat_server.Request) -> list[chat_server.Reply]:
    """One reply a choice; each follows from the prompt, what is said already, the seed and the choice's number."""
    return [_reply(request, index) for index in range(request.n)]


def that_begins_anew(request: chat_server.Request) -> list[chat_server.Reply]:
    """The same server, were it not able to go on: what is said already is a message like others."""
    return [_reply(request, index, goes_on=False) for index in range(request.n)]


def _reply(request: chat_server.Request, index: int, *, goes_on: bool = True) -> chat_server.Reply:
    if not request.path.endswith("/chat/completions"):
        return chat_server.Reply(status=404, error="no such address")
    messages = request.body["messages"]
    said = messages[-1]["content"] if goes_on and messages[-1]["role"] == "assistant" else ""
    if messages[0]["content"] == PROBE_QUESTION:
        return _tokens(COUNTED.removeprefix(said))
    told = json.dumps([messages, request.body.get("seed", 0) + index])
    drawn = random.Random(blake2b(told.encode()).digest())
    return replace(_tokens(_rest(said, "add" in messages[0]["content"], drawn)), delay_seconds=0.02)


def _rest(said: str, has_tools: bool, drawn: random.Random) -> str:
    if said.startswith(CALL):
        return "}}</tool_call>"
    if not said and has_tools and drawn.random() < 0.6:
        return f"{CALL}{drawn.randrange(3)}}}}}</tool_call>"
    words = "".join(f" w{drawn.randrange(100)}" for _ in range(drawn.randrange(2, 8)))
    return f"{words} {drawn.randrange(10)}" if said else f"Total{words} {drawn.randrange(10)}"


def _tokens(text: str) -> chat_server.Reply:
    """Words and signs, the blank before a word with it; what has another might as well have been that."""
    tokens: list[chat_server.Token] = []
    for piece in re.findall(r" ?\w+|.", text):
        other = OTHERS.get(piece)
        if other is None:
            tokens.append(chat_server.Token(says=piece, probabilities=(0.97, 0.03), names=(piece, "?")))
        else:
            tokens.append(chat_server.Token(says=piece, probabilities=(0.55, 0.45), names=(piece, other)))
    return chat_server.Reply(tokens=tokens)
