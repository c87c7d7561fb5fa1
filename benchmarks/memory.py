"""Whether requests leave anything in memory: what is there after a hundred of them, and after thousands more.

    python -m benchmarks.memory [--requests 10000] [--trace]

Small requests over HTTP, some at once, on one graph with an in-memory saver, whose thread is deleted after each request
as a service would. Prints the resident set of this process, how many objects the garbage collector knows, and with
`--trace` what Python allocated (and where it grew). Ends with exit code 1 where there is more at the end than after the
first thousand, by more than a limit. Reads /proc, so on Linux.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import tracemalloc
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver
from rich.console import Console
from rich.table import Table

from benchmarks.overhead import QUESTION, TOP, look, thread
from benchmarks.scripted_server import serving
from entcent_agents.chat.model import ChatLogprobs, aclose_clients
from entcent_agents.prebuilt import entropy_centroid_graph

OBJECTS_LIMIT: Final = 1.01
RESIDENT_LIMIT: Final = 1.1
WARM_UP: Final = 0.1
"""Share of the requests after which nothing may grow any more."""
AT_ONCE: Final = 8
TOKENS: Final = 10


@dataclass(frozen=True, kw_only=True)
class Held:
    """What the process holds after so many requests."""

    requests: int
    resident_bytes: int
    kinds: Counter[str]
    traced_bytes: int

    @property
    def objects(self) -> int:
        """That the garbage collector knows."""
        return self.kinds.total()


def held(requests: int) -> Held:
    """Now."""
    gc.collect()
    return Held(
        requests=requests,
        resident_bytes=int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize(),
        kinds=Counter(type(each).__qualname__ for each in gc.get_objects()),
        traced_bytes=tracemalloc.get_traced_memory()[0],
    )


async def run(base_url: str, requests: int, n: int) -> list[Held]:
    """Make the requests; what was held after a hundred of them and after each tenth part."""
    saver = InMemorySaver()
    model = ChatLogprobs(model="scripted", base_url=base_url, top_logprobs=TOP)
    graph: Any = entropy_centroid_graph(create_agent(model, [look]), n=n, effects={"look": "READ"}, checkpointer=saver)

    async def one(number: int) -> None:
        result = await graph.ainvoke({"messages": [QUESTION]}, thread(str(number)))
        if result["selection"]["status"] != "finished":
            sys.exit(f"A request did not finish: {result['selection']}")
        await saver.adelete_thread(str(number))

    found: list[Held] = []
    looks = {100, *range(0, requests + 1, requests // 10)}
    for start in range(0, requests, AT_ONCE):
        await asyncio.gather(*[one(number) for number in range(start, start + AT_ONCE)])
        if looks.intersection(range(start + 1, start + AT_ONCE + 1)):
            found.append(held(start + AT_ONCE))
            Console(stderr=True).print(f"{found[-1].requests:,} requests, {found[-1].objects:,} objects")
    await aclose_clients()
    return found


def show(found: list[Held]) -> bool:
    """Print; whether there is more at the end than a limit allows."""
    table = Table("requests", "resident, MB", "objects", "traced, MB", title="What the process holds")
    for each in found:
        sizes = [f"{size / 1e6:.1f}" for size in (each.resident_bytes, each.traced_bytes)]
        table.add_row(f"{each.requests:,}", sizes[0], f"{each.objects:,}", sizes[1])
    console = Console()
    console.print(table)
    last = found[-1]
    warm = next(each for each in found if each.requests >= WARM_UP * last.requests)
    grown = last.kinds - warm.kinds
    console.print("Grown most:", ", ".join(f"{kind} +{number}" for kind, number in grown.most_common(8)) or "nothing")
    resident = last.resident_bytes / warm.resident_bytes
    return last.objects / warm.objects > OBJECTS_LIMIT or resident > RESIDENT_LIMIT


def main(
    requests: Annotated[int, typer.Option(min=1000)] = 10_000,
    n: Annotated[int, typer.Option(min=1)] = 2,
    trace: Annotated[bool, typer.Option(help="Where memory is allocated; several times slower.")] = False,
) -> None:
    """Run, print, and end with exit code 1 where memory grows."""
    if trace:
        tracemalloc.start()
    with serving(TOKENS, TOP, 1) as base_url:
        grows = show(asyncio.run(run(base_url, requests, n)))
    if grows:
        sys.exit("Requests leave something in memory.")


if __name__ == "__main__":
    typer.run(main)
