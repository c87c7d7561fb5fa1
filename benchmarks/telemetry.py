"""What it costs to be observed: CPU time of requests, next to that of the same requests without.

    python -m benchmarks.telemetry [--requests 30] [--n 8] [--turns 4]

A scripted model without latency, 100 scored tokens a turn and a READ tool between turns, so that the ratios are those
of a model that costs nothing: the worst there can be. The ways take turns, one request each, so that what else the
computer does meets all of them; figures are medians, ratios are of medians.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from langchain.agents import create_agent
from langchain_core.tools import tool
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from rich.console import Console
from rich.table import Table

from entcent_agents.effects import READ
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.recordings import Records
from entcent_agents.telemetry import Spans
from entcent_agents.testing import ScriptedChat, ScriptedTurn


@tool
async def look(x: int) -> str:
    """Look at something."""
    return f"seen {x}"


class Counted(SpanExporter):
    """Sends nothing anywhere."""

    def __init__(self) -> None:
        self.spans = 0

    def export(self, spans: Any) -> SpanExportResult:
        """Count them."""
        self.spans += len(spans)
        return SpanExportResult.SUCCESS


class Written(logging.Handler):
    """Formats, and writes to nowhere."""

    def emit(self, record: logging.LogRecord) -> None:
        """Format it."""
        self.format(record)


def listen(level: int) -> None:
    """Someone hears what the library logs from this level on, and nobody else does."""
    logger = logging.getLogger("entcent_agents")
    logger.handlers = [Written()]
    logger.setLevel(level)


def graph_of(n: int, turns: int, **settings: Any) -> Any:
    """N rollouts of so many turns; no two of a round make the same call."""
    entropy = ([1.5] * 10 + [0.01] * 40) * 2
    scripts = [
        [
            *(
                ScriptedTurn(tool_calls=[("look", {"x": 100 * index + turn})], entropy=entropy)
                for turn in range(turns - 1)
            ),
            ScriptedTurn(text=f"answer {index}", entropy=entropy),
        ]
        for index in range(n)
    ]
    agent = create_agent(ScriptedChat(scripts=scripts), [look])
    return entropy_centroid_graph(agent, n=n, effects={"look": READ}, **settings)


def main(
    requests: Annotated[int, typer.Option(help="Requests of each way.")] = 30,
    n: Annotated[int, typer.Option("-n", "--n", help="Rollouts of a request.")] = 8,
    turns: Annotated[int, typer.Option(help="Turns of a rollout.")] = 4,
) -> None:
    """Measure all ways and print what they cost."""
    exporter = Counted()
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    with TemporaryDirectory() as folder:
        whole = Records(Path(folder, "all"), which="all", text=True, redact=lambda text: text.replace("9", "*"))
        ways: dict[str, tuple[int, dict[str, Any]]] = {
            "nothing": (logging.CRITICAL, {}),
            "lines at INFO": (logging.INFO, {}),
            "lines at DEBUG": (logging.DEBUG, {}),
            "spans": (logging.CRITICAL, {"spans": Spans(tracer_provider=provider)}),
            "records, selected": (logging.CRITICAL, {"records": Records(Path(folder, "one"))}),
            "records, all, with redacted text": (logging.CRITICAL, {"records": whole}),
        }
        found = measured(ways, lambda settings: graph_of(n, turns, **settings), requests)
    provider.shutdown()
    spans = exporter.spans / (requests + 1)
    table = Table("observed by", "CPU ms a rollout turn", "ratio", title=f"{spans:.0f} spans a request", box=None)
    for name, seconds in found.items():
        median = statistics.median(seconds)
        ratio = median / statistics.median(found["nothing"])
        table.add_row(name, f"{1000 * median / (n * turns):.3f}", f"{ratio:.3f}")
    Console().print(table)


def measured(
    ways: dict[str, tuple[int, dict[str, Any]]], make: Callable[[dict[str, Any]], Any], requests: int
) -> dict[str, list[float]]:
    """CPU seconds of each request, in all threads, by way; after one of each to warm up."""
    graphs = {name: make(settings) for name, (_, settings) in ways.items()}
    found: dict[str, list[float]] = {name: [] for name in ways}

    async def run() -> None:
        for request in range(requests + 1):
            for name, (level, _) in ways.items():
                listen(level)
                started = time.process_time()
                await graphs[name].ainvoke({"messages": [("user", "go")]})
                if request:
                    found[name].append(time.process_time() - started)

    asyncio.run(run())
    return found


if __name__ == "__main__":
    typer.run(main)
