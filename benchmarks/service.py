"""The service of graphs/service under load: many requests at once, with one rollout each and with several.

    python -m benchmarks.service [--requests 200] [--at-once 200] [--rollouts 4] [--delay-seconds 0.3]

PostgreSQL, the scripted model, the service and its clients are four processes on this machine. Every request follows
its stream and is to make one refund. Prints how long the first event and the answer took, what the service spent, and
what was left. Ends with exit code 1 where refunds are missing or doubled, requests failed, or anything was left.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final, LiteralString

import httpx2
import numpy as np
import psutil
import psycopg
import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from benchmarks.serving import in_a_process
from benchmarks.shop_model import serve
from tests.graphs.service_process import Service, service
from tests.ledger.postgres_server import postgres, why_none

_SETTLING_SECONDS: Final = 30.0
_REFUNDS: Final = "SELECT count(*) FROM shop_refunds"
_LEFT: Final[dict[str, LiteralString]] = {
    "unsettled calls": "SELECT count(*) FROM entcent_effects WHERE NOT settled",
    "threads of rollouts": """SELECT (SELECT count(DISTINCT thread_id) FROM checkpoints)
                            - (SELECT count(DISTINCT thread) FROM service_requests)""",
    "doubled refunds": "SELECT count(*) - count(DISTINCT of_order) FROM shop_refunds",
    "running requests": "SELECT count(*) FROM service_requests WHERE state = 'running'",
}


@dataclass(kw_only=True)
class Load:
    """What was measured of one lot of requests.

    Attributes:
        first: Seconds to the first event of each.
        begun: Seconds to the first event of a rollout, after its place in line.
        answer: Seconds to the reply of each that had one.
        errors: What the others ended in.
        rss: MB of the service after each fifth of the requests.
    """

    first: list[float] = field(default_factory=list[float])
    begun: list[float] = field(default_factory=list[float])
    answer: list[float] = field(default_factory=list[float])
    errors: list[str] = field(default_factory=list[str])
    rss: list[float] = field(default_factory=list[float])
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mb: float = 0.0
    most_calls: int = 0
    calls: int = 0
    refunds: int = 0
    asked: int = 0
    left: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def is_right(self) -> bool:
        """Whether each request was answered and made its refund once, and nothing is left."""
        done = len(self.answer) == self.refunds == self.asked
        return done and not self.errors and not any(self.left.values())


async def ask(client: httpx2.AsyncClient, order: str, load: Load) -> None:
    """One request, followed to its end."""
    began, told, works = time.perf_counter(), "", False
    try:
        async with client.stream("POST", "/requests/stream", json={"question": f"Refund 1 of {order}"}) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    if not told:
                        load.first.append(time.perf_counter() - began)
                    told = line[5:]
                    if not works and json.loads(told)["type"].startswith("entcent."):
                        works = True
                        load.begun.append(time.perf_counter() - began)
        result = json.loads(told or "{}")
        if result.get("state") == "finished":
            load.answer.append(time.perf_counter() - began)
        else:
            load.errors.append(f"{answer.status_code} {result.get('error', result.get('state'))}")
    except httpx2.HTTPError as error:
        load.errors.append(type(error).__name__)


async def ask_all(running: Service, orders: Sequence[str], at_once: int) -> Load:
    """All requests, so many at once; each begins as soon as there is room."""
    load, room = Load(), asyncio.Semaphore(at_once)
    process = psutil.Process(running.process.pid)
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx2.AsyncClient(base_url=running.address, timeout=600.0, limits=limits) as client:

        async def one(number: int, order: str) -> None:
            async with room:
                await ask(client, order, load)
            if number % max(1, len(orders) // 5) == 0:
                load.rss.append(process.memory_info().rss / 1e6)

        await asyncio.gather(*(one(number, order) for number, order in enumerate(orders, 1)))
    return load


def gauges(running: Service) -> dict[str, int]:
    """What the service says is under way."""
    found: dict[str, Any] = {}
    for family in text_string_to_metric_families(httpx2.get(f"{running.address}/metrics").text):
        for sample in family.samples:
            found[f"{sample.name} {sample.labels.get('state', '')}".strip()] = sample.value
    names = {
        "requests": "entcent_requests_under_way",
        "model requests": "entcent_model_requests under way",
        "model requests that wait": "entcent_model_requests waiting",
    }
    return {short: int(found.get(name, 0)) for short, name in names.items()}


def measured(running: Service, database: str, model: str, orders: Sequence[str], at_once: int) -> Load:
    """Ask, and count what came of it and what is left."""
    process = psutil.Process(running.process.pid)
    before, counted = _cpu(process), _count(model)
    Path(f"/proc/{running.process.pid}/clear_refs").write_text("5")  # the peak begins anew
    refunds = _number(database, _REFUNDS)
    began = time.perf_counter()
    load = asyncio.run(ask_all(running, orders, at_once))
    load.seconds = time.perf_counter() - began
    load.cpu_seconds = _cpu(process) - before
    load.peak_mb = _peak_mb(running.process.pid)
    load.asked = len(orders)
    load.most_calls, load.calls = _count(model)["most"], _count(model)["requests"] - counted["requests"]
    load.refunds = _number(database, _REFUNDS) - refunds
    load.left = _left(running, process, database)
    return load


def _left(running: Service, process: psutil.Process, database: str) -> dict[str, int]:
    """What is left when nothing should be, as soon as it is nothing, or after a while."""
    until = time.monotonic() + _SETTLING_SECONDS
    while True:
        left = gauges(running)
        port = int(running.address.rpartition(":")[2])
        left["clients"] = sum(each.laddr.port == port and bool(each.raddr) for each in process.net_connections("tcp"))
        left |= {name: _number(database, counted) for name, counted in _LEFT.items()}
        if not any(left.values()) or time.monotonic() > until:
            return left
        time.sleep(1.0)


def _number(database: str, counted: LiteralString) -> int:
    with psycopg.connect(database) as connection:
        row = connection.execute(counted).fetchone()
    return int(row[0]) if row else 0


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM"))


def _count(model: str) -> dict[str, int]:
    return httpx2.get(f"{model}/count").json()


def table_of(loads: dict[int, Load], limit: int) -> Table:
    """Side by side."""
    table = Table("", *(f"n={rollouts}" for rollouts in loads))

    def quantiles(seconds: Sequence[float]) -> str:
        return " / ".join(f"{value:.1f}" for value in np.quantile(seconds, (0.5, 0.95, 1.0))) if seconds else "none"

    rows = {
        "seconds to the first event, p50 / p95 / most": lambda load: quantiles(load.first),
        "seconds to the first rollout's, p50 / p95 / most": lambda load: quantiles(load.begun),
        "seconds to the answer, p50 / p95 / most": lambda load: quantiles(load.answer),
        "requests a second": lambda load: f"{load.asked / load.seconds:.1f}",
        "CPU of the service a request, ms": lambda load: f"{1e3 * load.cpu_seconds / load.asked:.0f}",
        "peak RSS of the service, MB": lambda load: f"{load.peak_mb:.0f}",
        "RSS after each fifth, MB": lambda load: " ".join(f"{each:.0f}" for each in load.rss),
        "model requests": lambda load: str(load.calls),
        f"model requests at once, most (limit {limit})": lambda load: str(load.most_calls),
        "errors": lambda load: str(len(load.errors)),
        "refunds made, of": lambda load: f"{load.refunds}, {load.asked}",
        "left over": lambda load: ", ".join(f"{n} {what}" for what, n in load.left.items() if n) or "0",
    }
    for name, shown in rows.items():
        table.add_row(name, *(shown(load) for load in loads.values()))
    return table


def main(
    requests: Annotated[int, typer.Option(min=1, help="How many, of each kind.")] = 200,
    at_once: Annotated[int, typer.Option(min=1, help="Under way at the same time.")] = 200,
    rollouts: Annotated[
        list[int] | None, typer.Option(min=1, help="Rollouts of a request; default: 1, then 4.")
    ] = None,
    delay_seconds: Annotated[float, typer.Option(min=0.0, help="How long the model takes for an answer.")] = 0.3,
    limit: Annotated[int, typer.Option(min=1, help="Model calls at once that the service may make.")] = 64,
    connections: Annotated[int, typer.Option(min=2, help="To PostgreSQL.")] = 16,
) -> None:
    """Load the service, and compare."""
    if reason := why_none():
        raise SystemExit(reason)
    console, loads = Console(width=110), dict[int, Load]()
    with TemporaryDirectory() as folder, postgres() as database, in_a_process(serve, delay_seconds) as model:
        shared = {"database": database, "model": f"{model}#shop", "tool_calling": "native", "max_requests": at_once}
        shared |= {"max_connections": limit, "database_connections": connections, "max_seconds": 600}
        for each in rollouts or (1, 4):
            with service(Path(folder, f"log-{each}"), **shared, n=each, ask_before_refunds=False) as running:
                asyncio.run(ask_all(running, _orders(database, f"W{each}", 4), 4))  # what is loaded late is loaded now
                loads[each] = measured(running, database, model, _orders(database, f"L{each}", requests), at_once)
        console.print(table_of(loads, limit))
    for load in loads.values():
        for error in sorted(set(load.errors)):
            console.print(f"{load.errors.count(error)} x {error}", style="red")
    raise typer.Exit(0 if all(load.is_right for load in loads.values()) else 1)


def _orders(database: str, name: str, number: int) -> list[str]:
    """New orders that can be refunded."""
    names = [f"{name}-{i}" for i in range(number)]
    with psycopg.connect(database, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.executemany("INSERT INTO shop_orders VALUES (%s, 'a book', 10)", [(name,) for name in names])
    return names


if __name__ == "__main__":
    typer.run(main)
