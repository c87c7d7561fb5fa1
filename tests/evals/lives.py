"""What runs in the processes that are killed or run out of room: a run, to its end."""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path

from entcent_agents.chat.model import aclose_clients
from evals.runner.models import open_model
from evals.runner.modes import Mode
from evals.runner.running import Run
from evals.runner.settings import RunSettings
from evals.store import DATABASE, RolloutStore
from tests.evals.sums import Sums

N = 6
FULL = 3
"""Exit code where the disk was full."""


def settings_for(base_url: str, mode: Mode = "parallel") -> RunSettings:
    return RunSettings(model=f"{base_url}#scripted", mode=mode, n=N, top_logprobs=5)


def run_sums(folder: Path, base_url: str, size: int = 4, mode: Mode = "parallel") -> None:
    """Run what is missing in this folder."""
    asyncio.run(go(folder, base_url, size, mode=mode))


def run_sums_within(folder: Path, base_url: str, size: int, most_bytes: int) -> None:
    """The same with files of at most so many bytes; how it failed goes to `said`, which is small."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    from evals.errors import StoreError

    try:
        run_sums(folder, base_url, size)
    except StoreError as error:
        (folder / "said").write_text(str(error))
        sys.exit(FULL)


async def go(folder: Path, base_url: str, size: int, concurrency: int = 2, mode: Mode = "parallel") -> Run:
    asked = settings_for(base_url, mode)
    settings = asked.identity
    settings["model"] = "the server"  # its port is another one in every test
    suite = Sums(size=size)
    tasks = [task for category in suite.categories for task in suite.tasks(category)]
    try:
        with RolloutStore.create(folder / DATABASE, settings) as store:
            run = Run(suite=suite, tasks=tasks, settings=asked, store=store)
            async with open_model(asked, context_tokens=4096) as model:
                await run.go(model, concurrency=concurrency)
            return run
    finally:
        await aclose_clients()
