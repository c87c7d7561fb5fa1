"""Requests under way at once, whose tools raise, answer with error text or stall: what became of them.

    PYTHONPATH=. python -m benchmarks.chaos [--requests 500] [--rollouts 8] [--failing 0.1] [--json FILE]

The model is a scripted server in a process of its own; stores and ledger are in memory. Questions about calls in doubt
are answered by what is true. Prints the counts, and ends with exit code 1 where a loser's effect or a double one was
found, a request hung, or a task, a thread or a fork was left behind.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.kills import report
from tests.rollouts.chaos import Chaos, run_chaos


def main(
    requests: Annotated[int, typer.Option(min=1, help="How many.")] = 500,
    rollouts: Annotated[int, typer.Option(min=1, help="Rollouts of each.")] = 8,
    at_once: Annotated[int, typer.Option(min=1, help="Requests under way at the same time.")] = 4,
    failing: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of calls that go wrong.")] = 0.1,
    seed: Annotated[int, typer.Option(help="What everything is drawn from.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where the counts are written as well.")] = None,
) -> None:
    """Run, and compare what happened with what was committed."""
    console = Console()
    chaos = Chaos(requests=requests, n=rollouts, at_once=at_once, failing=failing, seed=seed)
    account = run_chaos(chaos)
    title = f"{requests} requests, {rollouts} rollouts each, {failing:.0%} of calls go wrong, seed {seed}"
    report(console, {"found": account}, title, json_file, asdict(chaos))


if __name__ == "__main__":
    typer.run(main)
