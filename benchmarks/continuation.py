"""How faithfully the embedded server goes on: real answers cut at random tokens and continued, at temperature 0.

    python -m benchmarks.continuation [--cuts 100] [--seed 0] [--model qwen2.5-coder-1.5b]

Of each cut it compares the first 8 tokens with those of the uncut answer, reports what is known of the joint, and
counts apart where the two part later. Ends with status 1 where fewer than 95 of 100 go on as they did.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from entcent_agents.capture.recorder import LogprobsGeneration
from entcent_agents.chat.continuation import Continuation, ContinuationMethod
from entcent_agents.chat.embedded import open_embedded
from entcent_agents.chat.model import ChatLogprobs, aclose_clients
from entcent_agents.logprobs import TokenLogprobs

FIRST = 8
"""Tokens behind the joint that must be the same."""
LATER = 32
"""Tokens behind the joint that are generated."""
SLOTS = 4


def weather(city: str, days: int = 1) -> str:
    """The weather of the next days in a city."""
    return f"{city}: rain for {days} days"


def run_sql(query: str) -> str:
    """Run one SQL query against the tables penguins(species, island, mass) and islands(name, area)."""
    return query


QUESTIONS = (
    ("Explain in four sentences how a rainbow forms.", ()),
    ("Write a Python function that merges two sorted lists, with a docstring.", ()),
    ("Write a limerick about a cat in Zürich, with three emoji 🐈🌧️🎩 in it.", ()),
    ("Nenne fünf deutsche Städte mit Umlauten im Namen und sage je einen Satz über sie.", ()),
    ("List eight prime numbers above 100 as a Markdown table with their squares.", ()),
    ("What will the weather be in Oslo for the next 3 days?", (weather,)),
    ("Which species is the heaviest on average, and on which of the larger islands does it live?", (run_sql,)),
    ("Store the mean mass per species and island, rounded to grams, in a new table.", (run_sql,)),
)


@dataclass(frozen=True)
class Cut:
    """One answer, cut and continued."""

    question: int
    at: int
    whole: TokenLogprobs
    found: Continuation

    @property
    def same(self) -> int:
        """How many tokens behind the joint are the same, of those that both have."""
        new = self.found.generation.token_logprobs
        count = min(len(self.whole) - self.at, len(new) if new else 0)
        return next((i for i in range(count) if new is None or self.whole.token(self.at + i) != new.token(i)), count)

    @property
    def compared(self) -> int:
        """How many tokens there are to compare."""
        return min(len(self.whole) - self.at, LATER)


async def measured(model: ChatLogprobs, cuts: int, seed: int, method: ContinuationMethod | None) -> list[Cut]:
    """Answer every question, then cut and continue."""
    answers: list[LogprobsGeneration] = []
    for question, tools in track(QUESTIONS, "Answering"):
        answers += await model.agenerate_n(question, 1, tools=tools)
    wholes = [answer.token_logprobs for answer in answers]
    places = [(i, at) for i, whole in enumerate(wholes) if whole for at in range(1, len(whole) - FIRST + 1)]
    chosen = random.Random(seed).sample(places, min(cuts, len(places)))
    gate = asyncio.Semaphore(SLOTS)

    async def continued(question: int, at: int) -> Cut:
        whole = wholes[question]
        assert whole is not None
        text, tools = QUESTIONS[question]
        async with gate:
            prefix = whole.head(at)
            room = at + sum(byte > 127 for byte in prefix.text) + LATER  # some characters are several tokens
            found = await model.acontinue(text, prefix, tools=tools, method=method, max_tokens=room)
        return Cut(question, at, whole, found)

    pending = [asyncio.ensure_future(continued(*place)) for place in chosen]
    return [await each for each in track(pending, "Continuing")]


def main(
    cuts: Annotated[int, typer.Option(help="Random places to cut at.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the places.")] = 0,
    model: Annotated[str, typer.Option(help="An embedded model.")] = "qwen2.5-coder-1.5b",
    method: Annotated[ContinuationMethod | None, typer.Option(help="Default: the best the server has.")] = None,
) -> None:
    """Cut real answers at random tokens, continue them, and compare."""
    console = Console()
    with open_embedded(model, slots=SLOTS) as server:
        chat = ChatLogprobs(
            model=server.model, base_url=server.base_url, temperature=0, tool_calling="text", max_tokens=160, seed=seed
        )

        async def run() -> list[Cut]:
            try:
                return await measured(chat, cuts, seed, method)
            finally:
                await aclose_clients()

        found = asyncio.run(run())
    faithful = [cut for cut in found if cut.same >= FIRST]
    later = [cut for cut in faithful if cut.same < cut.compared]
    joints = Counter(cut.found.joint.value for cut in found)
    console.print(f"{len(found)} cuts in {len({c.question for c in found})} answers, by {found[0].found.method}")
    console.print(f"first {FIRST} tokens as in the uncut answer: {len(faithful)} of {len(found)}")
    console.print(f"of these, other tokens later (up to {LATER} behind the joint): {len(later)}")
    console.print(f"joints: {', '.join(f'{count} {joint}' for joint, count in sorted(joints.items()))}")
    for cut in sorted(found, key=lambda cut: (cut.question, cut.at)):
        if cut.same < FIRST or cut.found.joint != "exact":
            new = cut.found.generation.token_logprobs
            was = b"".join(cut.whole.token(cut.at + i) for i in range(min(FIRST, len(cut.whole) - cut.at)))
            became = b"".join(new.token(i) for i in range(min(FIRST, len(new)))) if new else b""
            console.print(f"  question {cut.question}, token {cut.at}, {cut.found.joint}: {was!r} became {became!r}")
    raise typer.Exit(0 if len(faithful) >= 0.95 * len(found) else 1)


if __name__ == "__main__":
    typer.run(main)
