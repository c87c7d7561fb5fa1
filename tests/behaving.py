"""Chat servers with habits, as scripts for `ChatServer`: what real ones take, leave out or do their own way."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.chat_server import Reply, Request, Token

VOCABULARY = 200
LOGITS = [-0.3 * i for i in range(VOCABULARY)]


@dataclass(frozen=True, kw_only=True)
class Habits:
    """A server that does all there is, but for what is said here.

    `power` is that of the temperature by which log-probabilities are divided where they are neither raw nor tempered.
    `refuses` holds fields of the body that are answered with `refusal`; `ends` tokens are counted at the end of each
    answer and not listed.
    """

    max_k: int = 1000
    caps_k: bool = False
    plus_one: bool = False
    repeats: bool = False
    tempered: bool = False
    power: float = 0.0
    noise: float = 0.0
    cuts_top_p: bool = False
    renormalises: bool = True
    logprobs: bool = True
    copies: bool = False
    scores_first_choice_only: bool = False
    calls: bool = True
    calls_when_forced: bool = True
    scores_calls: bool = True
    streams_calls: bool = True
    skips_in_characters: bool = False
    follows_schema: bool = True
    follows_seed: bool = True
    one_text: bool = False
    refuses: Sequence[str] = ()
    refusal: int = 400
    ends: int = 0

    def __call__(self, request: Request) -> list[Reply]:
        body = request.body
        if not request.path.endswith("/chat/completions"):
            return [Reply(status=404, error="no such address")]
        if self._will_not(body):
            return [Reply(status=self.refusal, error="this field is not supported")]
        return [self._reply(request, i) for i in range(request.n)]

    def _will_not(self, body: dict[str, Any]) -> bool:
        if not self.caps_k and body.get("top_logprobs", 0) > self.max_k:
            return True
        streams_calls = bool(body.get("tools") and body.get("stream"))
        return (streams_calls and not self.streams_calls) or any(name in body for name in self.refuses)

    def _reply(self, request: Request, choice: int) -> Reply:
        body = request.body
        says = body["messages"][-1]["content"]
        forced = body.get("tool_choice") == "required"
        if body.get("tools") and (self.calls_when_forced if forced else self.calls):
            arguments = json.dumps({"sql": "SELECT count(*) FROM penguins"})
            return Reply(
                tokens=self._tokens(body, [""] * 20),
                tool_calls=[("run_query", arguments)],
                logprobs=self.scores_calls,
                finish_reason="tool_calls",
            )
        words = self._words(body, says, choice)
        limit = body.get("max_tokens", len(words))
        tokens = self._tokens(body, words[:limit])
        in_characters = any(isinstance(token.says, bytes) for token in tokens)
        return Reply(
            tokens=[*tokens, *[Token(says="")] * self.ends],
            listed=len(tokens) // 2 if in_characters and self.skips_in_characters else len(tokens),
            logprobs=self.logprobs and (choice == 0 or not self.scores_first_choice_only),
            finish_reason="length" if len(words) > limit else "stop",
        )

    def _words(self, body: dict[str, Any], says: str, choice: int) -> Sequence[str | bytes]:
        form = body.get("response_format")
        if form and self.follows_schema:
            word = form["json_schema"]["schema"]["properties"]["word"]["enum"][0]
            return ['{"', "word", '": "', word, '"}']
        if "emojis" in says:
            return [part for _ in range(3) for part in ("🦄".encode()[:2], "🦄".encode()[2:])]
        if "penguins" in says and not body.get("tools"):
            return ["```json\n", '{"name": "run_query", ', '"arguments": {"sql": "SELECT 1"}}', "\n```"]
        if says == "Say hello.":
            return ["Hello", "!"]
        chance = random.Random(f"{body['seed']} {choice}") if self.follows_seed and "seed" in body else random.Random()
        if self.copies:
            chance = random.Random(0)
        return [" word" if self.one_text else f" word{chance.random()}" for _ in range(100)]

    def _tokens(self, body: dict[str, Any], words: Sequence[str | bytes]) -> list[Token]:
        return [self._token(body, word) for word in words]

    def _token(self, body: dict[str, Any], says: str | bytes) -> Token:
        if "top_logprobs" not in body:
            return Token(says=says)
        row = self._row(body)
        row = row[: min(body["top_logprobs"], self.max_k)]
        names = [f"t{i}" for i in range(len(row))]
        if self.repeats:
            row, names = [*row, row[-1]], [*names, names[-1]]
        if self.plus_one:
            row, names = [*row, row[-1] - 1.0], [*names, "sampled"]
        return Token(says=says, logprobs=row, names=names)

    def _row(self, body: dict[str, Any]) -> Sequence[float]:
        temperature = body["temperature"] or 1.0
        power = 1.0 / temperature if self.tempered else temperature**-self.power
        row = _row(power, self.noise, random.random() if self.noise else 0.0)
        if self.cuts_top_p and body.get("top_p"):
            row = row[:3]
            return _normalised(row) if self.renormalises else row
        return row


@cache
def _row(power: float, noise: float, occasion: float) -> list[float]:
    chance = random.Random(occasion)
    return _normalised([power * logit + chance.uniform(-noise, noise) for logit in LOGITS])


def _normalised(logits: Sequence[float]) -> list[float]:
    total = math.log(math.fsum(math.exp(logit) for logit in logits))
    return [logit - total for logit in logits]
