"""Calls to servers that have room for so many: adaptive, behind a semaphore of just the right size, and neither.

    python -m benchmarks.concurrency [--calls 240] [--room 16]

Servers refuse with 429 above their room (with and without `Retry-After`), get slow in proportion or by the square,
heal, or have room for all. Each is a real one on a socket and in a process of its own, new for each way. Calls come
all at once; to servers that get slow, half as fast again as they can be answered. "Neither" is the SDK's client
alone. Prints seconds, 429s, calls that failed after two retries, most requests at once, and the CPU time of a permit.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Annotated, Any, cast
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
class Case:
    """A server and how it is asked.

    Attributes:
        server: Its script.
        interval_seconds: From one call to the next.
        healed: Its room after a third of the calls; what follows is timed alone. None: it stays as it is.
    """

    server: Crowded
    interval_seconds: float = 0.0
    healed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """What became of all calls to one server."""

    seconds: float
    refused: int
    failed: int
    most: int
    limit: int | None


def serve(script: Crowded, pipe: Connection) -> None:
    """Answer, change the room when told to, and count at the end."""
    with ChatServer(script) as http:
        pipe.send(http.base_url)
        while (room := pipe.recv()) is not None:
            script.room = room
        pipe.send((script.refused, script.most))


@contextmanager
def served(script: Crowded) -> Iterator[Connection]:
    """The server's end of a pipe: it tells its address first."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(script, theirs), daemon=True)
    process.start()
    try:
        yield cast(Connection, ours)
    finally:
        process.join(10)


async def asked(model: ChatLogprobs, calls: int, interval_seconds: float, at_once: int | None) -> list[bool]:
    """Whether each call was answered."""
    right: Any = asyncio.Semaphore(at_once) if at_once else nullcontext()

    async def ask(number: int) -> bool:
        await asyncio.sleep(number * interval_seconds)
        async with right:
            try:
                await model.ainvoke("Hi")
            except ModelServerError:
                return False
            return True

    return await asyncio.gather(*map(ask, range(calls)))


def found(case: Case, calls: int, *, right: bool) -> Found:
    """Ask so many times.

    Args:
        case: Whom.
        calls: How often.
        right: Whether behind a semaphore of the right size.
    """

    async def timed(pipe: Connection) -> tuple[float, list[bool]]:
        model = ChatLogprobs(model="crowded", base_url=pipe.recv())
        answered, room = list[bool](), case.server.room
        if case.healed:
            answered += await asked(model, calls // 3, 0.0, room if right else None)
            room = case.healed
            pipe.send(room)
        began = time.perf_counter()
        answered += await asked(model, calls, case.interval_seconds, room if right else None)
        seconds = time.perf_counter() - began
        await aclose_clients()
        return seconds, answered

    forget_servers()
    with served(case.server) as pipe:
        seconds, answered = asyncio.run(timed(pipe))
        pipe.send(None)
        refused, most = pipe.recv()
    limit = next((each.limit for each in concurrency()), None)
    return Found(seconds=seconds, refused=refused, failed=answered.count(False), most=most, limit=limit)


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
    calls: Annotated[int, typer.Option(help="How many.")] = 240,
    room: Annotated[int, typer.Option(help="How many the servers take.")] = 16,
    seconds: Annotated[float, typer.Option(help="How long an answer takes.")] = 0.5,
) -> None:
    """Ask each server in each way."""
    console = Console(width=120)
    crowded = Crowded(room, seconds)
    rising, slow = seconds / room / 1.5, replace(crowded, refuses=False)
    cases = {
        "429": Case(server=crowded),
        "429, Retry-After: 1": Case(server=replace(crowded, retry_after="1")),
        "429, then four times the room": Case(server=crowded, healed=4 * room),
        "slow in proportion": Case(server=slow, interval_seconds=rising),
        "slow by the square": Case(server=replace(slow, slows=2.0), interval_seconds=rising),
        "room for all": Case(server=replace(crowded, room=calls)),
    }
    for name, case in cases.items():
        table, best = Table(name, "seconds", "ratio", "429s", "failed", "most at once", "limit at the end"), 0.0
        for way in ("semaphore", "adaptive", "neither"):
            with unlimited() if way == "neither" else nullcontext():
                each = found(case, calls, right=way == "semaphore")
            best = best or each.seconds
            counts = (each.refused, each.failed, each.most, each.limit or "")
            table.add_row(way, f"{each.seconds:.1f}", f"{each.seconds / best:.2f}", *map(str, counts))
        console.print(table)
    console.print(f"a permit: {1e6 * asyncio.run(permit_seconds()):.1f} µs of CPU time")


if __name__ == "__main__":
    typer.run(main)
