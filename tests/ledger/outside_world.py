"""What tools touch in these tests: a file that another process owns, and processes that call its owner."""

from __future__ import annotations

import asyncio
import socketserver
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from entcent_agents.ledger import EffectLedger, PostgresLedger, SqliteLedger
from tests.forks import FORKS

QUESTION = "?"


@dataclass
class World:
    """The owner of the file: it appends a line for each effect, and then says so.

    Who asks whether there is a line with some word is answered once everybody who came earlier is done, those who are
    dead by now included.
    """

    folder: Path
    seconds: float = 0.0
    lock: threading.Condition = field(default_factory=threading.Condition)
    busy: set[int] = field(default_factory=set[int])
    came: int = 0

    @property
    def address(self) -> str:
        return str(self.folder / "socket")

    @property
    def effects(self) -> list[str]:
        file = self.folder / "effects"
        return file.read_text().splitlines() if file.exists() else []

    def enter(self) -> int:
        """Number somebody who comes."""
        with self.lock:
            self.came += 1
            self.busy.add(self.came)
            return self.came

    def leave(self, number: int) -> None:
        """Done with this one."""
        with self.lock:
            self.busy.discard(number)
            self.lock.notify_all()

    def happened(self, word: str, number: int) -> bool:
        """Whether a line has this word, when all who came before this number are done."""
        with self.lock:
            self.lock.wait_for(lambda: min(self.busy) >= number)
            return any(word in line.split() for line in self.effects)


@contextmanager
def world(seconds: float = 0.0) -> Generator[World]:
    """A world whose effects take a while before they are confirmed."""
    with tempfile.TemporaryDirectory(prefix="entcent-world-") as name:
        made = World(Path(name), seconds)

        class Handler(socketserver.StreamRequestHandler):
            server: Owner

            def handle(self) -> None:
                number = self.server.numbers.pop(self.request)
                try:
                    self.wfile.write(self.answer(number))
                except OSError:
                    return  # the caller was killed
                finally:
                    made.leave(number)

            def answer(self, number: int) -> bytes:
                line = self.rfile.readline().decode()
                if not line.endswith("\n"):
                    return b""
                if line.startswith(QUESTION):
                    return b"yes\n" if made.happened(line[1:].strip(), number) else b"no\n"
                with made.lock, (made.folder / "effects").open("a") as file:
                    file.write(line)
                threading.Event().wait(made.seconds)
                return b"done\n"

        class Owner(socketserver.ThreadingUnixStreamServer):
            request_queue_size = 128
            numbers: ClassVar[dict[Any, int]] = {}

            def process_request(self, request: Any, client_address: Any) -> None:
                self.numbers[request] = made.enter()  # in the order in which they came
                super().process_request(request, client_address)

        with Owner(made.address, Handler) as server:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            yield made
            server.shutdown()


async def touch(address: str, line: str) -> str:
    """The tool: one effect, told to its owner."""
    reader, writer = await asyncio.open_unix_connection(address)
    writer.write(f"{line}\n".encode())
    await writer.drain()
    said = await reader.readline()
    writer.close()
    return said.decode().strip()


def open_ledger(where: str) -> EffectLedger:
    """A ledger in a file, or the one of a connection string."""
    return PostgresLedger(where) if "dbname=" in where else SqliteLedger(where)


def child(target: Any, *arguments: Any) -> Any:
    """A started process that runs a function of `tests.ledger.children`."""
    process = FORKS.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process
