"""An agent killed with SIGKILL at random moments, and resumed: what happened outside, and what was asked of the model.

    PYTHONPATH=. python -m benchmarks.kills [--kills 200] [--at-steps 200] [--json FILE]

The agent runs as rollouts of itself; its tools read, write to a SQLite database, and append to a file that another
process owns. Each process is killed at a moment drawn from the time that a whole request takes, and another goes on
from what is on record; with `--at-steps` further ones are killed right after they made something durable. Questions
about calls in doubt are answered by looking at the file. Prints the counts, and ends with exit code 1 where a law was
broken.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tests.ledger.postgres_server import postgres, why_none
from tests.rollouts.accounts import Account
from tests.rollouts.killing import kill_at_random, killing

STORES = {"sqlite": "SQLite", "postgres": "PostgreSQL"}


@contextmanager
def database(store: str) -> Iterator[str | None]:
    """The connection string of a server that is started for this, or None for files."""
    if store == "postgres" and (reason := why_none()):
        raise SystemExit(f"PostgreSQL: {reason}")
    with postgres() if store == "postgres" else nullcontext() as conninfo:
        yield conninfo


def run(store: str, kills: int, at_steps: int, seed: int, **settings: Any) -> Account:
    """All kills on one kind of store."""
    begun = time.monotonic()
    with database(store) as conninfo, killing(seed, database=conninfo, **settings) as agent:
        account = kill_at_random(agent, kills, seed, at_steps=at_steps)
    account.counts["seconds"] = round(time.monotonic() - begun)
    return account


def table_of(accounts: dict[str, Account], title: str) -> Table:
    """Counts and violations side by side."""
    table = Table("", *accounts, title=title)
    for name in dict.fromkeys(name for account in accounts.values() for name in sorted(account.counts)):
        table.add_row(name, *(str(account.counts[name]) for account in accounts.values()))
    table.add_section()
    for kind in dict.fromkeys(kind for account in accounts.values() for kind in account.kinds()):
        table.add_row(f"[red]{kind}", *(f"[red]{account.kinds()[kind]}" for account in accounts.values()))
    table.add_row("violations", *(str(len(account.violations)) for account in accounts.values()))
    return table


def report(console: Console, accounts: dict[str, Account], title: str, file: Path | None, settings: Any) -> None:
    """Print, write, and end with exit code 1 where anything is wrong."""
    console.print(table_of(accounts, title))
    for name, account in accounts.items():
        for line in account.violations[:20]:
            console.print(f"{name}: {line}", style="red", markup=False, highlight=False)
    if file:
        found = {n: {"counts": dict(a.counts), "violations": a.violations} for n, a in accounts.items()}
        file.write_text(json.dumps({"settings": settings, **found}, indent=2) + "\n")
    raise typer.Exit(1 if any(account.violations for account in accounts.values()) else 0)


def main(
    kills: Annotated[int, typer.Option(min=1, help="Kills at random moments, on each store.")] = 200,
    at_steps: Annotated[int, typer.Option(min=0, help="Kills right after a step that made something durable.")] = 0,
    rollouts: Annotated[int, typer.Option(min=1, help="Rollouts of a request.")] = 3,
    seed: Annotated[int, typer.Option(help="What moments, plans and answers are drawn from.")] = 1,
    lag_seconds: Annotated[float, typer.Option(min=0.0, help="How long the graph's checkpointer lags at most.")] = 0.0,
    store: Annotated[list[str] | None, typer.Option(help="sqlite, postgres; default: both.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where the counts are written as well.")] = None,
) -> None:
    """Kill and resume, and compare what happened with what was committed."""
    console = Console()
    place: dict[str, Any] = {"n": rollouts, "lag_seconds": lag_seconds}
    accounts = {STORES[each]: run(each, kills, at_steps, seed, **place) for each in store or STORES}
    title = f"{kills} + {at_steps} kills, {rollouts} rollouts a request, seed {seed}"
    report(console, accounts, title, json_file, {"kills": kills, "at_steps": at_steps, "seed": seed, **place})


if __name__ == "__main__":
    typer.run(main)
