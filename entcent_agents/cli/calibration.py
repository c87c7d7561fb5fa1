"""What calibration says: where the entropies lie, what would branch at which percentile, and what was written."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from entcent_agents.branching.calibration import Calibration
from entcent_agents.branching.hesitation import Hesitation, hesitation
from entcent_agents.branching.policy import DECISIONS
from entcent_agents.errors import ConfigurationError
from entcent_agents.phases import PhaseConfig
from entcent_agents.trajectory import Trajectory

SHOWN_PERCENTILES: Final = (50.0, 75.0, 90.0, 95.0, 99.0)
ENOUGH_TASKS: Final = 10
FEW_TOKENS: Final = 5
"""A percentile with fewer tokens above it may be anywhere."""
_EDGES: Final = (0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 1.5, 2.0, np.inf)
_BAR: Final = 10
_PICTURE_COLUMNS: Final = 90
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be measured, and where it goes.

    Attributes:
        percentile: Of the entropies of decision tokens.
        phases: Shares of the entropies of all tokens.
        out: The file of the thresholds.
        picture: Where what is printed goes as an SVG picture.
        as_json: Whether it is printed as one JSON object.
    """

    percentile: float
    phases: PhaseConfig
    out: Path
    picture: Path | None
    as_json: bool

    def require_sensible(self) -> None:
        """Refuse what cannot be, before minutes go into the answers.

        Raises:
            ConfigurationError: With the option's name.
        """
        if not 0.0 <= self.percentile <= 100.0:
            raise ConfigurationError(f"--percentile {self.percentile:g} is outside 0 to 100")
        for option, path in (("--out", self.out), ("--picture", self.picture)):
            if path is not None and (path.is_dir() or not path.parent.is_dir()):
                raise ConfigurationError(f"{option} {path} cannot be written: name a file in a folder that is there")


def calibrate_on(tasks: Iterable[Sequence[Trajectory]], model: str | None, wanted: Wanted) -> None:
    """Measure the trajectories of some tasks, print what was found and write the thresholds down.

    Raises:
        ConfigurationError: Where there is nothing to measure, or a file cannot be written.
    """
    found = hesitation(tasks)
    calibration = found.calibration(wanted.percentile, wanted.phases, model)
    if wanted.as_json:
        sys.stdout.write(json.dumps(_plain(found, calibration), allow_nan=False) + "\n")
    else:
        Console(highlight=False).print(*_shown(found, calibration), sep="\n")
    written = [wanted.out]
    calibration.write(wanted.out)
    if wanted.picture is not None:
        _draw(wanted.picture, found, calibration)
        written.append(wanted.picture)
    Console(stderr=True, highlight=False).print(f"written to {' and '.join(map(str, written))}", soft_wrap=True)


def _draw(picture: Path, found: Hesitation, calibration: Calibration) -> None:
    console = Console(record=True, width=_PICTURE_COLUMNS, file=io.StringIO(), highlight=False, force_terminal=True)
    console.print(*_shown(found, calibration), sep="\n")
    try:
        console.save_svg(str(picture), title="entcent calibrate")
    except OSError as error:
        raise ConfigurationError(f"--picture {picture} cannot be written: {error.strerror}") from None


def cautions(found: Hesitation, calibration: Calibration) -> Iterator[str]:
    """What should be known before it is used."""
    if found.tasks < ENOUGH_TASKS:
        few = "1 task" if found.tasks == 1 else f"{found.tasks} tasks"
        yield f"measured on {few}: on about {ENOUGH_TASKS} thresholds begin to hold for others"
    above = 1.0 - calibration.percentile / 100.0
    for decision in DECISIONS:
        tokens = len(found.decided[decision])
        if not tokens:
            yield f"no {decision} tokens: nothing will branch there"
        elif tokens * above < FEW_TOKENS:
            yield f"{decision}: {tokens} tokens are few for percentile {calibration.percentile:g}"


