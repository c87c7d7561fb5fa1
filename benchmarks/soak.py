"""Requests under way at once, whose model server and tools fail in every way: what became of them, and what was left.

    PYTHONPATH=. python -m benchmarks.soak [--requests 1000] [--rollouts 8] [--at-once 16] [--failing 0.1] [--json FILE]

The model is a scripted HTTP server in a process of its own, which fails in ten ways; tools raise, answer with error
text and fall silent. Stores and ledger are in memory. Callers try again once where a request ends in an error, and
questions about calls in doubt are answered by what is true. Ends with exit code 1 where anything is not 0 that must be.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tests.rollouts.accounts import Account
from tests.rollouts.chaos import Chaos, Outcome, run_chaos
from tests.rollouts.faults import FAULTS
from tests.rollouts.leaks import Memory
from tests.rollouts.script import EFFECTS

MUST_BE_ZERO: Final = {
    "wrong effects": ("lost effect", "lost write", "torn write", "unsound read"),
    "double effects": ("double effect", "double write"),
    "effects of losers": ("loser effect", "loser write"),
    "hangs": ("hang",),
    "requests half committed": ("half committed",),
    "errors that do not say why": ("unclear error", "other error"),
    "turns sampled again": ("sampled again", "repeated request"),
    "tasks left": ("leftover task",),
    "threads left": ("leftover thread",),
    "open files left": ("leftover open file",),
    "processes left": ("leftover process",),
    "forks and files left": ("leftover on disk",),
    "connections left at the server": ("leftover connection",),
    "threads left in the store": ("leftover thread in the store", "not swept"),
    "calls left in the ledger": ("leftover call",),
}
"""Rows of the table, and the kinds of violations that each counts."""


def table_of(outcome: Outcome, title: str) -> Table:
    """Everything that was counted, in sections."""
    counts, kinds = Counter(outcome.account.counts), outcome.account.kinds()
    table = Table("", "found", title=title)
    tools = [name for name in sorted(counts) if name.partition(":")[0] in EFFECTS]
    failures = [f"server: {fault}" for fault in FAULTS]
    for section in (sorted({*counts} - {*tools, *failures}), failures, tools):
        for name in section:
            table.add_row(name, str(counts[name]))
        table.add_section()
    for row, told in MUST_BE_ZERO.items():
        found = sum(kinds.pop(kind, 0) for kind in told)
        table.add_row(row, f"[red]{found}" if found else "0")
    assert not kinds, f"violations that no row counts: {kinds}"
    table.add_section()
    for held in outcome.memory:
        table.add_row(f"after {held.done} requests", f"{held.megabytes:.0f} MB, {held.objects} objects of ours")
    return table


def with_progress(console: Console, chaos: Chaos) -> Outcome:
    """Run, and show how far it is."""
    columns = (TextColumn("requests"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("requests", total=chaos.requests)
        return run_chaos(chaos, lambda ended: progress.update(task, completed=ended))


def as_json(chaos: Chaos, account: Account, memory: Sequence[Memory]) -> str:
    """All of it, for who compares runs."""
    found = {"counts": dict(account.counts), "violations": account.violations, "memory": [asdict(m) for m in memory]}
    return json.dumps({"settings": asdict(chaos), **found}, indent=2) + "\n"


def main(
    requests: Annotated[int, typer.Option(min=1, help="How many.")] = 1000,
    rollouts: Annotated[int, typer.Option(min=1, help="Rollouts of each.")] = 8,
    at_once: Annotated[int, typer.Option(min=1, help="Requests under way at the same time.")] = 16,
    failing: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the calls of models and of tools that go wrong.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="What everything is drawn from.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where the counts are written as well.")] = None,
) -> None:
    """Run, and compare what happened with what was committed."""
    console = Console()
    chaos = Chaos(requests=requests, n=rollouts, at_once=at_once, failing=failing, server_failing=failing, seed=seed)
    outcome = with_progress(console, chaos)
    title = f"{requests} requests, {rollouts} rollouts each, {failing:.0%} of calls go wrong, seed {seed}"
    console.print(table_of(outcome, title))
    for line in outcome.account.violations[:20]:
        console.print(line, style="red", markup=False, highlight=False)
    if json_file:
        json_file.write_text(as_json(chaos, outcome.account, outcome.memory))
    raise typer.Exit(1 if outcome.account.violations else 0)


if __name__ == "__main__":
    typer.run(main)
