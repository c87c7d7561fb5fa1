"""What there is to run: `list`, `install`, `self-test`."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from evals.errors import SuiteInstallError
from evals.suites.registry import ENTRIES, entry_of, load_suite
from evals.suites.self_test import examine

if TYPE_CHECKING:
    from evals.suites.registry import Entry
    from evals.suites.self_test import Findings


def list_suites(*, as_json: bool) -> None:
    """Every suite, and whether it can run here."""
    if as_json:
        sys.stdout.write(f"{json.dumps([_plain(entry) for entry in ENTRIES.values()], indent=2)}\n")
        return
    table = Table("suite", "what", "licence", "here", box=None)
    for entry in ENTRIES.values():
        missing = entry.missing
        table.add_row(entry.name, entry.about, entry.licence, "yes" if missing is None else f"no: {missing} is missing")
    console = Console(highlight=False)
    console.print(table)
    console.print("python -m evals list SUITE   its categories\npython -m evals install SUITE", style="dim")


def list_categories(spec: str, *, as_json: bool) -> None:
    """The categories of one suite, a line each."""
    categories = load_suite(spec).categories
    sys.stdout.write(
        f"{json.dumps(list(categories), indent=2)}\n" if as_json else "".join(f"{c}\n" for c in categories)
    )


def install_suite(name: str) -> None:
    """Install what a suite needs into the environment that this runs in.

    Raises:
        SuiteUnknownError: There is no such suite.
        SuiteInstallError: pip failed, or what it installed cannot be found.
    """
    entry = entry_of(name)
    console = Console(highlight=False)
    if not entry.pip:
        console.print(f"{name} needs nothing")
        return
    command = [sys.executable, "-m", "pip", "install", *entry.pip]
    console.print("pip install " + " ".join(entry.pip), style="dim")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise SuiteInstallError(f"{' '.join(command)} failed: {said[-1] if said else 'it says nothing'}")
    importlib.invalidate_caches()
    if entry.missing:
        raise SuiteInstallError(f"{name} was installed, and {entry.missing} cannot be found in {sys.prefix}")
    console.print(f"{name} is installed; python -m evals self-test {name}")


def self_test(spec: str, categories: tuple[str, ...], most: int | None) -> None:
    """Test a suite without a model. Exit code 1 where it does not judge as it should."""
    suite = load_suite(spec)
    table = Table(box=None)
    table.add_column("category")
    for name in (
        "tasks",
        "solved by ground truth",
        "known to fail",
        "no ground truth",
        "others' refused",
        "accepted",
        "free",
    ):
        table.add_column(name, justify="right")
    faults: list[str] = []
    for category in categories or suite.categories:
        found = examine(suite, category, most)
        table.add_row(category, *(str(number) for number in _numbers(found)))
        faults += found.faults
    Console(highlight=False).print(table)
    if faults:
        sys.stderr.write("".join(f"{fault}\n" for fault in faults))
        raise typer.Exit(1)


def _numbers(found: Findings) -> tuple[int, ...]:
    return (
        found.tasks,
        found.solved,
        found.unsolvable,
        found.without_truth,
        found.refused,
        len(found.accepted),
        found.free,
    )


def _plain(entry: Entry) -> dict[str, object]:
    return {
        "name": entry.name,
        "about": entry.about,
        "licence": entry.licence,
        "installed": entry.missing is None,
        "missing": entry.missing,
    }
