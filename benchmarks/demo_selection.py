"""How often the demonstration is right: single rollouts, and what each selector makes of them.

    python -m benchmarks.demo_selection --seeds 20 --results build/demo-selection.jsonl

Every seed is one request of the demonstration on a fresh copy of the database. Each finished rollout's fork is checked
against the truth before anything is committed, so that all selectors are judged on the same rollouts. Results are
appended as they come, and a second start goes on where the first stopped.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from entcent_agents.chat.embedded import open_embedded
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.environments import SqliteEnvironment
from entcent_agents.errors import EntcentError
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.rollouts.packing import unpack
from entcent_agents.selection import (
    First,
    LowestCentroid,
    LowestMeanEntropy,
    MajorityVote,
    Selection,
    Selector,
    WeightedVote,
    default_selector,
)
from entcent_agents.statistics import mean_over_tasks
from entcent_agents.trajectory import Rollout
from evals.penguins import TASK, is_right
from graphs.analyst import make_agent
from tools.penguins import build

SELECTORS: Final[dict[str, Selector]] = {
    "default chain": default_selector(),
    "lowest centroid, floors off": LowestCentroid(min_scored_tokens=0).then(First()),
    "majority vote, else first": MajorityVote().then(First()),
    "entropy-weighted vote, else first": WeightedVote().then(First()),
    "lowest mean entropy": LowestMeanEntropy().then(First()),
    "first": First(),
}


class Judge:
    """A selector that checks every rollout, asks all selectors, and lets the default chain decide."""

    name = "judge"

    def __init__(self, environment: SqliteEnvironment) -> None:
        self._environment = environment
        self.rows: list[dict[str, Any]] = []
        self.chosen: dict[str, int | None] = {}
        self.decided_by = ""

    def select(self, rollouts: Sequence[Rollout]) -> Selection:
        """As the default chain."""
        self.rows = [self._row(rollout) for rollout in rollouts]
        selections = {name: selector.select(rollouts) for name, selector in SELECTORS.items()}
        self.chosen = {name: selection.winner for name, selection in selections.items()}
        self.decided_by = selections["default chain"].selector
        return selections["default chain"]

    def _row(self, rollout: Rollout) -> dict[str, Any]:
        trajectory = rollout.trajectory
        fork = self._environment.reopen(rollout.forks[self._environment.name])
        return {
            "rollout": rollout.index,
            "right": is_right(fork.path),
            "scored_tokens": trajectory.scored_tokens,
            "coverage": trajectory.coverage,
            "phases": trajectory.phases(),
            "centroid": trajectory.centroid(),
            "mean_entropy": trajectory.mean_entropy,
            "vote_key": rollout.vote_key,
            "turns": len(trajectory.turns),
            "said": [
                f"{message.type}: {message.text}" for message in unpack(rollout.output or "")["state"]["messages"]
            ],
        }


async def one_request(model: ChatLogprobs, seed: int, n: int) -> dict[str, Any]:
    """One request of the demonstration, judged."""
    with TemporaryDirectory() as folder:
        environment = SqliteEnvironment(build(Path(folder) / "penguins.db"))
        judge = Judge(environment)
        graph = entropy_centroid_graph(
            make_agent(model, ["database"]), n=n, seed=seed, environments=[environment], selector=judge
        )
        started = time.perf_counter()
        try:
            await graph.ainvoke({"messages": [("user", TASK)]})
            error = None
        except EntcentError as problem:
            error = str(problem)
        return {
            "seed": seed,
            "n": n,
            "seconds": time.perf_counter() - started,
            "error": error,
            "committed_right": is_right(environment.path),
            "decided_by": judge.decided_by,
            "chosen": judge.chosen,
            "rollouts": judge.rows,
        }


def report(results: list[dict[str, Any]], console: Console) -> None:
    """Print what came out."""
    n = results[0]["n"]
    right = [sum(row["right"] for row in result["rollouts"]) / n for result in results]
    finished = sum(len(result["rollouts"]) for result in results)
    tokens = [row["scored_tokens"] for result in results for row in result["rollouts"]]
    console.print(
        f"{len(results)} seeds, n = {n}: {finished} of {n * len(results)} rollouts finished; scored tokens "
        f"min {min(tokens)}, median {int(np.median(tokens))}, max {max(tokens)}; "
        f"mixed seeds (some rollouts right, some wrong): {sum(0 < share < 1 for share in right)}"
    )
    decided = [result["decided_by"] for result in results]
    for name in sorted(set(decided)):
        console.print(f"decided by {name or 'nobody (no rollout finished)'}: {decided.count(name)} of {len(results)}")
    chance = [_random(result) for result in results]
    table = Table("what", "right", "95 % (bootstrap)", "difference to random", "95 % (paired)")
    table.add_row("single rollouts, unfinished ones wrong", *_estimate(right))
    table.add_row("random choice among the finished", *_estimate(chance))
    for name in SELECTORS:
        chosen = [float(_chosen_right(result, name)) for result in results]
        gain = [one - other for one, other in zip(chosen, chance, strict=True)]
        table.add_row(name, *_estimate(chosen), *_estimate(gain, sign="+"))
    table.add_row("oracle (any rollout right)", *_estimate([float(share > 0) for share in right]))
    console.print(table)


def _random(result: dict[str, Any]) -> float:
    rows = result["rollouts"]
    return sum(row["right"] for row in rows) / len(rows) if rows else 0.0


def _chosen_right(result: dict[str, Any], name: str) -> bool:
    return any(row["right"] for row in result["rollouts"] if row["rollout"] == result["chosen"].get(name))


def _estimate(values: list[float], sign: str = "") -> tuple[str, str]:
    mean, low, high = mean_over_tasks(values)
    return f"{mean:{sign}.3f}", f"{low:{sign}.3f} to {high:{sign}.3f}"


def main(
    seeds: Annotated[int, typer.Option(help="How many requests.")] = 20,
    n: Annotated[int, typer.Option("-n", help="Rollouts of each.")] = 4,
    model: Annotated[str, typer.Option(help="A model of the store.")] = "qwen2.5-coder-1.5b",
    at_once: Annotated[int, typer.Option(help="Requests at the same time: a fuller batch is quicker.")] = 4,
    results: Annotated[Path, typer.Option(help="Where results are kept.")] = Path("build/demo-selection.jsonl"),
) -> None:
    """Run the seeds that are not there yet, then report on all."""
    results.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    console = Console(width=110)
    room = asyncio.Semaphore(at_once)

    async def missing() -> None:
        async with open_embedded(model, slots=n * at_once, context_tokens=2048) as server:
            # Not coalesced: between seeds every slot of the server still holds the prompt that all seeds begin with.
            chat = ChatLogprobs(
                model=server.model, base_url=server.base_url, tool_calling="text", max_tokens=130, coalesce=False
            )

            async def one(seed: int) -> None:
                async with room:
                    result = await one_request(chat, seed, n)
                done.append(result)
                with results.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                marks = "".join("+" if row["right"] else "-" for row in result["rollouts"])
                console.print(f"seed {seed}: [{marks}] {result['decided_by']}, {result['seconds']:.0f} s", markup=False)

            todo = sorted(set(range(seeds)) - {result["seed"] for result in done})
            await asyncio.gather(*(one(seed) for seed in todo))

    asyncio.run(missing())
    report(sorted(done, key=lambda result: result["seed"])[:seeds], console)


if __name__ == "__main__":
    sys.exit(typer.run(main))
