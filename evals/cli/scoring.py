"""`python -m evals score`, `compare` and `report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from entcent_agents.cli.score import segment_kinds
from entcent_agents.errors import ConfigurationError
from entcent_agents.signals import SignalSettings
from evals.cli.printing import print_json, print_tables, watched, write_page
from evals.errors import EvaluationError
from evals.scoring.branches import branch_lines, without_second_pass
from evals.scoring.calibration import Parameters, Split, parameters, split_by_share, split_by_tasks
from evals.scoring.candidates import Known, Part, TaskRollouts, tasks_of
from evals.scoring.choosing import Resampling
from evals.scoring.comparing import COSTS, accuracies, at_equal_tokens, compare, shared
from evals.scoring.report import Report, report_on
from evals.scoring.tables import branched, compared, matched, tables_of
from evals.store import StoredRun, read_run

_COSTS_NOTE: Final = (
    "All rollouts of a task together, means over tasks. generated: sampled for them; reused: inherited from "
    "those they branched from; prompt: read. seconds: in which any of them was under way."
)
_RATES_NOTE: Final = (
    "pass@k: any of a task's rollouts is right, however many there are. Differences to the first run; 95 %: paired "
    "bootstrap over tasks."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """The options of `score`, `compare` and `report`; with fixed thresholds of phases, the k that they are of."""

    runs: tuple[Path, ...]
    signals: SignalSettings
    resampling: Resampling
    only: tuple[str, ...] = ()
    part: Part = "whole"
    segments: tuple[str, ...] = ()
    calibration: str | None = None
    choose: tuple[str, ...] = ()
    top_k: int | None = None


def score(asked: ScoreRequest, *, as_json: bool, long: bool) -> None:
    """Print the tables, or everything as JSON."""
    report = _report(asked)
    if as_json:
        print_json(asdict(report))
    else:
        print_tables(report.settings, tables_of(report, long=long))


def write_report(asked: ScoreRequest, page: Path) -> None:
    """Write all tables as a page of Markdown."""
    report = _report(asked)
    write_page(page, "Evaluation", report.settings, tables_of(report, long=True))


def compare_runs(asked: ScoreRequest) -> None:
    """Print every figure of some runs, the differences to the first, paired by task, and where rollouts branched."""
    if len(asked.runs) < 2:
        raise ConfigurationError("one run alone is compared with nothing: name two at least")
    runs = [read_run(path) for path in asked.runs]
    known = [_known(asked, [run]) for run in runs]
    tasks = shared([each.tasks for each in known])
    names = [f"{place} {run.name}" for place, run in enumerate(runs, 1)]
    given, seed = parameters((), asked.signals, None), asked.resampling.seed
    costs = compare(tasks, COSTS, seed=seed)
    rates = compare(tasks, accuracies(given.selectors), seed=seed)
    equal = {name: at_equal_tokens(tasks[0], run, seed=seed) for name, run in zip(names[1:], tasks[1:], strict=True)}
    lines = {name: branch_lines(run) for name, run in zip(names, tasks, strict=True)}
    print_tables(
        {
            "settings that differ": _differing(runs) or "none",
            **made_by(runs),
            **_left_out(names, known, len(tasks[0])),
        },
        [
            compared(f"What a task took: {len(tasks[0])} tasks in all runs", names, costs, _COSTS_NOTE),
            compared("What it came to", names, rates, _RATES_NOTE),
            *([matched(names[0], sampled)] if (sampled := {name: one for name, one in equal.items() if one}) else []),
            *(branched(name, found) for name, found in lines.items() if found),
        ],
    )


def _left_out(names: Sequence[str], known: Sequence[Known], compared: int) -> dict[str, str]:
    """Tasks of each run that are not compared: of other tasks figures may be others."""
    found = {
        name: len(each.tasks) + each.unjudged + each.incomplete - compared
        for name, each in zip(names, known, strict=True)
    }
    said = ", ".join(f"{count} of {name}" for name, count in found.items() if count)
    return {"tasks left out": said} if said else {}


def _differing(runs: Sequence[StoredRun]) -> str:
    """Settings that are not the same in all runs, with the value of each."""
    names = sorted({name for run in runs for name in run.settings})
    values = {name: [run.settings.get(name) for run in runs] for name in names}
    return "; ".join(
        f"{name}: {', '.join(map(repr, found))}"
        for name, found in values.items()
        if any(value != found[0] for value in found)
    )


def _report(asked: ScoreRequest) -> Report:
    runs = [read_run(path) for path in asked.runs]
    known = _known(asked, runs)
    split = _split(asked, known.tasks)
    given = parameters(asked.choose, asked.signals, split)
    tasks = known.tasks if split is None else split.test
    with watched(tasks) as track:
        return report_on(
            tasks,
            given.selectors,
            given.signals,
            asked.resampling,
            settings=_settings(asked, runs, known, split, given),
            chosen=[one.selector for one in given.chosen if one.selector],
            track=track,
        )


def _known(asked: ScoreRequest, runs: Sequence[StoredRun]) -> Known:
    known = tasks_of(runs, part=asked.part, kinds=segment_kinds(asked.segments), suites=asked.only)
    if not known.tasks:
        raise no_tasks()
    if asked.top_k is not None:
        _require_k(asked.top_k, known.tasks)
    return known


def _require_k(top_k: int, tasks: Sequence[TaskRollouts]) -> None:
    found = {rollout.trajectory.top_k for task in tasks for rollout in task.rollouts}
    if others := sorted(k for k in found if k not in (None, top_k)):
        said = " and ".join(f"top-k {k}" if k else "several k" for k in others)
        raise ConfigurationError(f"calibrated at top-k {top_k}, and some rollouts have {said}: these do not compare")


def _split(asked: ScoreRequest, tasks: Sequence[TaskRollouts]) -> Split | None:
    if asked.calibration is None:
        return None
    try:
        share = float(asked.calibration)
    except ValueError:
        return split_by_tasks(_known(asked, [read_run(Path(asked.calibration))]).tasks, tasks)
    return split_by_share(tasks, share)


def _settings(
    asked: ScoreRequest, runs: Sequence[StoredRun], known: Known, split: Split | None, given: Parameters
) -> dict[str, Any]:
    tokens = " and ".join(asked.segments) or "all"
    lines = measuring_lines(replace(asked, signals=given.signals), runs, known) | {
        "tokens": f"{asked.part} trajectory, {tokens}" if asked.part == "whole" else f"last turn, {tokens}",
        "calibration": "none: nothing was chosen by labels"
        if split is None
        else f"{len(split.calibration)} tasks set apart, {len(split.test)} reported",
    }
    for one in given.chosen:
        lines[f"chosen {one.parameter}"] = (
            f"{one.value} (of {len(one.tried)}, by {one.criterion} {one.figure:.3f} on the calibration tasks)"
        )
        lines[f"tried for {one.parameter}"] = "; ".join(f"{name} {figure:.3f}" for name, figure in one.tried.items())
    return lines


def measuring_lines(asked: ScoreRequest, runs: Sequence[StoredRun], known: Known) -> dict[str, Any]:
    """What figures are worked out from, and with what."""
    resampling = asked.resampling
    lines: dict[str, Any] = {
        f"run {run.path}": ", ".join(f"{name} {value}" for name, value in run.settings.items() if value is not None)
        for run in runs
    }
    lines |= made_by(runs)
    lines |= {
        "phases": str(asked.signals.phases),
        "window": f"{asked.signals.window:g}",
        "resampling": f"{resampling.draws} draws, {resampling.shuffles} shuffles, seed {resampling.seed}",
    }
    if known.unjudged:
        lines["left out"] = f"{known.unjudged} tasks, on a rollout of which the checker broke"
    if known.incomplete:
        lines["not complete"] = f"{known.incomplete} tasks, of which rollouts are missing, are left out"
    if known.repeated:
        lines["in several runs"] = f"{known.repeated} tasks: the first of these runs counts"
    return lines


def made_by(runs: Sequence[StoredRun]) -> dict[str, str]:
    """What has to be known of how rollouts were made before their figures are believed."""
    lines: dict[str, str] = {}
    if named := [run.name for run in runs if run.branches]:
        lines["not independent"] = f"rollouts of {', '.join(named)} branch: pass@k and pass^k are no unbiased estimates"
    if named := [run.name for run in runs if run.uses_labels]:
        lines["labels"] = f"rewards decided which tasks of {', '.join(named)} got more rollouts: a bound, no method"
    if waiting := [f"{count} tasks of {run.name}" for run in runs if (count := without_second_pass(run))]:
        lines["not through"] = f"{', '.join(waiting)} wait for their second pass: start the same run again"
    return lines


def no_tasks() -> EvaluationError:
    """The error where nothing is left to score."""
    return EvaluationError("no task with judged rollouts is stored there, or none that --only names")


def window_of(number: float) -> float | int:
    """A window as options have it: tokens, or a share of the trajectory below 1."""
    if number >= 1 and not number.is_integer():
        raise ConfigurationError(f"--window {number}: whole tokens, or a share below 1")
    return int(number) if number >= 1 else number
