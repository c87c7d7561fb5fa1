"""`python -m evals validity`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from entcent_agents.selection import named_selectors
from evals.cli.printing import print_json, print_tables, watched, write_page
from evals.cli.scoring import ScoreRequest, measuring_lines, no_tasks
from evals.scoring.validity import validity_of
from evals.scoring.validity_tables import validity_tables
from evals.scoring.views import viewed
from evals.store import read_run


def validity(asked: ScoreRequest, *, as_json: bool, long: bool, page: Path | None) -> None:
    """Print the tables, or everything as JSON; write them as a page besides, where one is named."""
    runs = [read_run(path) for path in asked.runs]
    tasks, known = viewed(runs, asked.only)
    if not tasks:
        raise no_tasks()
    with watched(tasks) as track:
        found = validity_of(
            tasks,
            named_selectors(asked.signals),
            asked.signals,
            asked.resampling,
            settings=measuring_lines(asked, runs, known),
            track=track,
        )
    if page is not None:
        write_page(page, "Where each signal is valid", found.settings, validity_tables(found, long=long))
    if as_json:
        print_json(asdict(found))
    elif page is None:
        print_tables(found.settings, validity_tables(found, long=long))
