"""How faithfully the embedded server goes on: real answers cut at random tokens and continued, at temperature 0.

    python -m benchmarks.continuation [--cuts 100] [--seed 0] [--cold] [--model qwen2.5-coder-1.5b]

Each answer is continued as branches are: right after it came, while the server still holds what it computed. With
`--cold` it is read anew from its tokens, several at once, which rounds differently and may tip a near tie. Of each cut
it compares the first 8 tokens with those of the uncut answer, reports what is known of the joint, and counts apart
where the two part later. Ends with status 1 where fewer than 95 of 100 go on as they did.
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

from entcent_agents.chat.continuation import Continuation
from entcent_agents.chat.embedded import open_embedded
from entcent_agents.chat.model import ChatLogprobs, aclose_clients
from entcent_agents.logprobs import TokenLogprobs

FIRST = 8
"""Tokens behind the joint that must be the same."""
LATER = 24
"""Tokens behind the joint that are generated."""


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
    def new(self) -> bytes:
        """What came behind the joint."""
        logprobs = self.found.generation.token_logprobs
        return logprobs.text if logprobs else b""

    def was(self, tokens: int) -> bytes:
        """What came there before, so many tokens of it."""
        start, end = (self.whole.offsets[min(i, len(self.whole))] for i in (self.at, self.at + tokens))
        return self.whole.text[start:end]

    @property
    def faithful(self) -> bool:
        """Whether the first tokens are the same; by what they say, because llama.cpp lists some of them as one."""
        return self.new.startswith(self.was(FIRST))

    @property
    def parts_later(self) -> bool:
        """Whether what follows is not."""
        was = self.was(LATER)
        return self.new[: len(was)] != was[: len(self.new)]


async def answered(model: ChatLogprobs, question: int) -> TokenLogprobs:
    """An answer, uncut."""
    text, tools = QUESTIONS[question]
    (answer,) = await model.agenerate_n(text, 1, tools=tools)
    assert answer.token_logprobs is not None
    return answer.token_logprobs


async def continued(model: ChatLogprobs, question: int, at: int, whole: TokenLogprobs) -> Cut:
    """The answer from a cut on."""
    text, tools = QUESTIONS[question]
    prefix = whole.head(at)
    room = at + sum(byte > 127 for byte in prefix.text) + LATER  # some characters are several tokens
    return Cut(question, at, whole, await model.acontinue(text, prefix, tools=tools, max_tokens=room))


async def measured(model: ChatLogprobs, cuts: int, chance: random.Random, *, cold: bool) -> list[Cut]:
    """Answer every question, then cut and continue; right away and from the last cut to the first, unless cold."""
    found: list[Cut] = []
    places: list[tuple[int, int, TokenLogprobs]] = []
    for question in track(range(len(QUESTIONS)), "Answering" if cold else "Answering and continuing"):
        whole = await answered(model, question)
        share = cuts // len(QUESTIONS) + (question < cuts % len(QUESTIONS))
        possible = range(1, len(whole) - FIRST + 1)
        for at in sorted(chance.sample(possible, min(share, len(possible))), reverse=True):
            places.append((question, at, whole))
            if not cold:
                found.append(await continued(model, *places[-1]))
    if cold:
        chance.shuffle(places)
        found = [await continued(model, *place) for place in track(places, "Continuing")]
    return sorted(found, key=lambda cut: (cut.question, cut.at))


def main(
    cuts: Annotated[int, typer.Option(help="Random places to cut at.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the places.")] = 0,
    model: Annotated[str, typer.Option(help="An embedded model.")] = "qwen2.5-coder-1.5b",
    cold: Annotated[bool, typer.Option("--cold", help="All answers first, then the cuts in a random order.")] = False,
) -> None:
    """Cut real answers at random tokens, continue them, and compare."""
    console = Console()
    with open_embedded(model, slots=1) as server:
        chat = ChatLogprobs(
            model=server.model, base_url=server.base_url, temperature=0, tool_calling="text", max_tokens=160, seed=seed
        )

        async def run() -> list[Cut]:
            try:
                return await measured(chat, cuts, random.Random(seed), cold=cold)
            finally:
                await aclose_clients()

        found = asyncio.run(run())
    faithful = [cut for cut in found if cut.faithful]
    later = [cut for cut in faithful if cut.parts_later]
    joints = Counter(cut.found.joint.value for cut in found)
    console.print(f"{len(found)} cuts in {len({c.question for c in found})} answers, by {found[0].found.method}")
    console.print(f"first {FIRST} tokens as in the uncut answer: {len(faithful)} of {len(found)}")
    console.print(f"of these, other tokens later (up to {LATER} behind the joint): {len(later)}")
    console.print(f"joints: {', '.join(f'{count} {joint}' for joint, count in sorted(joints.items()))}")
    for cut in found:
        if not cut.faithful or cut.found.joint != "exact":
            was, new = cut.was(FIRST), cut.new[: len(cut.was(FIRST))]
            console.print(f"  question {cut.question}, token {cut.at}, {cut.found.joint}: {was!r} became {new!r}")
    raise typer.Exit(0 if len(faithful) >= 0.95 * len(found) else 1)


if __name__ == "__main__":
    typer.run(main)
