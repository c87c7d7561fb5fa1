"""Where signals are valid, as tables: a row a selector or signal and view, a column a part of the tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from entcent_agents.signals import SIGNALS, SignalName
from evals.scoring.cells import LEAST_TASKS, Cell
from evals.scoring.tables import NO_FIGURE, Table, with_interval
from evals.scoring.validity import Axis, Group, Validity
from evals.scoring.views import VIEWS, WHOLE, View

SELECTORS: Final = (
    "default chain",
    "majority vote",
    "vote weighted by mean entropy",
    "vote weighted by centroid",
    "vote weighted by log-probability",
    "lowest centroid, with floors",
    "lowest centroid",
    "lowest raw-entropy centroid",
    "lowest mean entropy",
    "highest log-probability",
    "highest mean confidence",
    "shortest",
)
"""What is shown of the selectors, unless all of them are asked for."""
SHOWN_SIGNALS: Final[Sequence[SignalName]] = (
    "centroid",
    "centroid_raw",
    "mean_entropy",
    "peak_entropy",
    "sum_logprob",
    "mean_logprob",
    "mean_confidence",
    "tail_confidence",
)
"""The same of the signals."""
SAME: Final = "="
_SAME: Final = f" {SAME}: as the whole trajectory."
COLUMNS: Final = 6
"""Parts side by side; more of them follow in another table."""


def validity_tables(validity: Validity, *, long: bool = False) -> Iterator[Table]:
    """First what was run, then by each axis what selectors gain and what signals know.

    Args:
        validity: What was found.
        long: Show every selector and signal.
    """
    cells = [cell for axis in validity.axes for cell in axis.cells]
    everyone = dict.fromkeys(one.selector for cell in cells for one in cell.selectors)
    selectors = [*everyone] if long else [name for name in SELECTORS if name in everyone]
    signals: Iterable[SignalName] = SIGNALS if long else SHOWN_SIGNALS
    yield _groups(validity.groups)
    for axis in validity.axes:
        yield from _axis(axis, selectors, [_label(name) for name in signals])


def _groups(groups: Sequence[Group]) -> Table:
    rows = [
        [
            one.name,
            f"{one.tasks:,}",
            f"{one.mixed:,}",
            NO_FIGURE if one.random is None else f"{one.random:.3f}",
            f"{one.tokens:,.0f}",
            f"{one.phases:,.0f}",
            f"{one.rationale:,.0f}",
        ]
        for one in groups
    ]
    return Table(
        title="What was run",
        head=["tasks of", "tasks", "mixed", "random", "scored tokens", "phases", "rationale"],
        rows=rows,
        note="mixed: tasks with right and wrong candidates, over which all that follows is. random: accuracy of a "
        "random candidate there. scored tokens, high-entropy phases, tokens of rationale (reasoning and answer, not "
        "calls or markup): of a task's median candidate, the median over tasks.",
    )


def _axis(axis: Axis, selectors: Sequence[str], signals: Sequence[str]) -> Iterator[Table]:
    told = [cell for cell in axis.cells if cell.tasks >= LEAST_TASKS]
    few = ", ".join(f"{cell.name} ({cell.tasks})" for cell in axis.cells if cell.tasks < LEAST_TASKS)
    left_out = f" Too few mixed tasks to say anything: {few}." if few else ""
    if axis.cells and not told:
        rows = [[cell.name, str(cell.tasks)] for cell in axis.cells]
        yield Table(title=f"By {axis.name}", head=["tasks of", "mixed"], rows=rows, note="Too few to say anything.")
    for start in range(0, len(told), COLUMNS):
        cells = told[start : start + COLUMNS]
        yield Table(
            title=f"What selectors gain over a random candidate, by {axis.name}",
            head=["selector", "sees", *map(_head, cells)],
            rows=_rows(list(map(_gains, cells)), selectors),
            note="Accuracy, paired by task; in brackets the null control, below it 95 %. An abstention counts as a "
            f"random candidate. {NO_FIGURE}: it decided in fewer than {LEAST_TASKS} tasks.{_SAME}{left_out}",
        )
        yield Table(
            title=f"AUROC of signals within a task, by {axis.name}",
            head=["signal", "sees", *map(_head, cells)],
            rows=_rows(list(map(_aurocs, cells)), signals),
            note=f"0.5 is chance; below it 95 %. {NO_FIGURE}: fewer than {LEAST_TASKS} tasks have it.{_SAME}{left_out}",
        )


def _rows(texts: Sequence[Mapping[tuple[View, str], str]], names: Iterable[str]) -> list[list[str]]:
    """A row for each name and view that has a figure of its own."""
    rows: list[list[str]] = []
    for name in names:
        for view in VIEWS:
            shown = [_shown(found, view, name) for found in texts]
            if not {*shown} <= {NO_FIGURE, SAME}:
                rows.append([name, view, *shown])
    return rows


def _shown(found: Mapping[tuple[View, str], str], view: View, name: str) -> str:
    text = found.get((view, name), NO_FIGURE)
    return SAME if view != WHOLE and text != NO_FIGURE and text == found.get((WHOLE, name)) else text


def _head(cell: Cell) -> str:
    return f"{cell.name}\n({cell.tasks} mixed tasks)"


def _gains(cell: Cell) -> dict[tuple[View, str], str]:
    texts: dict[tuple[View, str], str] = {}
    for one in cell.selectors:
        mean, interval = with_interval(one.gain, "+")
        null = "" if one.null is None else f" ({one.null:+.3f})"
        whole = one.decided == one.tasks == cell.tasks
        decided = "" if whole else f"\ndecided {one.decided} of {one.tasks}"
        texts[one.view, one.selector] = f"{mean}{null}\n{interval}{decided}"
    return texts


def _aurocs(cell: Cell) -> dict[tuple[View, str], str]:
    texts: dict[tuple[View, str], str] = {}
    for one in cell.signals:
        mean, interval = with_interval(one.auroc)
        tasks = "" if one.tasks == cell.tasks else f"\n{one.tasks} tasks"
        texts[one.view, _label(one.signal)] = f"{mean}\n{interval}{tasks}"
    return texts


def _label(signal: SignalName) -> str:
    return f"{SIGNALS[signal].best} {SIGNALS[signal].label}"
