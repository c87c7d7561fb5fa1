"""Requests under way at once, whose model server and tools fail in every way: what became of them, and what was left.

    PYTHONPATH=. python -m benchmarks.soak [--requests 1000] [--rollouts 8] [--failing 0.1] [--json FILE]

Requests are shared out among processes, one a core, each with a scripted HTTP model server in another process, which
fails in ten ways; tools raise, answer with error text and fall silent. Stores and ledger are in memory. Callers try
again once where a request ends in an error, and questions about calls in doubt are answered by what is true. Ends with
exit code 1 where anything is not 0 that must be.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from multiprocessing.connection import wait
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tests.rollouts.accounts import Account
from tests.rollouts.chaos import Chaos, Outcome, run_chaos
from tests.rollouts.faults import FAULTS
from tests.rollouts.leaks import Memory
from tests.rollouts.script import EFFECTS

SPAWNED: Final = multiprocessing.get_context("spawn")
MUST_BE_ZERO: Final = {
    "wrong effects": ("lost effect", "lost write", "torn write", "unsound read"),
    "double effects": ("double effect", "double write"),
    "effects of losers": ("loser effect", "loser write"),
    "hangs": ("hang",),
    "requests half committed": ("half committed",),
    "errors that do not say why": ("unclear error", "other error"),
    "turns sampled again": ("sampled again",),
    "exceptions that nobody heard of": ("unheard exception",),
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


def table_of(account: Account, outcomes: Sequence[Outcome], title: str) -> Table:
    """Everything that was counted, in sections."""
    counts, kinds = account.counts, account.kinds()
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
    for number, outcome in enumerate(outcomes):
        for held in outcome.memory:
            what = f"{held.megabytes:.0f} MB, {held.objects} objects of ours"
            table.add_row(f"process {number}, after {held.done} requests", what)
        table.add_row(f"process {number}: memory", "flat" if is_flat(outcome.memory) else "[red]grows")
        cpu = f"{outcome.cpu_seconds:.0f} s of CPU, its server {outcome.server_cpu_seconds:.0f} s"
        table.add_row(f"process {number} took", f"{outcome.seconds:.0f} s, {cpu}")
    return table


def is_flat(memory: Sequence[Memory]) -> bool:
    """Whether the second half of the requests made it no more than a twentieth larger."""
    half, whole = memory[-2:] if len(memory) > 1 else memory * 2
    return whole.megabytes <= 1.05 * half.megabytes


def shared_out(chaos: Chaos, processes: int) -> list[Chaos]:
    """The requests in nearly equal parts, one a process."""
    ends = [chaos.requests * part // processes for part in range(processes + 1)]
    return [replace(chaos, first=start, requests=end - start) for start, end in pairwise(ends) if end > start]


def with_progress(console: Console, parts: Sequence[Chaos]) -> list[Outcome]:
    """Run each part in a process of its own, and show how far they are."""
    columns = (TextColumn("requests"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    outcomes = list[Outcome]()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("requests", total=sum(part.requests for part in parts))
        wires = [_started(part) for part in parts]
        while wires:
            for wire in wait(wires):
                try:
                    told = wire.recv()
                except EOFError:
                    raise SystemExit("one of the processes died: what it said is above") from None
                if isinstance(told, Outcome):
                    outcomes.append(told)
                    wires.remove(wire)
                else:
                    progress.advance(task)
    return outcomes


def _started(chaos: Chaos) -> Any:
    ours, its = SPAWNED.Pipe(duplex=False)
    SPAWNED.Process(target=_run, args=(chaos, its)).start()
    its.close()  # so that its end is seen here
    return ours


def _run(chaos: Chaos, wire: Any) -> None:
    wire.send(run_chaos(chaos, wire.send))


def as_json(settings: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """All of it, for who compares runs."""
    found = [
        {"counts": dict(outcome.account.counts), "violations": outcome.account.violations}
        | {"memory": [asdict(held) for held in outcome.memory], "seconds": outcome.seconds}
        | {"cpu_seconds": outcome.cpu_seconds, "server_cpu_seconds": outcome.server_cpu_seconds}
        for outcome in outcomes
    ]
    return json.dumps({"settings": settings, "processes": found}, indent=2) + "\n"


def main(
    requests: Annotated[int, typer.Option(min=1, help="How many.")] = 1000,
    rollouts: Annotated[int, typer.Option(min=1, help="Rollouts of each.")] = 8,
    processes: Annotated[int, typer.Option(min=1, help="Among which the requests are shared out.")] = 2,
    at_once: Annotated[int, typer.Option(min=1, help="Requests under way at the same time in each of them.")] = 8,
    failing: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the calls of models and of tools that go wrong.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="What everything is drawn from.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where the counts are written as well.")] = None,
) -> None:
    """Run, and compare what happened with what was committed."""
    console = Console()
    chaos = Chaos(requests=requests, n=rollouts, at_once=at_once, failing=failing, server_failing=failing, seed=seed)
    outcomes = with_progress(console, shared_out(chaos, processes))
    account = sum((outcome.account for outcome in outcomes), Account())
    title = f"{requests} requests, {rollouts} rollouts each, {failing:.0%} of calls go wrong, seed {seed}"
    console.print(table_of(account, outcomes, title))
    for line in account.violations[:20]:
        console.print(line, style="red", markup=False, highlight=False)
    if json_file:
        json_file.write_text(as_json(asdict(chaos), outcomes))
    raise typer.Exit(1 if account.violations else 0)


if __name__ == "__main__":
    typer.run(main)
