"""A scripted model that serves the customers of graphs/service, over real HTTP: looks up, refunds, and says so.

    python -m benchmarks.shop_model [--port 8081] [--delay-seconds 0.2]

"Refund 2 of A-1" makes it look the order up, refund 2 and say so; anything else it answers at once. It takes a while
for each answer, and counts how many requests it had at once: GET /v1/count.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from multiprocessing.connection import Connection
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import typer

from benchmarks.http_connection import HttpConnection

_VARIANTS: Final = 16
_TOKENS: Final = 60
_ALTERNATIVES: Final = 5
_REFUND: Final = re.compile(r"refund ([\d.]+) of ([\w-]+)", re.IGNORECASE)


class Message(msgspec.Struct):
    """One message of a prompt."""

    role: str
    content: Any = None


class Asked(msgspec.Struct):
    """What is read of a request."""

    messages: list[Message]
    n: int = 1
    stream: bool = False


class ShopModel:
    """Answers, and counts.

    Args:
        delay_seconds: How long each answer takes.
    """

    def __init__(self, delay_seconds: float) -> None:
        self.delay_seconds = delay_seconds
        self.under_way = self.most = self.requests = 0
        self._serial = itertools.count()
        self._logprobs = [_logprobs(variant) for variant in range(_VARIANTS)]

    async def body(self, asked: Asked) -> bytes:
        """The answer to a request; a stream is one event."""
        self.requests += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(self.delay_seconds)
        finally:
            self.under_way -= 1
        message, finish = _turn(asked.messages)
        part = b"delta" if asked.stream else b"message"
        choices = b",".join(self._choice(index, part, message, finish) for index in range(asked.n))
        generated = asked.n * _TOKENS
        usage = {"prompt_tokens": 100, "completion_tokens": generated, "total_tokens": 100 + generated}
        body = b'{"model":"shop","usage":%b,"choices":[%b]}' % (json.dumps(usage).encode(), choices)
        return b"data: %b\n\ndata: [DONE]\n\n" % body if asked.stream else body

    def count(self) -> bytes:
        """How many requests there were, and at once at most."""
        counted = {"requests": self.requests, "most": self.most, "under_way": self.under_way}
        return json.dumps(counted).encode()

    def _choice(self, index: int, part: bytes, message: bytes, finish: str) -> bytes:
        logprobs = self._logprobs[next(self._serial) % _VARIANTS]
        head = b'{"index":%d,"finish_reason":"%b",' % (index, finish.encode())
        return b'%b"%b":%b,"logprobs":{"content":%b}}' % (head, part, message, logprobs)


class _Connection(HttpConnection):
    def __init__(self, model: ShopModel) -> None:
        super().__init__()
        self._model = model
        self._answering: asyncio.Task[None] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answering:
            self._answering.cancel()

    def asked(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET"):
            self.write(self._model.count())
        else:
            self._answering = asyncio.create_task(self._answer(body))

    async def _answer(self, request: bytes) -> None:
        asked = msgspec.json.decode(request, type=Asked)
        self.write(await self._model.body(asked), b"text/event-stream" if asked.stream else b"application/json")


def serve(delay_seconds: float, port: Connection) -> None:
    """Answer at a free port until the process is ended."""
    asyncio.run(_serve(delay_seconds, 0, port.send))


def _turn(messages: list[Message]) -> tuple[bytes, str]:
    """The next turn: what is said, and how it ends."""
    last = max(i for i, message in enumerate(messages) if message.role == "user")
    wanted = _REFUND.search(str(messages[last].content))
    said = sum(message.role == "assistant" for message in messages[last:])
    if not wanted or said >= 2:
        text = f"I refunded {wanted[1]} of {wanted[2]}." if wanted else "What can I do for you?"
        return json.dumps({"role": "assistant", "content": text}).encode(), "stop"
    refund = {"order": wanted[2], "amount": float(wanted[1])}
    name, arguments = ("look_up_order", {"order": wanted[2]}) if said == 0 else ("refund", refund)
    function = {"name": name, "arguments": json.dumps(arguments)}
    calls = [{"id": f"call_{len(messages)}", "type": "function", "function": function}]
    return json.dumps({"role": "assistant", "content": "", "tool_calls": calls}).encode(), "tool_calls"


def _logprobs(variant: int) -> bytes:
    rows = np.sort(np.random.default_rng(variant).uniform(-9.0, -0.1, (_TOKENS, _ALTERNATIVES)))[:, ::-1]
    entries = [
        {
            "token": f" t{i}",
            "logprob": row[0],
            "bytes": None,
            "top_logprobs": [{"token": f" a{j}", "logprob": value, "bytes": None} for j, value in enumerate(row)],
        }
        for i, row in enumerate(rows.tolist())
    ]
    return json.dumps(entries).encode()


async def _serve(delay_seconds: float, port: int, tell: Any) -> None:
    model = ShopModel(delay_seconds)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(model), "127.0.0.1", port, backlog=1024)
    tell(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def main(
    port: Annotated[int, typer.Option(help="Where it listens, on this machine alone; 0: anywhere.")] = 8081,
    delay_seconds: Annotated[float, typer.Option(min=0.0, help="How long an answer takes.")] = 0.2,
) -> None:
    """Answer until it is interrupted."""
    asyncio.run(_serve(delay_seconds, port, lambda at: typer.echo(f"http://127.0.0.1:{at}/v1#shop")))


if __name__ == "__main__":
    typer.run(main)
