"""What the middleware costs: CPU of a step of `create_agent` with it, next to plain `create_agent`.

    python -m benchmarks.middleware [--requests 32] [--tool-turns 3] [--tokens 100] [--rounds 5]

A scripted model without HTTP or delay, the same agent, the same conversation, an in-memory saver on both sides; the
ways take turns, so that what else the machine does falls on all of them. Prints CPU time of this process for each step,
and how it compares with the plain agent. Run n times (`plain, n times`) that makes as many model calls as the
middleware does: as many steps of a graph, and checkpoints, besides.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

import typer
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langgraph.checkpoint.memory import InMemorySaver
from rich.console import Console
from rich.table import Table

from benchmarks.overhead import QUESTION, Cost, Load, Round, by_hand, look, scripted, thread
from entcent_agents.middleware import EntropyCentroidMiddleware

SIZES: Final = (1, 4, 8)


class Nothing(AgentMiddleware[Any, Any, Any]):
    """Does nothing: what LangChain itself takes for there being a middleware."""

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        """Calls the model."""
        return await handler(request)


def with_middleware(load: Load, middleware: AgentMiddleware[Any, Any, Any]) -> Round:
    """The requests, each by one agent with the middleware."""
    model = scripted(load)

    async def run(load: Load) -> None:
        agent = create_agent(model, [look], middleware=[middleware], checkpointer=InMemorySaver())
        asked = [agent.ainvoke({"messages": [QUESTION]}, thread(str(request))) for request in range(load.requests)]
        await asyncio.gather(*asked)

    return run


def plain_times(load: Load, n: int) -> Round:
    """The plain agent, n times for each request."""
    run = by_hand(scripted(load))
    return lambda load: run(replace(load, n=n))


def ways(load: Load) -> Mapping[str, Round]:
    """What is compared, the plain agent first."""
    found = {"plain": plain_times(load, 1), "a middleware that does nothing": with_middleware(load, Nothing())}
    for n in SIZES:
        found[f"middleware, n={n}"] = with_middleware(load, EntropyCentroidMiddleware(n))
    return found | {f"plain, {n} times": plain_times(load, n) for n in SIZES if n > 1}


async def measured(load: Load, rounds: int) -> Table:
    """Measure, and make the table."""
    table = Table("", "CPU of a step, ms", "to plain", title=f"{load.requests} requests of {load.tool_turns + 1} steps")
    runs = ways(load)
    costs = {name: Cost() for name in runs}
    for run in runs.values():
        await run(replace(load, requests=1))
    for _ in range(rounds):
        for name, run in runs.items():
            await costs[name].measure(run, load)
    plain = next(iter(costs.values())).cpu_seconds
    for name, cost in costs.items():
        each = 1e3 * statistics.median(cost.cpu_seconds) / load.turns
        ratio = statistics.median(own / alone for own, alone in zip(cost.cpu_seconds, plain, strict=True))
        table.add_row(name, f"{each:.2f}", f"{ratio:.2f}")
    return table


def main(
    requests: Annotated[int, typer.Option(min=1)] = 32,
    tool_turns: Annotated[int, typer.Option(min=0)] = 3,
    tokens: Annotated[int, typer.Option(min=1)] = 100,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Measure and print."""
    load = Load(requests=requests, n=1, tool_turns=tool_turns, tokens=tokens)
    Console().print(asyncio.run(measured(load, rounds)))


if __name__ == "__main__":
    typer.run(main)
