"""Calls to servers that have room for so many: adaptive, behind a semaphore of just the right size, and neither.

    python -m benchmarks.concurrency [--calls 600] [--room 16]

Servers refuse with 429 above their room (with and without `Retry-After`), get slow in proportion or worse, heal, or
have no limit. Each is a real one on a socket, new for each way. "Neither" is the SDK's client alone. Prints seconds,
429s, calls that failed after two retries, most requests at once, and what a permit costs in CPU time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any
from unittest.mock import patch

import typer
from openai import DefaultAsyncHttpxClient
from rich.console import Console
from rich.table import Table

from entcent_agents.chat.adaptive import Kind
from entcent_agents.chat.admission import AdmittedClient
from entcent_agents.chat.concurrency import Endpoint, concurrency
from entcent_agents.chat.learnt import forget_servers
from entcent_agents.chat.model import ChatLogprobs, aclose_clients
from entcent_agents.errors import ModelServerError
from tests.chat_server import ChatServer
from tests.crowded_server import Crowded


@dataclass(frozen=True, kw_only=True)
class Found:
    """What became of all calls to one server."""

    seconds: float
    refused: int
    failed: int
    most: int
    limit: int | None


async def found(server: Crowded, calls: int, way: str, healed: int | None) -> Found:
    """Ask so many times at once; a server that heals has more room after a third of the calls."""
    with ChatServer(server) as http:
        model = ChatLogprobs(model="crowded", base_url=http.base_url)
        right: Any = asyncio.Semaphore(server.room) if way == "semaphore" else nullcontext()

        async def ask() -> bool:
            async with right:
                try:
                    await model.ainvoke("Hi")
                except ModelServerError:
                    return False
                return True

        began = time.perf_counter()
        taken = await asyncio.gather(*(ask() for _ in range(calls // 3 if healed else calls)))
        if healed:
            began, server.room = time.perf_counter(), healed
            right = asyncio.Semaphore(healed) if way == "semaphore" else nullcontext()
            taken += await asyncio.gather(*(ask() for _ in range(calls)))
        seconds = time.perf_counter() - began
        limit = next((each.limit for each in concurrency()), None)
        await aclose_clients()
    forget_servers()
    return Found(seconds=seconds, refused=server.refused, failed=taken.count(False), most=server.most, limit=limit)


@contextmanager
def unlimited() -> Iterator[None]:
    """The SDK's client as it is."""
    with patch.object(AdmittedClient, "send", DefaultAsyncHttpxClient.send):
        yield


async def permit_seconds(times: int = 20_000) -> float:
    """CPU time of a permit that need not be waited for."""
    endpoint, kind = Endpoint("nowhere"), Kind("m", 1, False, 10, 12)
    began = time.process_time()
    for _ in range(times):
        (await endpoint.permit(256)).answered(kind, 0.1)
    return (time.process_time() - began) / times


def main(
    calls: Annotated[int, typer.Option(help="All at once.")] = 600,
    room: Annotated[int, typer.Option(help="How many the servers take.")] = 16,
    seconds: Annotated[float, typer.Option(help="How long an answer takes.")] = 0.25,
) -> None:
    """Ask each server in each way."""
    console = Console()
    servers: dict[str, tuple[Callable[[], Crowded], int | None]] = {
        "429": (lambda: Crowded(room, seconds), None),
        "429, Retry-After: 1": (lambda: Crowded(room, seconds, retry_after="1"), None),
        "slow in proportion": (lambda: Crowded(room, seconds, refuses=False), None),
        "slow by the square": (lambda: Crowded(room, seconds, refuses=False, slows=2.0), None),
        "429, then room for four times as many": (lambda: Crowded(room, seconds), 4 * room),
        "no limit": (lambda: Crowded(100_000, seconds), None),
    }
    table = Table("server", "way", "seconds", "ratio", "429s", "failed", "most at once", "limit at the end")
    for name, (server, healed) in servers.items():
        right = 0.0
        for way in ("semaphore", "adaptive", "neither"):
            with unlimited() if way == "neither" else nullcontext():
                each = asyncio.run(found(server(), calls, "neither" if "no limit" in name else way, healed))
            right = right or each.seconds
            cells = (
                f"{each.seconds:.1f}",
                f"{each.seconds / right:.2f}",
                each.refused,
                each.failed,
                each.most,
                each.limit,
            )
            table.add_row(name, way, *map(str, cells))
    console.print(table)
    console.print(f"a permit: {1e6 * asyncio.run(permit_seconds()):.1f} µs of CPU time")


if __name__ == "__main__":
    typer.run(main)
