"""What the library's own work costs: rollouts next to the same agent run by hand, and how long the loop is held up.

    python -m benchmarks.overhead [--requests 64] [--n 8] [--tool-turns 3] [--tokens 100] [--rounds 5]

64 requests of 8 rollouts at once, and beside them as many runs of the same agent under `asyncio.gather`: the same
chat model, the same server (in a process of its own, without a delay), top 20 alternatives, and an in-memory saver on
both sides. The two take turns, so that what else the machine does falls on both. No two answers are alike: after their
first turn rollouts share no request. Prints CPU time of this process for each turn of a rollout, and the longest CPU
time in a row in which the event loop gave no other task a turn. The limit, and exit code 1, are for the first ratio.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import uuid4

import numpy as np
import typer
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from rich.console import Console
from rich.table import Table

from benchmarks.scripted_server import serving
from entcent_agents.chat.model import ChatLogprobs, aclose_clients
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.testing import ScriptedChat, ScriptedTurn

LIMIT: Final = 1.3
TICK_SECONDS: Final = 0.001
TOP: Final = 20
QUESTION: Final = ("user", "Look where you have to, and say what is there.")

Round = Callable[["Load"], Awaitable[object]]


@tool
async def look(at: str) -> str:
    """See what is somewhere."""
    return f"{at} is there"


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is run at once."""

    requests: int
    n: int
    tool_turns: int
    tokens: int

    @property
    def turns(self) -> int:
        """Of all rollouts together."""
        return self.requests * self.n * (self.tool_turns + 1)


@dataclass
class Cost:
    """What rounds of one way took: CPU seconds, and the longest of them in a row that the loop gave nobody a turn."""

    cpu_seconds: list[float] = field(default_factory=list[float])
    away_seconds: list[float] = field(default_factory=list[float])

    async def measure(self, run: Round, load: Load) -> None:
        """Run once."""
        gc.collect()
        watch = asyncio.create_task(self._away())
        started = time.process_time()
        await run(load)
        self.cpu_seconds.append(time.process_time() - started)
        watch.cancel()
        self.away_seconds.append(await watch)

    @staticmethod
    async def _away() -> float:
        longest, before = 0.0, time.thread_time()  # what other processes take of the machine is not the loop's doing
        try:
            while True:
                await asyncio.sleep(TICK_SECONDS)
                now = time.thread_time()
                longest, before = max(longest, now - before), now
        except asyncio.CancelledError:
            return max(longest, time.thread_time() - before)


def by_hand(model: BaseChatModel) -> Round:
    """The agent as many times as there are rollouts, each run on a thread of its own."""

    async def run(load: Load) -> None:
        agent = create_agent(model, [look], checkpointer=InMemorySaver())
        runs = range(load.requests * load.n)
        await asyncio.gather(*[agent.ainvoke({"messages": [QUESTION]}, thread(str(run))) for run in runs])

    return run


def as_rollouts(model: BaseChatModel, **settings: Any) -> Round:
    """The requests, as rollouts."""

    async def run(load: Load) -> None:
        agent = create_agent(model, [look])
        graph = entropy_centroid_graph(
            agent, n=load.n, effects={"look": "READ"}, checkpointer=InMemorySaver(), **settings
        )
        asked = [graph.ainvoke({"messages": [QUESTION]}, thread(str(request))) for request in range(load.requests)]
        for result in await asyncio.gather(*asked):
            if result["selection"]["status"] != "finished" or len(result["selection"]["candidates"]) != load.n:
                sys.exit(f"Not all rollouts finished: {result['selection']}")

    return run


def thread(name: str) -> Any:
    """A configuration for a run on this thread."""
    return {"configurable": {"thread_id": name}}


def scripted(load: Load) -> ScriptedChat:
    """A model that says the same without HTTP: what is left is the agent, and what the library does around it."""
    entropy = np.random.default_rng(0).uniform(0.0, 1.5, load.tokens)
    turns = [ScriptedTurn(tool_calls=[("look", {"at": str(i)})], entropy=entropy) for i in range(load.tool_turns)]
    return ScriptedChat(scripts=[[*turns, ScriptedTurn(text="That is all.", entropy=entropy)]])


@asynccontextmanager
async def ways(base_url: str, load: Load) -> AsyncIterator[Mapping[str, tuple[Round, Round]]]:
    """Pairs of rounds to compare, by hand and as rollouts."""
    chat = ChatLogprobs(model="scripted", base_url=base_url, top_logprobs=TOP, timeout_seconds=600)
    alone = chat.model_copy(update={"coalesce": False})
    bare = scripted(load)
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncSqliteSaver.from_conn_string(str(Path(folder) / f"{uuid4().hex}.db")) as durable:
            yield {
                "HTTP, savers in memory": (by_hand(chat), as_rollouts(chat)),
                "HTTP, not coalesced": (by_hand(alone), as_rollouts(alone)),
                "no HTTP (ScriptedChat)": (by_hand(bare), as_rollouts(bare)),
                "HTTP, rollouts in SQLite": (
                    by_hand(chat),
                    as_rollouts(chat, rollout_checkpointer=durable),
                ),
            }


async def measured(base_url: str, load: Load, rounds: int, only: str) -> float:
    """Measure and print; the first ratio, which is the one that has a limit."""
    table = Table("", "by hand, ms", "rollouts, ms", "ratio", "loop away, ms", title="CPU time a turn of a rollout")
    ratios: list[float] = []
    async with ways(base_url, load) as pairs:
        for name, (hand, rollouts) in pairs.items():
            if only not in name:
                continue
            costs = Cost(), Cost()
            for run in (hand, rollouts):
                await run(replace(load, requests=1))
            for _ in range(rounds):
                await costs[0].measure(hand, load)
                await costs[1].measure(rollouts, load)
            ratio = statistics.median(b / a for a, b in zip(*(cost.cpu_seconds for cost in costs), strict=True))
            ratios.append(ratio)
            each = [f"{1e3 * statistics.median(cost.cpu_seconds) / load.turns:.2f}" for cost in costs]
            away = " / ".join(f"{1e3 * max(cost.away_seconds):.0f}" for cost in costs)
            table.add_row(name, *each, f"{ratio:.2f}", away)
    Console().print(table)
    await aclose_clients()
    return ratios[0]


def main(
    requests: Annotated[int, typer.Option(min=1)] = 64,
    n: Annotated[int, typer.Option(min=1)] = 8,
    tool_turns: Annotated[int, typer.Option(min=0)] = 3,
    tokens: Annotated[int, typer.Option(min=1)] = 100,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    only: Annotated[str, typer.Option(help="Part of the name of the ways to measure.")] = "",
) -> None:
    """Measure, print, and end with exit code 1 where the limit is missed."""
    load = Load(requests=requests, n=n, tool_turns=tool_turns, tokens=tokens)
    with serving(tokens, TOP, tool_turns) as base_url:
        ratio = asyncio.run(measured(base_url, load, rounds, only))
    if ratio > LIMIT:
        sys.exit(f"The library takes {ratio:.2f} times the CPU of the agent by itself; the limit is {LIMIT}.")


if __name__ == "__main__":
    typer.run(main)
