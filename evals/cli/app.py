"""The commands and their options; what they do is in the modules beside this one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from evals.runner.modes import Mode

if TYPE_CHECKING:
    from evals.cli.scoring import ScoreRequest

Runs = Annotated[
    list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, their rollouts.sqlite or .parquet.")
]
Only = Annotated[list[str] | None, typer.Option(help="Tasks of this suite, or SUITE/CATEGORY, alone.")]
PartOption = Annotated[Literal["whole", "last-turn"], typer.Option(help="What selectors see of a trajectory.")]
Segment = Annotated[list[str] | None, typer.Option(metavar="KIND", help="Tokens of these kinds alone.")]
Top = Annotated[float, typer.Option(help="A phase starts among this top share of entropies.")]
Bottom = Annotated[float, typer.Option(help="A phase ends among this bottom share.")]
Low = Annotated[int, typer.Option(help="How many such tokens in a row end it.")]
Window = Annotated[float, typer.Option(help="Of group and tail signals: tokens, or a share of the trajectory below 1.")]
ModeOption = Annotated[
    Mode,
    typer.Option(
        help="One rollout a task; several; one that takes the best of n answers at each step; few that branch; the "
        "same, with what tasks leave over given to those that used all of theirs, or, by labels, to those unsolved."
    ),
]
Initial = Annotated[int | None, typer.Option(min=1, help="Rollouts a task is begun with, where they branch.")]
Threshold = Annotated[float | None, typer.Option(min=0.0, help="Entropy above which a decision branches, nats.")]
Percentile = Annotated[
    float | None, typer.Option(min=0.0, max=100.0, help="It must be above this percentile of its task's so far, too.")
]
Decisions = Annotated[list[str] | None, typer.Option(help="Branch at: call, tool, argument; default: all three.")]
MinProbability = Annotated[float | None, typer.Option(help="The least probability of what a branch takes.")]
HabitPenalty = Annotated[float | None, typer.Option(min=0.0, help="Nats that each recent branch adds.")]
PerTurn = Annotated[int | None, typer.Option(min=1, help="Branches of one turn, at most.")]
PerRollout = Annotated[int | None, typer.Option(min=1, help="Branches of one rollout, at most.")]
AfterTool = Annotated[
    float | None, typer.Option(min=-1.0, max=1.0, help="Rise of entropy after a tool's result that branches, too.")
]
Draws = Annotated[int, typer.Option(min=1, help="Draws of each number of rollouts.")]
Shuffles = Annotated[int, typer.Option(min=0, help="Shuffles of the null control; 0: none.")]
Seed = Annotated[int, typer.Option(min=0, help="Of draws, shuffles and bootstrap.")]
Calibration = Annotated[
    str | None,
    typer.Option(metavar="SHARE|RUN", help="Tasks set apart to choose parameters on: a share, or a run of others."),
]
CalibrationFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Phases of `calibrate`, in the place of those shares.")
]
BranchCalibration = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Thresholds of `calibrate`, where rollouts branch, at the k they are of."),
]
Choose = Annotated[
    list[str] | None,
    typer.Option(help="Choose by labels: phases, window, floor, chain, selector; needs a calibration split."),
]

app = typer.Typer(
    name="python -m evals",
    help="Suites of tasks with official checkers: rollouts are stored once and scored under every selector.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command(name="list")
def list_(
    suite: Annotated[str | None, typer.Argument(help="Its categories; without it, every suite.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which suites there are, and which of them are installed."""
    from evals.cli.suites import list_categories, list_suites

    if suite is None:
        list_suites(as_json=as_json)
    else:
        list_categories(suite, as_json=as_json)


@app.command()
def install(suite: Annotated[str, typer.Argument(help="A suite of `list`.")]) -> None:
    """Install the packages that a suite needs, data included, into this environment."""
    from evals.cli.suites import install_suite

    install_suite(suite)


@app.command(name="self-test")
def self_test(
    suite: Annotated[str, typer.Argument(help="A suite that is installed, or jsonl:FOLDER.")],
    category: Annotated[list[str] | None, typer.Option(help="Parts of the suite; default: all of them.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first tasks of each category.")] = None,
) -> None:
    """Test a suite without a model: ground truth passes, doing nothing fails, a fork leaves its parent alone.

    Exit code 0: it judges as it should. 1: it does not; the lines say where. 2: refused.
    """
    from evals.cli.suites import self_test as test

    test(suite, tuple(category or ()), limit)


