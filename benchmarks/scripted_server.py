"""A model server that takes no time: scripted agents' turns over real HTTP, in a process of its own."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Final

import msgspec
import numpy as np

from benchmarks.http_connection import HttpConnection
from benchmarks.serving import in_a_process

SERIAL: Final = "00000000"
"""Stands in prepared choices for the number that makes an answer, and so every prompt after it, unlike all others."""
VARIANTS: Final = 16
"""Of the log-probabilities of one turn: selectors have something to choose from."""


class Message(msgspec.Struct):
    """One message of a prompt."""

    role: str


class Asked(msgspec.Struct):
    """What is read of a request."""

    messages: list[Message]
    n: int = 1


def serve(tokens: int, k: int, tool_turns: int, port: Connection) -> None:
    """Answer until the process is ended."""
    asyncio.run(_serve(tokens, k, tool_turns, port))


@contextmanager
def serving(tokens: int, k: int, tool_turns: int) -> Iterator[str]:
    """The server; gives its address.

    Args:
        tokens: Of each answer.
        k: Alternatives of each token.
        tool_turns: How many turns call the tool `look` before the one that answers.
    """
    with in_a_process(serve, tokens, k, tool_turns) as base_url:
        yield base_url


async def _serve(tokens: int, k: int, tool_turns: int, port: Connection) -> None:
    answers = _Answers(tokens, k, tool_turns)
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(answers), "127.0.0.1", 0, backlog=1024)
    port.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


class _Answers:
    """Choices are written once: to answer is to copy bytes and put a number in."""

    def __init__(self, tokens: int, k: int, tool_turns: int) -> None:
        self._tokens, self._tool_turns = tokens, tool_turns
        self._choices = {
            calls: [_choice(tokens, k, variant, calls=calls) for variant in range(VARIANTS)] for calls in (True, False)
        }
        self._serial = itertools.count(1)

    def body(self, request: bytes) -> bytes:
        asked = msgspec.json.decode(request, type=Asked)
        said = sum(message.role == "assistant" for message in asked.messages)
        prepared = self._choices[said < self._tool_turns]
        usage = {"prompt_tokens": 100, "completion_tokens": asked.n * self._tokens, "total_tokens": 0}
        choices = b",".join(self._numbered(prepared) for _ in range(asked.n))
        return b'{"model":"scripted","usage":%b,"choices":[%b]}' % (json.dumps(usage).encode(), choices)

    def _numbered(self, prepared: list[bytes]) -> bytes:
        serial = next(self._serial)
        return prepared[serial % VARIANTS].replace(SERIAL.encode(), f"{serial:08}".encode())


class _Connection(HttpConnection):
    def __init__(self, answers: _Answers) -> None:
        super().__init__()
        self._answers = answers

    def asked(self, head: bytes, body: bytes) -> None:
        self.write(self._answers.body(body))


def _choice(tokens: int, k: int, variant: int, *, calls: bool) -> bytes:
    """One choice, as OpenAI and vLLM write it."""
    rows = np.sort(np.random.default_rng(variant).uniform(-20.0, -3.1, (tokens, k)))[:, ::-1]
    content = [
        {
            "token": f" tok{i}" if i else SERIAL,
            "logprob": row[0],
            "bytes": list(f" tok{i}".encode()) if i else None,
            "top_logprobs": [{"token": f" t{j}", "logprob": value, "bytes": [32, 116]} for j, value in enumerate(row)],
        }
        for i, row in enumerate(rows.tolist())
    ]
    message: dict[str, Any] = {"role": "assistant", "content": "".join(str(each["token"]) for each in content)}
    if calls:
        call = {"name": "look", "arguments": json.dumps({"at": SERIAL})}
        message["tool_calls"] = [{"id": f"call_{SERIAL}", "type": "function", "function": call}]
    finish_reason = "tool_calls" if calls else "stop"
    choice = {"index": 0, "message": message, "logprobs": {"content": content}, "finish_reason": finish_reason}
    return json.dumps(choice).encode()
