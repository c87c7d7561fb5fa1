"""What the commands say: tables in a terminal, a page of Markdown, one JSON object; a bar while it is worked out."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress

from evals.errors import EvaluationError
from evals.scoring.tables import Table

T = TypeVar("T")
_WIDEST = 1000
"""Columns a table is measured in."""


def print_json(found: Mapping[str, Any]) -> None:
    """Everything, as one line."""
    sys.stdout.write(json.dumps(_finite(found), allow_nan=False) + "\n")


def print_tables(settings: Mapping[str, Any], tables: Iterable[Table]) -> None:
    """What it was worked out with, a line each, and the tables."""
    console = Console(highlight=False)
    for line in _lines(settings):
        console.print(line, style="dim", soft_wrap=True)
    for table in tables:
        drawn = table.to_rich()
        # Figures are never cut: where the terminal, or a pipe's 80 columns, are too narrow, lines run over.
        room = console.options.update(width=_WIDEST)
        console.width = max(console.width, console.measure(drawn, options=room).maximum)
        console.print("", drawn)


def write_page(page: Path, title: str, settings: Mapping[str, Any], tables: Iterable[Table]) -> None:
    """The same as a page of Markdown.

    Raises:
        EvaluationError: Where it cannot be written.
    """
    lines = "\n".join(f"- {line}" for line in _lines(settings)).replace("<", "\\<")  # what was asked for may have tags
    text = "\n".join(table.to_markdown() for table in tables)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"# {title}\n\n{lines}\n\n{text}", encoding="utf-8")
    except OSError as error:
        raise EvaluationError(f"{page} cannot be written: {error.strerror}") from error
    Console(stderr=True, highlight=False).print(f"written to {page}", soft_wrap=True)


@contextmanager
def watched(tasks: Sequence[T]) -> Generator[Iterable[T]]:
    """The tasks, with a bar on a terminal that shows how many have gone by."""
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        yield bar.track(tasks, description="scoring")


def _lines(settings: Mapping[str, Any]) -> list[str]:
    return [f"{name}: {value}" for name, value in settings.items()]


def _finite(value: Any) -> Any:
    """NaN as null: JSON has no such number."""
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
    return None if isinstance(value, float) and math.isnan(value) else value
