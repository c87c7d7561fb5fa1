"""`python -m evals run`: what is asked for, the progress, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from entcent_agents.budget import Prices
from entcent_agents.errors import ConfigurationError
from entcent_agents.trajectory import Usage
from evals.runner.models import open_model
from evals.runner.running import Run
from evals.runner.settings import RunSettings
from evals.store import TABLE, StoredRollout, compact, require_pyarrow, resume
from evals.suites.protocol import Suite, Task
from evals.suites.registry import load_suite


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """The options of `python -m evals run`."""

    suite: str
    folder: Path
    categories: tuple[str, ...]
    names: tuple[str, ...]
    limit: int | None
    settings: RunSettings
    concurrency: int
    context_tokens: int
    prices: Prices


def run_suite(asked: RunRequest) -> None:
    """Run it; what is stored already is not run again."""
    require_pyarrow()  # now, and not when hours have gone into the rollouts
    suite = load_suite(asked.suite)
    tasks = _tasks(suite, asked)
    console = Console(stderr=True, highlight=False)
    with resume(asked.folder, asked.settings.identity) as store:
        view = _View(console, asked.prices)
        run = Run(suite=suite, tasks=tasks, settings=asked.settings, store=store, on_stored=view.add)
        if run.there:
            console.print(f"{run.progress} are stored already", style="dim")
        try:
            if not run.done:
                with view.of(run):
                    asyncio.run(_go(run, asked))
        except KeyboardInterrupt:
            console.print(f"interrupted: {run.progress} are stored; the same command goes on")
            raise typer.Exit(130) from None
        compact(store, asked.folder / TABLE)
    spent = f"; {view.spent}" if view.spent else ""
    console.print(f"{run.there} rollouts of {len(tasks)} tasks in {asked.folder}{spent}", soft_wrap=True)
    console.print(f"python -m evals score {asked.folder}", style="dim", soft_wrap=True)


async def _go(run: Run, asked: RunRequest) -> None:
    async with open_model(asked.settings, context_tokens=asked.context_tokens) as model:
        await run.go(model, concurrency=asked.concurrency)


def _tasks(suite: Suite, asked: RunRequest) -> Sequence[Task]:
    unknown = [name for name in asked.categories if name not in suite.categories]
    if unknown:
        raise ConfigurationError(
            f"{suite.name} has no category {', '.join(unknown)}: there are {', '.join(suite.categories)}"
        )
    names = asked.categories or suite.categories
    tasks = [task for name in names for task in islice(_named(suite.tasks(name), asked.names), asked.limit)]
    if not tasks:
        called = f" called {' or '.join(asked.names)}" if asked.names else ""
        raise ConfigurationError(f"{asked.suite} has no tasks{called} in {', '.join(names)}")
    if asked.settings.tool_calling == "text" and not asked.settings.as_built:
        _require_one_call(tasks)
    return tasks


def _require_one_call(tasks: Sequence[Task]) -> None:
    """Tools as text take one call a reply: what wants more could not be solved."""
    if wanting := list(dict.fromkeys(task.category for task in tasks if task.calls_at_once)):
        raise ConfigurationError(
            f"{', '.join(wanting)} want several calls in one reply, and with --tools text a model makes one: "
            "give --tools native, or name other categories"
        )


def _named(tasks: Iterable[Task], patterns: Collection[str]) -> Iterator[Task]:
    return (task for task in tasks if not patterns or any(fnmatchcase(task.id, pattern) for pattern in patterns))


class _View:
    """The progress bar: rollouts, time left, tokens and cost of this run, without those stored before."""

    def __init__(self, console: Console, prices: Prices) -> None:
        self._prices = prices
        self._usage = Usage()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[spent]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("rollouts", total=None, spent="")

    def of(self, run: Run) -> Progress:
        """The bar, as a context manager."""
        self._bar.reset(self._task, total=run.total, completed=run.there, spent="")
        return self._bar

    def add(self, stored: StoredRollout) -> None:
        """One rollout more."""
        self._usage += stored.rollout.usage
        self._bar.update(self._task, advance=1, spent=self.spent)

    @property
    def spent(self) -> str:
        """Tokens and cost in words; empty where nothing was asked."""
        usage, prices = self._usage, self._prices
        if not usage.model_calls:
            return ""
        cost = (usage.prompt_tokens * prices.prompt + usage.generated_tokens * prices.generated) / 1e6
        priced = f", cost {cost:.4f}" if prices.prompt or prices.generated else ""
        return f"{usage.prompt_tokens:,} tokens read, {usage.generated_tokens:,} generated{priced}"
