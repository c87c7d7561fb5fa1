"""What tools touch in these tests: a file that another process owns, and processes that call its owner."""

from __future__ import annotations

import asyncio
import multiprocessing
import socketserver
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from entcent_agents.ledger import EffectLedger, PostgresLedger, SqliteLedger

# Children are forked from a process that has these modules loaded: a start takes milliseconds, and a kill hits work.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.ledger.children", "psycopg", "sqlite3"])


@dataclass
class World:
    """The owner of the file: it appends a line for each effect, and then says so."""

    folder: Path
    seconds: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def address(self) -> str:
        return str(self.folder / "socket")

    @property
    def effects(self) -> list[str]:
        file = self.folder / "effects"
        return file.read_text().splitlines() if file.exists() else []


@contextmanager
def world(seconds: float = 0.0) -> Generator[World]:
    """A world whose effects take a while before they are confirmed."""
    with tempfile.TemporaryDirectory(prefix="entcent-world-") as name:
        made = World(Path(name), seconds)

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                line = self.rfile.readline().decode()
                if not line.endswith("\n"):
                    return
                with made.lock, (made.folder / "effects").open("a") as file:
                    file.write(line)
                threading.Event().wait(made.seconds)
                try:
                    self.wfile.write(b"done\n")
                except OSError:
                    return  # the caller was killed

        with socketserver.ThreadingUnixStreamServer(made.address, Handler) as server:
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
