"""A model server's own account of what it read and wrote, kept apart from anything that clients say."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.chat_server import Reply, Request, says

Fate = Callable[[random.Random], str]
"""What becomes of a request: "answered", "refused", "broken" or "slow"."""


def answered(dice: random.Random) -> str:
    return "answered"


def troubled(dice: random.Random) -> str:
    return dice.choices(["answered", "refused", "broken", "slow"], [6, 2, 1, 1])[0]


@dataclass(frozen=True)
class Account:
    """What was billed, and for how many requests."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    requests: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.generated_tokens


class Biller:
    """Answers with words by chance, as many as `max_tokens` at most, and bills them, whether they arrive or not.

    A prompt has a token for every two bytes of its messages' contents, and is billed once a request. Who sends the
    bill is the first word of the first message. Before `turns` messages the model calls the tool "look".
    """

    def __init__(self, fate: Fate = answered, *, turns: int = 1, calls: bool = False) -> None:
        self.bills: dict[str, Account] = {}
        self._fate = fate
        self._turns = turns
        self._calls = calls
        self._dice = random.Random(7)
        self._lock = threading.Lock()

    @property
    def total(self) -> Account:
        found = self.bills.values()
        return Account(
            sum(each.prompt_tokens for each in found),
            sum(each.generated_tokens for each in found),
            sum(each.requests for each in found),
        )

    def __call__(self, request: Request) -> list[Reply]:
        with self._lock:
            fate = self._fate(self._dice)
            if fate == "refused":
                return [Reply(status=503, error="busy")]
            messages = request.body["messages"]
            prompt = sum(len(json.dumps(message.get("content") or "")) for message in messages) // 2
            replies = [self._reply(request, i) for i in range(request.n)]
            self._bill(messages[0]["content"].split()[0], prompt, sum(len(reply.tokens) for reply in replies))
        ends = {"breaks_after": 2} if fate == "broken" else {}
        delay = 0.2 if fate == "slow" else 0.0
        return [replace(reply, prompt_tokens=prompt, delay_seconds=delay, **ends) for reply in replies]

    def _reply(self, request: Request, number: int) -> Reply:
        limit = request.body.get("max_tokens") or request.body.get("max_completion_tokens") or 40
        words = self._dice.randint(10, limit)
        turn = sum(message["role"] == "assistant" for message in request.body["messages"])
        if not self._calls or turn >= self._turns:
            return says(" ".join(f"w{self._dice.randint(0, 99)}" for _ in range(words)))
        call = ("look", json.dumps({"x": number}))  # its tokens are among those that are counted
        return says("a " * (words - 1), tool_calls=[call], logprobs=False, finish_reason="tool_calls")

    def _bill(self, to: str, prompt: int, generated: int) -> None:
        old = self.bills.get(to, Account())
        self.bills[to] = Account(old.prompt_tokens + prompt, old.generated_tokens + generated, old.requests + 1)