def _shown(found: Hesitation, calibration: Calibration) -> list[RenderableType]:
    model = f"{calibration.model}, " if calibration.model else ""
    high, low = calibration.phases.thresholds or (0.0, 0.0)
    phases = calibration.phases
    return [
        Text(f"{model}top-k {found.top_k}; {found.tasks} tasks, {found.rollouts} rollouts, {found.turns} turns"),
        Text(),
        _histogram(found, calibration),
        Text(),
        _percentiles(found, calibration),
        Text(),
        Text(
            f"phases of all {len(found.entropy):,} tokens: from {high:g} nats on (top {phases.top_percent:g} %),\n"
            f"until {phases.consecutive_low} in a row have at most {low:g} (bottom {phases.bottom_percent:g} %)"
        ),
        *(Text(f"note: {caution}", "yellow") for caution in cautions(found, calibration)),
    ]


def _histogram(found: Hesitation, calibration: Calibration) -> Table:
    """Entropies by what is decided: the share of tokens in each bin, bold where all of them would branch."""
    table = Table(box=None, pad_edge=False, title="entropy of decision tokens", title_justify="left")
    table.add_column("nats", justify="right")
    columns: list[tuple[Sequence[int], float]] = []
    for decision in DECISIONS:
        values = found.decided[decision]
        table.add_column(f"{decision} ({len(values):,})")
        columns.append((_binned(values), calibration.threshold.get(decision, np.inf)))
    table.add_column("all tokens")
    columns.append((_binned(found.entropy), np.inf))
    for place, (least, most) in enumerate(pairwise(_EDGES)):
        cells = [_bar(counts[place], sum(counts), above=least >= threshold) for counts, threshold in columns]
        table.add_row(f"{least:g} to {most:g}" if most < np.inf else f"above {least:g}", *cells)
    return table


def _binned(values: Any) -> list[int]:
    return np.histogram(values, _EDGES)[0].tolist()


def _bar(count: int, of: int, *, above: bool) -> Text:
    if not count:
        return Text()
    eighths = max(1, round(count / of * _BAR * 8))
    bar = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
    return Text(f"{bar} {_percent(count / of)}", "bold magenta" if above else "cyan")


def _percentiles(found: Hesitation, calibration: Calibration) -> Table:
    """Thresholds at several percentiles, and how much would branch."""
    table = Table(box=None, pad_edge=False, title="thresholds (nats), and what branches at most", title_justify="left")
    table.add_column("percentile", justify="right")
    for name in (*DECISIONS, "turns", "rollouts"):
        table.add_column(name, justify="right")
    for percent, threshold, turns, rollouts in _choices(found, calibration):
        chosen = percent == calibration.percentile
        nats = [f"{threshold[each]:.4f}" if each in threshold else "-" for each in DECISIONS]
        row = (f"{'→ ' if chosen else ''}{percent:g}", *nats, _percent(turns), _percent(rollouts))
        table.add_row(*row, style="bold" if chosen else "")
    return table


def _choices(found: Hesitation, calibration: Calibration) -> Iterator[tuple[float, dict[Any, float], float, float]]:
    for percent in sorted({*SHOWN_PERCENTILES, calibration.percentile}):
        threshold = found.thresholds(percent)
        yield percent, threshold, *found.branching(threshold)


def _percent(share: float) -> str:
    return "<1 %" if 0.0 < share < 0.01 else f"{share:.0%}".replace("%", " %")


def _plain(found: Hesitation, calibration: Calibration) -> dict[str, Any]:
    return {
        "calibration": asdict(calibration),
        "rollouts": found.rollouts,
        "percentiles": [
            {"percentile": percent, "threshold": threshold, "turns": turns, "rollouts": rollouts}
            for percent, threshold, turns, rollouts in _choices(found, calibration)
        ],
        "histogram": {
            "edges": _EDGES[:-1],
            **{decision: _binned(found.decided[decision]) for decision in DECISIONS},
            "all": _binned(found.entropy),
        },
        "notes": list(cautions(found, calibration)),
    }
