"""What it saves to ask once for all rollouts: n rollouts of one turn on the embedded server, coalesced and not.

    python -m benchmarks.coalescing [--n 8] [--prompt-words 400] [--model qwen2.5-coder-1.5b]

Prints the prompt tokens that the server really processed (its `timings.prompt_n`, which is what it says of a prompt
less what it says it had cached; the first request checks that) and the time until all rollouts were there. Each way
has a prompt of its own that the server has never seen. Ends with exit code 1 where a ratio is above a quarter.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Annotated, Any, Final

import httpx2
import typer
from langchain.agents import create_agent
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import HumanMessage
from rich.console import Console
from rich.table import Table

from entcent_agents.chat.embedded import EmbeddedServer, open_embedded
from entcent_agents.chat.model import ChatLogprobs, aclose_clients
from entcent_agents.prebuilt import entropy_centroid_graph

LIMIT: Final = 0.25
WORDS: Final = "amber basil cedar delta ember fjord grove heron islet jetty kayak larch maple north ocean pearl".split()


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What n rollouts took."""

    processed: int
    cached: int
    generated: int
    seconds: float


def question(words: int, seed: int) -> str:
    """A prompt that shares no beginning with that of another seed."""
    chosen = random.Random(seed).choices(WORDS, k=words)
    return f"{' '.join(chosen)}\n\nWrite one sentence with the words above that you like best."


def check_counts(server: EmbeddedServer, words: int) -> None:
    """See that usage tells what the server's own timings tell."""
    body: dict[str, Any] = {"max_tokens": 1, "messages": [{"role": "user", "content": question(words, 0)}]}
    for _ in range(2):
        said = httpx2.post(f"{server.base_url}/chat/completions", json=body, timeout=600).json()
        usage, timings = said["usage"], said["timings"]
        told = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
        if told != timings["prompt_n"]:
            raise SystemExit(f"usage tells {told} processed prompt tokens, timings {timings['prompt_n']}")


async def cost(model: ChatLogprobs, n: int, prompt: str) -> Cost:
    """Run n rollouts of one turn."""
    usage = UsageMetadataCallbackHandler()
    graph = entropy_centroid_graph(create_agent(model, tools=[]), n=n)
    began = time.perf_counter()
    await graph.ainvoke({"messages": [HumanMessage(prompt)]}, {"callbacks": [usage]})
    seconds = time.perf_counter() - began
    (counted,) = usage.usage_metadata.values()
    cached = counted.get("input_token_details", {}).get("cache_read", 0)
    return Cost(
        processed=counted["input_tokens"] - cached,
        cached=cached,
        generated=counted["output_tokens"],
        seconds=seconds,
    )


def main(
    n: Annotated[int, typer.Option(help="Rollouts.")] = 8,
    prompt_words: Annotated[int, typer.Option(help="Length of the prompt.")] = 400,
    max_tokens: Annotated[int, typer.Option(help="Length of each answer.")] = 24,
    model: Annotated[str, typer.Option(help="An embedded model.")] = "qwen2.5-coder-1.5b",
) -> None:
    """Ask with and without coalescing, and compare."""
    console = Console()
    with open_embedded(model, slots=n, context_tokens=4 * prompt_words) as server:
        check_counts(server, prompt_words)

        async def both() -> dict[bool, Cost]:
            try:
                return {
                    coalesce: await cost(
                        ChatLogprobs(
                            model=server.model,
                            base_url=server.base_url,
                            temperature=0.8,
                            max_tokens=max_tokens,
                            coalesce=coalesce,
                        ),
                        n,
                        question(prompt_words, seed),
                    )
                    for seed, coalesce in enumerate((True, False), 1)
                }
            finally:
                await aclose_clients()

        found = asyncio.run(both())
    table = Table("", "prompt tokens processed", "cached", "generated", "seconds")
    for coalesce, each in found.items():
        name = "coalesced" if coalesce else "one by one"
        table.add_row(name, str(each.processed), str(each.cached), str(each.generated), f"{each.seconds:.1f}")
    tokens = found[True].processed / found[False].processed
    seconds = found[True].seconds / found[False].seconds
    table.add_row("ratio", f"{tokens:.3f}", "", "", f"{seconds:.3f}")
    console.print(table)
    raise typer.Exit(0 if max(tokens, seconds) <= LIMIT else 1)


if __name__ == "__main__":
    typer.run(main)