@app.command()
def run(
    suite: Annotated[str, typer.Argument(help="A suite, say bfcl, or jsonl:FOLDER for tasks of your own.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the rollouts are stored.")],
    category: Annotated[list[str] | None, typer.Option(help="Parts of the suite; default: all of them.")] = None,
    task: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Only tasks named so; * and ? stand for anything.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first tasks of each category.")] = None,
    model: Annotated[
        str,
        typer.Option(
            help="A model of `entcent models list`, a .gguf file, http://…/v1#name, or MODULE:NAME of a chat model."
        ),
    ] = "qwen2.5-coder-1.5b",
    preset: Annotated[str | None, typer.Option(help="Settings of a paper: entropy-centroids or eager.")] = None,
    mode: ModeOption = "parallel",
    n: Annotated[
        int | None,
        typer.Option("-n", "--n", min=1, help="Rollouts a task; branches count. In mode step: answers a step."),
    ] = None,
    initial: Initial = None,
    calibration: BranchCalibration = None,
    threshold: Threshold = None,
    percentile: Percentile = None,
    decision: Decisions = None,
    min_probability: MinProbability = None,
    habit_penalty: HabitPenalty = None,
    max_per_turn: PerTurn = None,
    max_per_rollout: PerRollout = None,
    after_tool: AfterTool = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, max=2.0, help="Of sampling.")] = None,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Nucleus.")] = None,
    top_logprobs: Annotated[int | None, typer.Option(min=1, help="k: alternatives asked for at each token.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of one reply.")] = 1024,
    tools: Annotated[Literal["text", "native"], typer.Option(help="How tools are bound.")] = "text",
    instruction: Annotated[str | None, typer.Option(help="A system message before the task's own messages.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="From which the seeds of all requests follow.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, help="Tasks at a time.")] = 1,
    context_tokens: Annotated[int, typer.Option(min=256, help="Of each rollout on the embedded server.")] = 8192,
    price_prompt: Annotated[float, typer.Option(min=0.0, help="Of a million tokens read.")] = 0.0,
    price_generated: Annotated[float, typer.Option(min=0.0, help="Of a million tokens sampled.")] = 0.0,
) -> None:
    """Run the tasks of SUITE; each rollout is stored as it ends, and the same command goes on where one was stopped.

    Exit code 0: all rollouts are stored. 2: refused, or broken off. 130: interrupted.
    """
    from entcent_agents.budget import Prices
    from evals.cli.running import RunRequest, run_suite
    from evals.runner.settings import branch_policy, run_settings

    settings = run_settings(
        preset,
        calibration,
        model=model,
        mode=mode,
        n=n,
        initial=initial,
        policy=branch_policy(
            calibration,
            threshold=threshold,
            percentile=percentile,
            decisions=decision,
            min_probability=min_probability,
            habit_penalty=habit_penalty,
            max_per_turn=max_per_turn,
            max_per_rollout=max_per_rollout,
            after_tool=after_tool,
        ),
        temperature=temperature,
        top_p=top_p,
        top_logprobs=top_logprobs,
        max_tokens=max_tokens,
        tool_calling=tools,
        instruction=instruction,
        seed=seed,
    )
    run_suite(
        RunRequest(
            suite=suite,
            folder=out,
            categories=tuple(category or ()),
            names=tuple(task or ()),
            limit=limit,
            settings=settings,
            concurrency=concurrency,
            context_tokens=context_tokens,
            prices=Prices(prompt=price_prompt, generated=price_generated),
        )
    )


