"""Scripted servers that can be made to go on from a prefix, each in one product's way, over a vocabulary of words."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from tests.chat_server import Reply, Request, Token

PROMPT = [7001, 7002, 7003]
"""What every conversation is read as."""
LOGPROB = -0.6931471805599453
"""Of either of two alternatives."""


@dataclass
class ContinuingServer:
    """The script of a server whose model always says the same words.

    Attributes:
        ways: In which ways it goes on: "llama", "vllm", "flag", "prefix" or "trailing".
        words: The model's answer, a token a word.
        merges: Read `one two` as one token, so that text falls into other tokens than were generated.
        holds: List ` four five` as one token with the number of the last, as llama.cpp does where it held text back.
        anew: Begin the answer anew wherever it should go on.
        echoes: Have the prefix in the text too, though it is not generated.
        lost: How many tokens of every prompt it loses.
        failing: Paths that answer `fails_with`.
    """

    ways: tuple[str, ...] = ()
    words: str = "one two three four five six seven eight"
    merges: bool = False
    holds: bool = False
    anew: bool = False
    echoes: bool = False
    lost: int = 0
    failing: tuple[str, ...] = ()
    fails_with: int = 503
    vocabulary: list[str] = field(default_factory=list)

    def __call__(self, request: Request) -> list[Reply]:
        path = request.path.removeprefix("/v1")
        if path in self.failing:
            return [Reply(status=self.fails_with, error="out of memory")]
        if path == "/chat/completions":
            return [self.chat(request.body)]
        answer = {
            "/apply-template": self.template,
            "/tokenize": self.tokenize,
            "/detokenize": self.detokenize,
            "/completions": self.complete,
        }[path](request.body)
        return [answer or Reply(status=404, error="no such address")]

    def chat(self, body: dict[str, Any]) -> Reply:
        *_, last = body["messages"]
        continues = last["role"] == "assistant" and (
            ("flag" in self.ways and body.get("continue_final_message") and not body["add_generation_prompt"])
            or ("prefix" in self.ways and last.get("prefix"))
            or "trailing" in self.ways
        )
        said = last["content"] if continues else ""
        new = self.words if self.anew else self.words.removeprefix(said)
        reply = Reply(tokens=[Token(says=word, probabilities=(0.5, 0.5)) for word in split(new)[: self.room(body)]])
        if not said or not self.echoes:
            return reply
        content = {"content": [token.entry() for token in reply.tokens]}
        return Reply(raw=stream([{"delta": {"content": said + reply.text}, "logprobs": content}], prompt=5))

    def template(self, body: dict[str, Any]) -> Reply | None:
        return plain({"prompt": f"<{len(body['messages'])}>"}) if "llama" in self.ways else None

    def tokenize(self, body: dict[str, Any]) -> Reply | None:
        if "llama" in self.ways:
            if body["content"].startswith("<"):
                return plain({"tokens": [{"id": number, "piece": "<>"} for number in PROMPT]})
            return plain({"tokens": [{"id": self.number(word), "piece": word} for word in self.read(body["content"])]})
        if "vllm" in self.ways:
            tokens = PROMPT if "messages" in body else [self.number(word) for word in self.read(body["prompt"])]
            return plain({"tokens": tokens, "count": len(tokens)})
        return None

    def detokenize(self, body: dict[str, Any]) -> Reply | None:
        text = "".join(self.vocabulary[number] for number in body["tokens"])
        return plain({"content" if "llama" in self.ways else "prompt": text})

    def complete(self, body: dict[str, Any]) -> Reply | None:
        if not {"llama", "vllm"} & set(self.ways):
            return None
        assert body["prompt"][: len(PROMPT)] == PROMPT
        said = "".join(self.vocabulary[number] for number in body["prompt"][len(PROMPT) :])
        new = split(self.words if self.anew else self.words.removeprefix(said))[: self.room(body)]
        if self.holds and " four" in new:
            new[new.index(" four") : new.index(" five") + 1] = [" four five"]
        shape = self.llama_event if "llama" in self.ways else self.vllm_event
        answer = stream if body.get("stream") else whole
        return Reply(raw=answer([shape(word) for word in new], prompt=len(body["prompt"]) - self.lost))

    def llama_event(self, word: str) -> dict[str, Any]:
        entry = Token(says=word, probabilities=(0.5, 0.5)).entry() | {"id": self.number(split(word)[-1])}
        return {"text": word, "logprobs": {"content": [entry]}}

    def vllm_event(self, word: str) -> dict[str, Any]:
        top = {word: LOGPROB, "other": LOGPROB, "least": -9.0}  # of 2 asked for, 3 come: the sampled one is extra
        lists = {"tokens": [word], "token_logprobs": [LOGPROB], "top_logprobs": [top]}
        return {"text": word, "logprobs": lists, "token_ids": [self.number(word)]}

    def read(self, text: str) -> list[str]:
        if self.merges and text.startswith("one two"):
            return ["one two", *split(text.removeprefix("one two"))]
        return split(text)

    def number(self, word: str) -> int:
        if word not in self.vocabulary:
            self.vocabulary.append(word)
        return self.vocabulary.index(word)

    @staticmethod
    def room(body: dict[str, Any]) -> int | None:
        return body.get("max_tokens")


def split(text: str) -> list[str]:
    """The tokens of a text: words with the blank before them."""
    return re.findall(r" ?[^ ]+", text)


def plain(answer: dict[str, Any]) -> Reply:
    """An answer beside the API."""
    return Reply(raw=json.dumps(answer).encode())


def whole(events: list[dict[str, Any]], prompt: int) -> bytes:
    """An answer that is not streamed, of the same events."""
    logprobs: dict[str, Any] = {}
    for event in events:
        for key, listed in event["logprobs"].items():
            logprobs[key] = logprobs.get(key, []) + listed
    numbers = [number for event in events for number in event.get("token_ids", ())]
    choice = {"index": 0, "text": "".join(event["text"] for event in events), "finish_reason": "stop"}
    choice |= {"logprobs": logprobs or None} | ({"token_ids": numbers} if numbers else {})
    usage = {"prompt_tokens": prompt, "completion_tokens": len(events)}
    return json.dumps({"model": "scripted", "choices": [choice], "usage": usage}).encode()


def stream(events: list[dict[str, Any]], prompt: int) -> bytes:
    """A streamed answer."""
    choices = [{"index": 0, **event} for event in [*events, {"finish_reason": "stop"}]]
    usage = {"prompt_tokens": prompt, "completion_tokens": len(events)}
    payloads = [*({"model": "scripted", "choices": [choice]} for choice in choices), {"choices": [], "usage": usage}]
    return b"".join(b"data: " + json.dumps(payload).encode() + b"\n\n" for payload in payloads) + b"data: [DONE]\n\n"
