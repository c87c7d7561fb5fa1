"""The ten ways in which a model server fails: what is drawn for a request, and what it makes of the answer."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tests.chat_server import Reply, Request

UNSURE: Final = math.log(0.5)
PAGE: Final = b"<html><body><h1>502 Bad Gateway</h1></body></html>\n"
OVERLOADED: Final = json.dumps({"error": {"message": "the upstream is overloaded", "code": 502}}).encode()
"""An error in a good answer, as gateways give it."""


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Which requests go wrong, and how patient those are who wait for an answer.

    Attributes:
        share: Of the requests.
        seed: What is drawn from.
        stall_seconds: How long a silent server is silent: longer than its clients wait.
        trickle_seconds: Between one piece of an answer and the next: shorter than its clients wait.
    """

    share: float
    seed: int
    stall_seconds: float
    trickle_seconds: float

    def drawn(self, digest: str, times: int) -> str | None:
        """The failure of a request, or None: by the conversation that is shown, and how often it was asked."""
        dice = random.Random(f"{self.seed} {digest} {times}")
        return dice.choice(list(FAULTS)) if dice.random() < self.share else None

    def answered(self, fault: str, request: Request, replies: Sequence[Reply]) -> tuple[list[Reply], int]:
        """The answer with a failure, and how many of its choices reach the client whole."""
        dice = random.Random(f"{self.seed} {fault} {request.body}")
        return FAULTS[fault](self, request, list(replies), dice)


_Answer = tuple[list[Reply], int]


def _refused(status: int, error: str, **headers: str) -> _Answer:
    return [Reply(status=status, error=error, headers=headers)], 0


def _overloaded(faults: Faults, request: Request, replies: list[Reply], dice: random.Random) -> _Answer:
    return _refused(429, "too many requests", **{"Retry-After": f"{dice.uniform(0.05, 0.3):.2f}"})


def _broken(faults: Faults, request: Request, replies: list[Reply], dice: random.Random) -> _Answer:
    return _refused(dice.choice([500, 502, 503, 504]), "the server is down")


def _closed(faults: Faults, request: Request, replies: list[Reply], dice: random.Random) -> _Answer:
    return [Reply(hangs_up=True)], 0


def _broken_off(faults: Faults, request: Request, replies: list[Reply], dice: random.Random) -> _Answer:
    how = dice.choice(["close", "cut", "reset"])
    return [replace(reply, breaks_after=2, breaks_how=how) for reply in replies], 0


def _stalled(faults: Faults, request: Request, replies: list[Reply], dice: random.Random) -> _Answer:
    return [replace(reply, delay_seconds=faults.stall_seconds) for reply in replies], 0


def _trickled(faults: Faults, request: Request, replies: list[Reply], dice: random.Random) -> _Answer:
    return [replace(reply, trickle_seconds=faults.trickle_seconds) for reply in replies], 0


def _no_json(faults: Faults, request: Request, replies: list[Reply], dice: random.Random) -> _Answer:
    return [Reply(raw=PAGE, headers={"Content-Type": "text/html"})], 0


def _error_in_200(faults: Faults, request: Request, replies: list[Reply], dice: random.Random) -> _Answer:
    return [Reply(raw=b"data: " + OVERLOADED + b"\n\n" if request.body.get("stream") else OVERLOADED)], 0


def _fewer(faults: Faults, request: Request, replies: list[Reply], dice: random.Random) -> _Answer:
    if len(replies) == 1:  # fewer than one
        body = b'{"choices": []}'
        return [Reply(raw=b"data: " + body + b"\n\ndata: [DONE]\n\n" if request.body.get("stream") else body)], 0
    given = dice.randint(1, len(replies) - 1)
    return replies[:given], given


def _without_logprobs(faults: Faults, request: Request, replies: list[Reply], dice: random.Random) -> _Answer:
    if dice.random() < 0.5:
        return [replace(reply, logprobs=False) for reply in replies], len(replies)
    first, *others = replies
    above_zero = [replace(token, logprobs=[0.7, UNSURE]) for token in first.tokens]
    return [replace(first, tokens=above_zero), *others], len(others)


FAULTS: Final[dict[str, Callable[[Faults, Request, list[Reply], random.Random], _Answer]]] = {
    "429 with Retry-After": _overloaded,
    "500, 502, 503 or 504": _broken,
    "connection closed before a byte": _closed,
    "answer broken off in its middle": _broken_off,
    "silence past the time-out": _stalled,
    "an answer that trickles": _trickled,
    "no JSON in a 200": _no_json,
    "an error object in a 200": _error_in_200,
    "fewer choices than asked for": _fewer,
    "log-probabilities missing or above 0": _without_logprobs,
}
"""By name, what each makes of a request and its answer."""