@app.command()
def score(
    runs: Runs,
    only: Only = None,
    part: PartOption = "whole",
    segment: Segment = None,
    top_percent: Top = 1.0,
    bottom_percent: Bottom = 80.0,
    consecutive_low: Low = 2,
    calibration: CalibrationFile = None,
    window: Window = 2048,
    draws: Draws = 20,
    null_shuffles: Shuffles = 20,
    seed: Seed = 0,
    calibration_split: Calibration = None,
    choose: Choose = None,
    long: Annotated[bool, typer.Option("--long", help="By number of rollouts too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Score stored rollouts under every selector, without a model."""
    from evals.cli.scoring import score as print_scores

    asked = _asked(runs, only, part, segment, (top_percent, bottom_percent, consecutive_low), window)
    asked = _resampled(asked, draws, null_shuffles, seed, calibration_split, choose)
    asked = _calibrated(asked, calibration)
    print_scores(asked, as_json=as_json, long=long)


@app.command()
def report(
    runs: Runs,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page.")],
    only: Only = None,
    part: PartOption = "whole",
    segment: Segment = None,
    top_percent: Top = 1.0,
    bottom_percent: Bottom = 80.0,
    consecutive_low: Low = 2,
    calibration: CalibrationFile = None,
    window: Window = 2048,
    draws: Draws = 20,
    null_shuffles: Shuffles = 20,
    seed: Seed = 0,
    calibration_split: Calibration = None,
    choose: Choose = None,
) -> None:
    """Write all tables of `score` as a page of Markdown."""
    from evals.cli.scoring import write_report

    asked = _asked(runs, only, part, segment, (top_percent, bottom_percent, consecutive_low), window)
    asked = _resampled(asked, draws, null_shuffles, seed, calibration_split, choose)
    write_report(_calibrated(asked, calibration), out)


@app.command()
def validity(
    runs: Runs,
    only: Only = None,
    top_percent: Top = 1.0,
    bottom_percent: Bottom = 80.0,
    consecutive_low: Low = 2,
    window: Window = 2048,
    null_shuffles: Shuffles = 10,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the tables there, as Markdown.")] = None,
    long: Annotated[bool, typer.Option("--long", help="Every selector and signal.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Where is each signal valid? By length, phases, rationale and suite, in mixed tasks.

    Each selector and signal sees the whole trajectory, its last turn, and the tokens of tool arguments. A task that is
    in several runs, say with and without a rationale, is looked at in each.
    """
    from evals.cli.validity import validity as print_validity

    asked = _asked(runs, only, "whole", None, (top_percent, bottom_percent, consecutive_low), window)
    asked = _resampled(asked, 1, null_shuffles, seed, None, None)
    print_validity(asked, as_json=as_json, long=long, page=out)


@app.command()
def calibrate(
    runs: Runs,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the thresholds go.")] = Path("calibration.toml"),
    only: Only = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first tasks of each run.")] = None,
    percentile: Annotated[float, typer.Option(help="Branch above this percentile of decision tokens.")] = 90.0,
    top_percent: Top = 1.0,
    bottom_percent: Bottom = 80.0,
    consecutive_low: Low = 2,
    picture: Annotated[Path | None, typer.Option(metavar="FILE", help="What is printed, as an SVG picture.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Measure on stored rollouts from which entropy on a rollout should branch; their rewards are not looked at."""
    from entcent_agents.cli.calibration import Wanted
    from entcent_agents.phases import PhaseConfig
    from evals.cli.calibrating import calibrate as measure

    phases = PhaseConfig(top_percent=top_percent, bottom_percent=bottom_percent, consecutive_low=consecutive_low)
    wanted = Wanted(percentile=percentile, phases=phases, out=out, picture=picture, as_json=as_json)
    measure(runs, tuple(only or ()), limit, wanted)


@app.command()
def compare(
    runs: Runs,
    only: Only = None,
    part: PartOption = "whole",
    segment: Segment = None,
    top_percent: Top = 1.0,
    bottom_percent: Bottom = 80.0,
    consecutive_low: Low = 2,
    window: Window = 2048,
    seed: Seed = 0,
) -> None:
    """Compare runs on the tasks they share: tokens, seconds, pass rates, every selector, and where rollouts branched.

    Differences are to the first run, paired by task.
    """
    from evals.cli.scoring import compare_runs

    asked = _asked(runs, only, part, segment, (top_percent, bottom_percent, consecutive_low), window)
    compare_runs(_resampled(asked, 1, 0, seed, None, None))


def _asked(
    runs: list[Path],
    only: list[str] | None,
    part: Literal["whole", "last-turn"],
    segment: list[str] | None,
    phases: tuple[float, float, int],
    window: float,
) -> ScoreRequest:
    from entcent_agents.phases import PhaseConfig
    from entcent_agents.signals import SignalSettings
    from evals.cli.scoring import ScoreRequest, window_of
    from evals.scoring.choosing import Resampling

    top, bottom, low = phases
    config = PhaseConfig(top_percent=top, bottom_percent=bottom, consecutive_low=low)
    return ScoreRequest(
        runs=tuple(runs),
        signals=SignalSettings(phases=config, window=window_of(window)),
        resampling=Resampling(),
        only=tuple(only or ()),
        part=part,
        segments=tuple(segment or ()),
    )


def _resampled(
    asked: ScoreRequest, draws: int, shuffles: int, seed: int, calibration: str | None, choose: list[str] | None
) -> ScoreRequest:
    from evals.scoring.choosing import Resampling

    return replace(
        asked,
        resampling=Resampling(draws=draws, shuffles=shuffles, seed=seed),
        calibration=calibration,
        choose=tuple(choose or ()),
    )


def _calibrated(asked: ScoreRequest, file: Path | None) -> ScoreRequest:
    if file is None:
        return asked
    from entcent_agents.branching import Calibration

    found = Calibration.read(file)
    return replace(asked, signals=replace(asked.signals, phases=found.phases), top_k=found.top_k)
