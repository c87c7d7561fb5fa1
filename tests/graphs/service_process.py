"""The service in a process of its own, and a shopkeeper for its model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.chat_server import ChatServer, Reply, Request, says
from tests.graphs.listening import free_port, wait_until_it_listens
from tests.graphs.model import calls

ROOT = Path(__file__).parents[2]


class Shopkeeper:
    """A model that looks an order up, refunds 1 of it (and 2, `twice`) if asked to, and says `done` and the question.

    It does not answer questions with `wait` in them before `open` is set.
    """

    def __init__(self) -> None:
        self.open = threading.Event()
        self.server = ChatServer(self._answer, models=[{"id": "scripted"}])

    def _answer(self, request: Request) -> list[Reply]:
        messages = request.body["messages"]
        asked = max(i for i, message in enumerate(messages) if message["content"].startswith("Q: "))
        question = messages[asked]["content"]
        order = question.split()[-1]
        turns = [calls("look_up_order", order=order)]
        if "refund" in question:
            turns.append(calls("refund", order=order, amount=1.0))
        if "twice" in question:
            turns.append(calls("refund", order=order, amount=2.0))
        said = sum(message["role"] == "assistant" for message in messages[asked:])
        reply = turns[said] if said < len(turns) else says(f"done: {question}")
        after = self.open if "wait" in question else None
        return [Reply(tokens=reply.tokens, after=after)] * request.n

    def sampled(self, question: str) -> int:
        """How many choices were asked for by prompts that end with the question."""
        return sum(request.n for request in self.server.requests if request.body["messages"][-1]["content"] == question)


@dataclass(frozen=True)
class Service:
    """One that runs; `address` is where."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Tell it to end, and wait: uvicorn ends by the signal that it was sent, when it has tidied up."""
        self.process.send_signal(how)
        assert self.process.wait(60) == -how
        assert how is signal.SIGKILL or "Application shutdown complete" in self.log.read_text()


@contextmanager
def service(log: Path, **settings: object) -> Iterator[Service]:
    """The service with these settings, ENTCENT_ left out; ended by then, or else killed."""
    port = free_port()
    environment = {f"ENTCENT_{name.upper()}": str(value) for name, value in settings.items()}
    with log.open("wb") as writing:
        process = subprocess.Popen(
            [sys.executable, "-m", "graphs.service"],
            cwd=ROOT,
            env={**os.environ, "LANGSMITH_TRACING": "false", "ENTCENT_PORT": str(port), **environment},
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_it_listens(process, port, log)
        yield Service(f"http://127.0.0.1:{port}", process, log)
    finally:
        process.kill()
        process.wait(60)
