"""A scripted server whose model decides: which tool, with what. It goes on from a prefix as llama.cpp does, or not."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chat_server import Reply, Request, Token
from tests.continuing_server import plain, stream, whole

Slot = Sequence[str]
"""What the model may say in one token. It says the first, unless it goes on from another."""


def call(tools: Slot, values: Slot) -> list[Slot]:
    """A turn that calls one of the tools with one of the values."""
    texts: list[Slot] = [["```json"], ["\n"], ['{"name": "'], tools, ['", "'], ["arguments"], ['": {"'], ["x"], ['": ']]
    return [*texts, values, ["}}"], ["\n```"]]


def answer(text: str) -> list[Slot]:
    """A turn that answers."""
    return [[word] for word in re.findall(r" ?[^ ]+", text)]


@dataclass(frozen=True, kw_only=True)
class Numbered(Token):
    """A token with numbers, its own and those of its alternatives."""

    numbers: Sequence[int]

    def entry(self) -> dict[str, Any]:
        entry = super().entry() | {"id": self.numbers[0]}
        for top, number in zip(entry["top_logprobs"], self.numbers, strict=True):
            top |= {"id": number, "bytes": list(top["token"].encode())}
        return entry


@dataclass
class DecidingServer:
    """The script of the server.

    Attributes:
        turns: What it says in answer to a conversation that has so many turns of its own already.
        continues: Whether it goes on from tokens.
        misreads: How many tokens of an agent's prompt it counts that were not sent, where it goes on from tokens.
        hold: Called before each answer, with how many were asked for so far.
    """

    turns: Callable[[int], Sequence[Slot]]
    continues: bool = True
    hold: Callable[[int], None] | None = None
    misreads: int = 0
    vocabulary: list[str] = field(default_factory=list)
    generated: int = 0
    sampled: list[str] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    _lock: Any = field(default_factory=threading.RLock)

    def __call__(self, request: Request) -> list[Reply]:
        path = request.path.removeprefix("/v1")
        if path == "/chat/completions":
            return [self.chat(request.body, choice) for choice in range(request.n)]
        if not self.continues:
            return [Reply(status=404, error="no such address")]
        body = request.body
        match path:
            case "/apply-template":
                return [plain({"prompt": "<" + json.dumps(body["messages"]) + ">"})]
            case "/tokenize":
                pieces = self.read(body["content"])
                return [plain({"tokens": [{"id": self.number(piece), "piece": piece} for piece in pieces]})]
            case "/detokenize":
                return [plain({"content": "".join(self.vocabulary[number] for number in body["tokens"])})]
            case "/completions":
                return [self.complete(body)]
        return [Reply(status=404, error="no such address")]

    def chat(self, body: dict[str, Any], choice: int) -> Reply:
        if not choice and self.hold:
            self.hold(len(self.sampled) + len(self.prefixes))
        messages = body["messages"]
        if messages[-1]["role"] == "assistant":  # it answers anew: this server goes on from no message
            return Reply(status=400, error="the last message is the assistant's")
        if not any("tools:" in str(message["content"]) for message in messages):
            said = self.spoken(answer("one two three four five six seven eight"), "")
        else:
            self.sampled.append(json.dumps(messages))
            said = self.spoken(self.script(messages), "")
            self.count(len(said))
        return Reply(tokens=said[: body.get("max_tokens")], prompt_tokens=100 * len(messages))

    def complete(self, body: dict[str, Any]) -> Reply:
        prompt, *ids = body["prompt"]
        messages, read = json.loads(self.vocabulary[prompt][1:-1]), len(body["prompt"])
        prefix = "".join(self.vocabulary[number] for number in ids)
        if not any("tools:" in str(message["content"]) for message in messages):
            said = self.spoken(answer("one two three four five six seven eight"), prefix)
        else:
            if self.hold:
                self.hold(len(self.sampled) + len(self.prefixes))
            self.prefixes.append(prefix)
            read += self.misreads
            said = self.spoken(self.script(messages), prefix)
            self.count(len(said))
        events = [{"text": token.says, "logprobs": {"content": [token.entry()]}} for token in said]
        shape = stream if body.get("stream") else whole
        return Reply(raw=shape(events[: body.get("max_tokens")], prompt=read))

    def script(self, messages: Sequence[dict[str, Any]]) -> Sequence[Slot]:
        """What it says in answer to a conversation."""
        return self.turns(turns_of(messages))

    def count(self, tokens: int) -> None:
        with self._lock:
            self.generated += tokens

    def spoken(self, slots: Sequence[Slot], prefix: str) -> list[Numbered]:
        """What follows the prefix."""
        said: list[Numbered] = []
        for slot in slots:
            known = next((option for option in slot if prefix and prefix.startswith(option)), None)
            if known is not None:
                prefix = prefix.removeprefix(known)
                continue
            assert not prefix, f"nobody wrote {prefix!r}"
            even = math.log(1 / len(slot))
            said.append(
                Numbered(
                    says=slot[0], names=slot, logprobs=[even] * len(slot), numbers=[self.number(text) for text in slot]
                )
            )
        return said

    def read(self, text: str) -> list[str]:
        """The tokens of a text: a whole prompt, or the longest words that are known."""
        if text.startswith("<"):
            return [text]
        pieces: list[str] = []
        with self._lock:
            known = sorted(self.vocabulary, key=len, reverse=True)
        while text:
            piece = next((word for word in known if word and text.startswith(word)), text)
            pieces.append(piece)
            text = text.removeprefix(piece)
        return pieces

    def number(self, text: str) -> int:
        with self._lock:
            if text not in self.vocabulary:
                self.vocabulary.append(text)
            return self.vocabulary.index(text)


def turns_of(messages: Sequence[dict[str, Any]]) -> int:
    """How many turns of the model a conversation has."""
    return sum(message["role"] == "assistant" for message in messages)
