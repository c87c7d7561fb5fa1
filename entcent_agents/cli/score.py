"""`entcent score`: recorded rollouts under every selector."""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from entcent_agents.errors import ConfigurationError, RecordingError
from entcent_agents.recordings import read_recordings
from entcent_agents.scoring.summary import Summary, summarise
from entcent_agents.scoring.tasks import TaskScore, score_task
from entcent_agents.segments import SegmentKind
from entcent_agents.selection import Selection, named_selectors
from entcent_agents.signals import SignalSettings
from entcent_agents.statistics import Estimate

SHOWN_TASKS: Final = 3
"""Tasks that are printed one by one; with more, the whole is summed up."""
WIDE: Final = 100
"""Columns of a terminal that shows the intervals of the rewards too, beside those of the differences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSettings:
    """What the user asked for; see the options of `entcent score`."""

    files: tuple[Path, ...]
    settings: SignalSettings
    group_by: Literal["id", "file"] = "id"
    task_pattern: str | None = None
    answer: str | None = None
    segments: tuple[str, ...] = ()
    shuffles: int = 10
    seed: int = 0
    skip_bad: bool = False
    as_json: bool = False


def score_files(asked: ScoreSettings) -> None:
    """Read, score and print."""
    selectors, kinds = named_selectors(asked.settings), segment_kinds(asked.segments)
    recordings = read_recordings(
        asked.files,
        skip_bad=asked.skip_bad,
        answer=_pattern("--answer", asked.answer),
        group_by=asked.group_by,
        task_pattern=_pattern("--task-pattern", asked.task_pattern),
    )
    rng = np.random.default_rng(asked.seed)
    errors = Console(stderr=True, highlight=False)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        tasks = bar.track(recordings, total=len(recordings), description="scoring")
        found = [
            score_task(task, selectors, asked.settings, kinds=kinds, shuffles=asked.shuffles, rng=rng) for task in tasks
        ]
    scores = [score for score in found if score is not None]
    for bad in recordings.bad_lines:
        errors.print(Text(f"skipped {bad}", "yellow"), soft_wrap=True)
    if not scores:
        raise RecordingError("no finished rollout could be read: nothing to score")
    summary = summarise(scores, seed=asked.seed)
    if asked.as_json:
        sys.stdout.writelines(_json(asked, scores, summary, [str(bad) for bad in recordings.bad_lines]))
        return
    console = Console(highlight=False)
    console.print(_heading(asked, scores))
    if len(scores) <= SHOWN_TASKS:
        for score in scores:
            console.print("", _candidates(score), "", _rankings(score), _abstentions([score]))
    if summary is not None:
        console.print("", _accuracies(summary, wide=console.width >= WIDE))
    elif len(scores) > SHOWN_TASKS:
        console.print("", _agreement(scores))
    _print_hints(console, scores, summary)


def segment_kinds(segments: Collection[str]) -> frozenset[SegmentKind]:
    """The kinds of tokens that `--segment` names.

    Raises:
        ConfigurationError: On a name that is none.
    """
    known = {kind.name.lower().replace("_", "-"): kind for kind in SegmentKind}
    asked = [name.lower().replace("_", "-") for name in segments]
    for name in asked:
        if name not in known:
            raise ConfigurationError(f"no segment is called {name!r}: choose from {', '.join(known)}")
    return frozenset(known[name] for name in asked)


def _pattern(option: str, text: str | None) -> re.Pattern[str] | None:
    if text == "":
        raise ConfigurationError(f"{option} is empty: give a regular expression, or leave it out")
    try:
        return re.compile(text) if text is not None else None
    except re.error as error:
        raise ConfigurationError(f"{option} {text!r} is no regular expression: {error}") from None


def _heading(asked: ScoreSettings, scores: Iterable[TaskScore]) -> Text:
    candidates = [candidate for score in scores for candidate in score.candidates]
    tasks = len({score.task for score in scores})
    scored = [candidate["scored_tokens"] for candidate in candidates]
    covered = min((candidate["coverage"] for candidate in candidates), default=0.0)
    top_k = sorted({candidate["top_k"] for candidate in candidates if candidate["top_k"] is not None})
    phases, window = asked.settings.phases, asked.settings.window
    text = Text(
        f"{_count(tasks, 'task')}, {_count(len(candidates), 'candidate')}; scored tokens min "
        f"{min(scored, default=0):,}, median {int(np.median(scored or [0])):,}, max {max(scored, default=0):,}; "
        f"lowest coverage {covered:.2f}; top-k {', '.join(map(str, top_k)) or 'none'}"
    )
    text.append(f"\nphases: {phases}; window {window:g}")
    if asked.segments:
        text.append(f"; {' and '.join(asked.segments)} tokens alone")
    if len(top_k) > 1:
        text.append("; entropies of different k do not compare", "yellow")
    longer = sum(window > tokens for tokens in scored) if isinstance(window, int) else 0
    if longer:
        text.append(
            f" is longer than {longer} of {len(scored)} trajectories, whose group and tail signals are means of the "
            "whole (--window 0.2 takes a fifth)",
            "yellow",
        )
    return text


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _candidates(score: TaskScore) -> Table:
    left_out = f" ({_count(score.left_out, 'unfinished rollout')} left out)" if score.left_out else ""
    title = Text(f"task {' '.join(score.task.split())}{left_out}", overflow="ellipsis", no_wrap=True)
    table = Table(box=None, pad_edge=False, title_justify="left", title=title)
    for name in ("#", "source", "tokens", "coverage", "phases", "centroid", "mean H", "outcome", "reward"):
        table.add_column(name, justify="left" if name in ("source", "outcome") else "right")
    for one in score.candidates:
        table.add_row(
            str(one["candidate"]),
            Text(Path(one["source"]).name, overflow="fold"),
            str(one["generated_tokens"]),
            f"{one['coverage']:.2f}",
            str(one["phases"]),
            _number(one["signals"]["centroid"]),
            _number(one["signals"]["mean_entropy"]),
            (one["outcome"] or "-")[:6],
            "-" if one["reward"] is None else f"{one['reward']:g}",
        )
    return table


def _rankings(score: TaskScore) -> Table:
    """The selectors that chose, each with its ranking."""
    table = Table(box=None, pad_edge=False)
    table.add_column("selector", max_width=48)
    for name in ("best first", "value of the best"):
        table.add_column(name, justify="right" if name == "value of the best" else "left")
    for name, selection in score.selections.items():
        if selection.winner is not None:
            best = next((one.value for one in selection.candidates if one.rollout == selection.winner), None)
            plain = len(selection.steps) < 2 and name not in ("first", "random")
            table.add_row(name, _ranking(selection), _number(best) if plain else "-")
    return table


def _abstentions(scores: Sequence[TaskScore]) -> Text:
    """Why selectors abstained: by the commonest reason of each, and what decided in a single task."""
    reasons: dict[str, Counter[str]] = {}
    for score in scores:
        for name, selection in score.selections.items():
            if selection.winner is None:
                reasons.setdefault(name, Counter())[selection.reason] += 1
    names: dict[str, list[str]] = {}
    for name, counted in reasons.items():
        reason, count = counted.most_common(1)[0]
        where = f"{reason}; in {count} of {len(scores)} tasks" if len(scores) > 1 else reason
        names.setdefault(where, []).append(name)
    lines = [f"abstain ({why}): {', '.join(found)}" for why, found in names.items()]
    chain = scores[0].selections["default chain"]
    if len(scores) == 1 and chain.winner is not None:
        lines.insert(0, f"default chain: {chain.selector}: {chain.reason}")
    return Text("\n".join(lines), "dim")


def _ranking(selection: Selection) -> str:
    """The candidates best first, equals joined; those without a value are left out."""
    ranked = sorted((one for one in selection.candidates if one.rank), key=lambda one: one.rank or 0)
    tied = set(selection.tied)
    parts: list[str] = []
    for before, one in zip([None, *ranked], ranked, strict=False):
        equal = before is not None and before.value == one.value and (one.rollout in tied) == (before.rollout in tied)
        parts.append(f"{' = ' if equal else ' > ' if before else ''}{one.rollout}")
    return "".join(parts)


def _accuracies(summary: Summary, *, wide: bool) -> Table:
    table = Table(
        box=None,
        pad_edge=False,
        title_justify="left",
        title=f"mean reward over {_count(summary.tasks, 'task')} with rewards, {summary.mixed_tasks} of them mixed",
        caption="95 % bootstrap intervals over tasks, differences paired. An abstention counts as a random choice. "
        "null: trajectories shuffled among the candidates of a task.",
        caption_justify="left",
    )
    table.add_column("selector")
    for name in ("decided", "reward", *(["95 %"] if wide else []), "vs random", "95 %", "null"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in summary.selectors:
        if one.selector == "random":
            continue
        spread = one.gain.low < one.gain.high
        sure = "green" if spread and one.gain.low > 0 else "red" if spread and one.gain.high < 0 else ""
        table.add_row(
            one.selector,
            f"{one.decided}/{summary.tasks}",
            *_estimate(one.reward, wide=wide),
            Text(f"{one.gain.mean:+.3f}", sure),
            Text(_interval(one.gain, sign="+"), sure),
            _number(None if math.isnan(one.null) else one.null, places=3),
        )
    table.add_section()
    table.add_row("random (expected)", "", *_estimate(summary.random, wide=wide))
    table.add_row("oracle (best there was)", "", *_estimate(summary.oracle, wide=wide))
    return table


def _agreement(scores: Iterable[TaskScore]) -> Table:
    """Without rewards: how often each selector decides, and chooses what the default chain chooses."""
    scores = list(scores)
    table = Table(box=None, pad_edge=False)
    for name in ("selector", "decided", "chooses as the default chain"):
        table.add_column(name, justify="left" if name == "selector" else "right")
    for name in scores[0].selections:
        chosen = [score.selections[name].winner for score in scores]
        default = [score.selections["default chain"].winner for score in scores]
        decided = sum(winner is not None for winner in chosen)
        same = sum(one == other for one, other in zip(chosen, default, strict=True) if one is not None)
        table.add_row(name, f"{decided}/{len(scores)}", f"{same}/{decided}")
    return table


def _print_hints(console: Console, scores: Iterable[TaskScore], summary: Summary | None) -> None:
    scores = list(scores)
    single = sum(len(score.candidates) == 1 for score in scores)
    if single:
        console.print(
            f"\n{_count(single, 'task')} of {len(scores)} with one candidate alone: nothing to select. The "
            "candidates of one task share `task`, `custom_id` or `original_id`; or use --task-pattern, --group-by file",
            style="yellow",
        )
    unlabelled = sum(score.rewards is None for score in scores)
    if summary is not None and unlabelled:
        console.print(f"\n{_count(unlabelled, 'task')} without a reward for every candidate: left out", style="yellow")
    if len(scores) > SHOWN_TASKS:
        console.print("", _abstentions(scores))
        console.print("\nevery candidate, task by task: --json", style="dim")


def _number(value: float | None, places: int = 4) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def _estimate(estimate: Estimate, *, wide: bool) -> list[str]:
    return [f"{estimate.mean:.3f}", *([_interval(estimate)] if wide else [])]


def _interval(estimate: Estimate, sign: str = "") -> str:
    if math.isnan(estimate.low):
        return "one task"
    return f"{estimate.low:{sign}.2f} to {estimate.high:{sign}.2f}"


def _json(
    asked: ScoreSettings, scores: Iterable[TaskScore], summary: Summary | None, bad_lines: list[str]
) -> Iterator[str]:
    """One object, written piece by piece."""
    settings = {
        "version": _version(),
        **asdict(asked),
        "files": [str(path) for path in asked.files],
        "settings": {"phases": asdict(asked.settings.phases), "window": asked.settings.window},
    }
    yield f'{{"settings": {json.dumps(settings)}, "bad_lines": {json.dumps(bad_lines)}, "tasks": ['
    for position, score in enumerate(scores):
        yield f"{',' if position else ''}\n{json.dumps(_task(score), allow_nan=False)}"
    yield f'\n], "summary": {json.dumps(_finite(asdict(summary)) if summary else None, allow_nan=False)}}}\n'


def _version() -> str | None:
    try:
        return version("entcent-agents")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return None


def _task(score: TaskScore) -> dict[str, Any]:
    return {
        "task": score.task,
        "candidates": list(score.candidates),
        "left_out": score.left_out,
        "selections": {name: selection.to_dict() for name, selection in score.selections.items()},
    }


def _finite(value: Any) -> Any:
    """NaN as null: JSON has no such number."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
    return None if isinstance(value, float) and math.isnan(value) else value
