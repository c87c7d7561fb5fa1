"""How long a user waits: `create_agent` alone, with the middleware, and as whole rollouts, on a real model.

    python -m benchmarks.first_token [--model qwen2.5-coder-1.5b] [--questions 5] [--rounds 1] [--max-tokens 160]
    python -m benchmarks.first_token --model http://127.0.0.1:8000/v1#NAME

One agent with two tools is asked the same questions in every way, one request at a time. The ways take turns, each
question begins with another one, and every request has a number of its own at its beginning: none finds the prompt of
another in the server's cache. Prints medians over the requests of a way, in seconds since the request:

    sign     the first event of the `custom` stream
    text     the first chunk of the `messages` stream in which the model says or calls something
    answer   the first chunk of the last message
    end      the end of the stream; `added` and `ratio` compare it with that of the plain agent on the same question

Tokens are those of all candidates and rollouts.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Annotated, Any, Final

import typer
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage
from langchain_core.tools import tool
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from entcent_agents.chat.model import ChatLogprobs, aclose_clients
from entcent_agents.cli.serving import serve
from entcent_agents.middleware import EntropyCentroidMiddleware
from entcent_agents.prebuilt import entropy_centroid_graph

SIZES: Final = (1, 4, 8)
MOST_LOOKUPS: Final = 2
INSTRUCTIONS: Final = (
    "You answer for a shop. Look up what you need, one tool at a time. Once you know it, answer in two sentences."
)
ORDERS: Final = {"Ada": ["A-17", "A-23"], "Boris": ["B-4"], "Chen": ["C-8", "C-9", "C-31"], "Dora": [], "Emil": ["E-2"]}
STATES: Final = {
    "A-17": "delivered on Monday",
    "A-23": "packed",
    "B-4": "returned, the money was paid back",
    "C-8": "delivered on Friday",
    "C-9": "lost by the carrier",
    "C-31": "waiting for payment",
    "E-2": "on its way, expected tomorrow",
}
QUESTIONS: Final = (
    "What happened to order B-4?",
    "Which orders has Chen placed?",
    "Where is order E-2?",
    "Has Dora ordered anything?",
    "In what state is order A-23?",
)


@tool
def orders_of(customer: str) -> str:
    """The numbers of the orders that a customer has placed."""
    return ", ".join(ORDERS.get(customer, [])) or f"{customer} has placed no orders."


@tool
def state_of(order: str) -> str:
    """What became of an order, by its number."""
    return STATES.get(order, f"There is no order {order}.")


TOOLS: Final = (orders_of, state_of)
READS: Final = {each.name: "READ" for each in TOOLS}

Way = Callable[[ChatLogprobs, str], Any]
"""Makes the graph of one request, of the model and the system prompt."""


@dataclass(frozen=True, kw_only=True)
class Waited:
    """What one request took, in seconds since it was made; None where it never came."""

    sign: float | None
    text: float | None
    answer: float | None
    end: float
    turns: int
    generated_tokens: int


class Enough(AgentMiddleware[Any, Any, Any]):
    """Takes the tools away after some lookups: small models come to an answer, and all ways to similar lengths."""

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        """Calls the model."""
        lookups = sum(isinstance(message, ToolMessage) for message in request.messages)
        return await handler(request.override(tools=[]) if lookups >= MOST_LOOKUPS else request)


def plain(model: ChatLogprobs, prompt: str, *more: AgentMiddleware[Any, Any, Any]) -> Any:
    """The agent, with this middleware."""
    return create_agent(model, TOOLS, system_prompt=prompt, middleware=[Enough(), *more])


def with_middleware(n: int) -> Way:
    """The agent with n candidates a step."""
    return lambda model, prompt: plain(model, prompt, EntropyCentroidMiddleware(n))


def as_rollouts(n: int) -> Way:
    """The agent as n rollouts."""
    return lambda model, prompt: entropy_centroid_graph(plain(model, prompt), n=n, effects=READS)


def ways() -> Mapping[str, Way]:
    """What is compared, the plain agent first."""
    found: dict[str, Way] = {"plain": plain} | {f"middleware, n={n}": with_middleware(n) for n in SIZES}
    return found | {f"rollouts, n={SIZES[-1]}": as_rollouts(SIZES[-1])}


async def wait(graph: Any, question: str) -> Waited:
    """Ask, and look at the clock when something is seen."""
    usage = UsageMetadataCallbackHandler()
    spoken: dict[str | None, float] = {}  # by message, when its first chunk came
    sign: float | None = None
    began = time.perf_counter()
    stream = graph.astream(
        {"messages": [("user", question)]}, {"callbacks": [usage]}, stream_mode=["messages", "custom"]
    )
    async for mode, event in stream:
        now = time.perf_counter() - began
        if mode == "custom":
            sign = now if sign is None else sign
        elif _says_something(event[0]):
            spoken.setdefault(event[0].id, now)
    end = time.perf_counter() - began
    times = list(spoken.values())
    return Waited(
        sign=sign,
        text=times[0] if times else None,
        answer=times[-1] if times else None,
        end=end,
        turns=len(times),
        generated_tokens=sum(counted["output_tokens"] for counted in usage.usage_metadata.values()),
    )


def _says_something(message: Any) -> bool:
    if isinstance(message, AIMessageChunk) and message.tool_call_chunks:
        return True
    return isinstance(message, AIMessage) and bool(message.text or message.tool_calls)


async def measured(model: ChatLogprobs, questions: int, rounds: int, console: Console) -> Mapping[str, list[Waited]]:
    """Ask every question in every way, and say how it goes."""
    graphs, numbers = ways(), count(1)
    found: dict[str, list[Waited]] = {name: [] for name in graphs}
    asked = QUESTIONS[:questions] * rounds
    for turn, question in enumerate(asked):
        names = list(graphs)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            prompt = f"Request {next(numbers)}. {INSTRUCTIONS}"
            waited = await wait(graphs[name](model, prompt), question)
            found[name].append(waited)
            console.print(f"{turn + 1}/{len(asked)} {name}: {waited.turns} turns, {waited.end:.1f} s", style="dim")
    return found


def table_of(found: Mapping[str, list[Waited]]) -> Table:
    """Medians of every way, and how its ends compare with those of the plain agent."""
    alone = next(iter(found.values()))
    table = Table("", "turns", "tokens", "sign", "text", "answer", "end", "added", "ratio")
    for name, requests in found.items():
        pairs = list(zip(requests, alone, strict=True))
        table.add_row(
            name,
            _median([each.turns for each in requests], ".0f"),
            _median([each.generated_tokens for each in requests], ".0f"),
            _median([each.sign for each in requests], ".1f"),
            _median([each.text for each in requests], ".1f"),
            _median([each.answer for each in requests], ".1f"),
            _median([each.end for each in requests], ".1f"),
            _median([own.end - plain.end for own, plain in pairs], ".1f"),
            _median([own.end / plain.end for own, plain in pairs], ".2f"),
        )
    return table


def _median(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return format(statistics.median(known), form) if len(known) == len(values) else "none"


async def _main(name: str, questions: int, rounds: int, max_tokens: int) -> None:
    console = Console()
    async with serve(name, SIZES[-1], context_tokens=2048) as served:
        model = ChatLogprobs(
            model=served.name,
            base_url=served.base_url,
            api_key=SecretStr(served.api_key) if served.api_key else None,
            tool_calling="text",
            max_tokens=max_tokens,
        )
        try:
            await model.ainvoke("Say hello.")  # the server's first answer, and the connection
            found = await measured(model, questions, rounds, Console(stderr=True, highlight=False))
        finally:
            await aclose_clients()
    console.print(f"{name}: {questions * rounds} requests a way, at most {max_tokens} tokens a turn", highlight=False)
    console.print(table_of(found))


def main(
    model: Annotated[
        str, typer.Option(help="A model of the store, or http://HOST:PORT/v1#NAME.")
    ] = "qwen2.5-coder-1.5b",
    questions: Annotated[int, typer.Option(min=1, max=len(QUESTIONS))] = len(QUESTIONS),
    rounds: Annotated[int, typer.Option(min=1)] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a turn.")] = 160,
) -> None:
    """Measure and print."""
    asyncio.run(_main(model, questions, rounds, max_tokens))


if __name__ == "__main__":
    typer.run(main)
