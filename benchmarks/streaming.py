"""What a token of a streamed answer costs, early and late in it: nothing may be merged again at every token.

    python -m benchmarks.streaming

The same answers over HTTP, from a server in a process of its own, in every way in which a caller can watch a model.
Prints CPU time of this process per token, for a short and a long answer, and their ratio. Ends with exit code 1 where
a token of a long answer costs much more than one of a short answer, or a token went uncaptured.
"""

from __future__ import annotations

import asyncio
import sys
import time
import warnings
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import typer
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from rich.console import Console
from rich.table import Table

from benchmarks.ingest import serving
from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.chat.model import ChatLogprobs, aclose_clients

GROWTH_LIMIT: Final = 1.5
REPEATS: Final = 3
ASK: Final = HumanMessage("Hi")

Way = Callable[[ChatLogprobs, dict[str, Any]], Awaitable[object]]


async def ainvoke(model: ChatLogprobs, config: dict[str, Any]) -> None:
    """Nobody watches."""
    await model.ainvoke([ASK], config)


async def astream(model: ChatLogprobs, config: dict[str, Any]) -> None:
    """Chunks."""
    async for _ in model.astream([ASK], config):
        pass


async def events_v2(model: ChatLogprobs, config: dict[str, Any]) -> None:
    """Events, version 2."""
    async for _ in model.astream_events([ASK], config, version="v2"):
        pass


async def events_v3(model: ChatLogprobs, config: dict[str, Any]) -> None:
    """Events, version 3."""
    stream = await model.astream_events([ASK], config, version="v3")
    async for _ in stream:
        pass
    await stream


def graph_of(model: ChatLogprobs) -> Any:
    """A graph that asks once."""

    async def node(state: MessagesState) -> dict[str, list[AIMessage]]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return StateGraph(MessagesState).add_node("model", node).add_edge(START, "model").compile()


async def graph_messages(model: ChatLogprobs, config: dict[str, Any]) -> None:
    """A graph's stream of messages."""
    async for _ in graph_of(model).astream({"messages": [ASK]}, config, stream_mode="messages"):
        pass


async def graph_events_v3(model: ChatLogprobs, config: dict[str, Any]) -> None:
    """A graph's events, version 3."""
    run = await graph_of(model).astream_events({"messages": [ASK]}, config, version="v3")
    async for _ in run:
        pass


WAYS: Final[tuple[Way, ...]] = (ainvoke, astream, events_v2, events_v3, graph_messages, graph_events_v3)


async def cpu_seconds_a_token(way: Way, base_url: str, tokens: int, k: int) -> float:
    """Least of a few runs, each with every token captured."""
    taken: list[float] = []
    for _ in range(REPEATS):
        recorder = TurnRecorder()
        model = ChatLogprobs(model="m", base_url=base_url, top_logprobs=k, max_tokens=tokens, max_retries=0)
        started = time.process_time()
        await way(model, {"callbacks": [recorder]})
        taken.append((time.process_time() - started) / tokens)
        (turn,) = recorder.turns.values()
        if turn.scored_tokens != tokens:
            sys.exit(f"{way.__name__}: {turn.scored_tokens} of {tokens} tokens were captured.")
    return min(taken)


async def measured(base_url: str, short: int, long: int, k: int) -> bool:
    """Measure and print; whether a limit is missed."""
    table = Table("", f"{short:,} tokens, µs", f"{long:,} tokens, µs", "ratio", title=f"CPU time a token, top {k}")
    missed = False
    for way in WAYS:
        early, late = [await cpu_seconds_a_token(way, base_url, tokens, k) for tokens in (short, long)]
        missed |= late / early > GROWTH_LIMIT
        table.add_row(way.__doc__, f"{1e6 * early:.1f}", f"{1e6 * late:.1f}", f"{late / early:.2f}")
    Console().print(table)
    await aclose_clients()
    return missed


def main(
    short: Annotated[int, typer.Option(min=1)] = 1024,
    long: Annotated[int, typer.Option(min=1)] = 8192,
    top_k: Annotated[int, typer.Option(min=1)] = 20,
) -> None:
    """Measure, print, and end with exit code 1 where a limit is missed."""
    warnings.filterwarnings("ignore", message=".*(beta|v3).*")
    with serving(top_k) as base_url:
        missed = asyncio.run(measured(base_url, short, long, top_k))
    if missed:
        sys.exit("A limit was missed.")


if __name__ == "__main__":
    typer.run(main)
