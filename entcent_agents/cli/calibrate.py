"""`entcent calibrate`: thresholds from recorded rollouts, or from questions that are asked for the purpose."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from entcent_agents.cli.calibration import Wanted, calibrate_on
from entcent_agents.cli.run import require_writable
from entcent_agents.cli.serving import serve
from entcent_agents.cli.setup import Prepared, Setup
from entcent_agents.errors import ConfigurationError, RecordingError, RolloutError
from entcent_agents.trajectory import Rollout, Trajectory

QUESTION_KEYS: Final = ("question", "prompt", "task")
"""Where a line of JSON has its question."""
_OF_RUNS: Final = (".parquet", ".sqlite")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateSettings:
    """The options of `entcent calibrate`."""

    files: tuple[Path, ...]
    questions: Path | None
    model: str | None
    setup: Setup
    record: Path | None
    wanted: Wanted


def calibrate(asked: CalibrateSettings) -> None:
    """Measure, print, and write the thresholds down; nothing else is changed."""
    if bool(asked.files) == (asked.questions is not None):
        raise ConfigurationError("calibrate on recorded rollouts, FILE..., or on --questions FILE: one of them")
    asked.wanted.require_sensible()
    if asked.questions is None:
        calibrate_on(_recorded(asked.files), asked.model, asked.wanted)
    else:
        calibrate_on(_answers(asked, questions_of(asked.questions)), asked.setup.model_name, asked.wanted)


def questions_of(path: Path) -> list[str]:
    """The questions in a file: one a line, as they are or as JSON with `question`, `prompt` or `task`.

    Raises:
        ConfigurationError: Where it cannot be read, or has none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigurationError(f"--questions {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"--questions {path} is no UTF-8 text: {error.reason}") from None
    questions = [_question(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise ConfigurationError(f"--questions {path} is empty: write one question a line, about 10 of them")
    return questions


def _question(line: str, where: str) -> str:
    if not line.lstrip().startswith("{"):
        return line.strip()
    try:
        record = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{where}: {error}") from None
    found = next((record[key] for key in QUESTION_KEYS if key in record), None)
    if not isinstance(found, str) or not found.strip():
        raise ConfigurationError(f"{where}: no text under {', '.join(QUESTION_KEYS)}; it has {', '.join(record)}")
    return found


def _recorded(files: Sequence[Path]) -> list[list[Trajectory]]:
    from entcent_agents.recordings import read_recordings

    for file in files:
        if file.is_dir() or file.suffix in _OF_RUNS:
            raise RecordingError(f"{file}: not recorded rollouts; of a run:  python -m evals calibrate {file}")
    return [[one.rollout.trajectory for one in candidates] for candidates in read_recordings(files)]


def _answers(asked: CalibrateSettings, questions: Sequence[str]) -> list[list[Trajectory]]:
    """The trajectories of all questions, asked one after the other."""
    asked.setup.require_sensible()
    if asked.record is not None:
        require_writable("--record", asked.record)
    prepared = Prepared(asked.setup)
    console = Console(stderr=True, highlight=False)
    try:
        found = asyncio.run(_ask_all(asked, prepared, questions, console))
    except KeyboardInterrupt:
        console.print("[bold]interrupted:[/] nothing was changed")
        raise typer.Exit(130) from None
    return [[rollout.trajectory for rollout in rollouts] for rollouts in found]


async def _ask_all(
    asked: CalibrateSettings, prepared: Prepared, questions: Sequence[str], console: Console
) -> list[list[Rollout]]:
    from entcent_agents.cli.declarations import declared
    from entcent_agents.prebuilt import entropy_centroid_graph

    setup, found = asked.setup, list[list[Rollout]]()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        async with serve(setup.model, setup.n) as served:
            await setup.chat(served).acheck()
            graph = entropy_centroid_graph(
                prepared.on(served),
                n=setup.n,
                seed=setup.seed,
                environments=prepared.environments,
                effects=declared(setup.read, ()),
            )
            for number, question in enumerate(bar.track(questions, description="asking"), 1):
                try:
                    rollouts = await _speculated(graph, question)
                except RolloutError as error:  # one question less is no reason to throw the others away
                    console.print(Text(f"question {number} is left out: {error}", "yellow"), soft_wrap=True)
                    continue
                found.append(rollouts)
                if asked.record is not None:
                    _record(asked.record, question, rollouts)
                if not console.is_terminal:
                    tokens = sum(rollout.trajectory.scored_tokens for rollout in rollouts)
                    console.print(f"question {number} of {len(questions)}: {tokens:,} tokens")
    return found


async def _speculated(graph: Any, question: str) -> list[Rollout]:
    """The rollouts of a question. The graph ends before it selects and commits: then it forgets them."""
    given = {"messages": [("user", question)]}
    records: list[dict[str, Any]] = []
    async for event in graph.astream(given, stream_mode="updates", interrupt_before=["select"]):
        if event.get("rollouts"):
            records = event["rollouts"]["rollouts"]
    return [Rollout.from_dict(record) for record in records]


def _record(path: Path, question: str, rollouts: Sequence[Rollout]) -> None:
    from entcent_agents.recordings import recorded_line
    from entcent_agents.recordings.appending import append_lines

    try:
        append_lines(path, [recorded_line(question, rollout) for rollout in rollouts])
    except OSError as error:
        raise ConfigurationError(f"--record {path}: {error.strerror}") from None
