"""The commands and their options; what they do is in the modules beside this one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app: typer.Typer = typer.Typer(
    name="entcent",
    help="Several rollouts of an agent at once; the one whose uncertainty comes early is committed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
models: typer.Typer = typer.Typer(help="The models that run on this computer.", no_args_is_help=True)
app.add_typer(models, name="models")

DEFAULT_MODEL = "qwen2.5-coder-1.5b"
MODEL_HELP = "A model of `entcent models list`, a .gguf file, or http://…/v1#name."
Database = Annotated[Path | None, typer.Option("--db", help="SQLite database the agent works on.")]
Workspace = Annotated[Path | None, typer.Option(help="Folder the agent works in.")]
Model = Annotated[str, typer.Option(help=MODEL_HELP)]
Agent = Annotated[
    str | None, typer.Option(metavar="FILE:FACTORY", help="Your own: factory(model, environments) → graph.")
]
Temperature = Annotated[float, typer.Option(help="Sampling temperature.")]
Seed = Annotated[int | None, typer.Option(help="Makes sampling repeatable on a deterministic server.")]
MaxTokens = Annotated[int, typer.Option(help="Most tokens of one turn.")]
Tools = Annotated[Literal["text", "native"], typer.Option(help="How the model is told of its tools and calls them.")]
Read = Annotated[list[str] | None, typer.Option("--read", metavar="TOOL", help="Declare that a tool changes nothing.")]
Top = Annotated[float, typer.Option(help="A phase starts among this top share of entropies.")]
Bottom = Annotated[float, typer.Option(help="A phase ends among this bottom share.")]
Low = Annotated[int, typer.Option(help="How many such tokens in a row end it.")]


@app.command()
def run(
    task: Annotated[str, typer.Argument(help="What the agent is to do, in words.")],
    db: Database = None,
    workspace: Workspace = None,
    model: Model = DEFAULT_MODEL,
    agent: Agent = None,
    n: Annotated[int, typer.Option("-n", "--rollouts", help="How many rollouts, branches included.")] = 4,
    initial: Annotated[
        int | None,
        typer.Option(min=1, help="Begin so many, and let them branch where they hesitate over a tool, up to -n."),
    ] = None,
    consensus: Annotated[
        Literal["share", "posterior"] | None,
        typer.Option(help="Stop the others once 4 or more have ended, and 0.95 of them, or the posterior, agree."),
    ] = None,
    temperature: Temperature = 0.7,
    seed: Seed = None,
    max_tokens: MaxTokens = 400,
    tools: Tools = "text",
    read: Read = None,
    external: Annotated[
        list[str] | None,
        typer.Option(
            "--external",
            metavar="TOOL",
            help="Declare that a tool touches the real world: the selected rollout's calls are made, once.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Thresholds of `entcent calibrate`, at the k they are of.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append the finished rollouts to FILE, for entcent score.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Run TASK as several rollouts, select one and commit it; ask you what the agent asks.

    Exit code 0: done. 2: refused, or failed. 3: the agent asks, and there is no terminal to ask at. 130: interrupted.
    """
    from entcent_agents.branching import Calibration
    from entcent_agents.cli.run import RunSettings, run_task
    from entcent_agents.cli.setup import Setup

    calibrated = None if calibration is None else Calibration.read(calibration)
    setup = Setup(
        db=db,
        workspace=workspace,
        model=model,
        agent=agent,
        n=n,
        temperature=temperature,
        seed=seed,
        max_tokens=max_tokens,
        tool_calling=tools,
        read=tuple(read or ()),
        external=tuple(external or ()),
        **({} if calibrated is None else {"top_logprobs": calibrated.top_k}),
    )
    run_task(
        RunSettings(
            task=task,
            setup=setup,
            initial=initial,
            consensus=consensus,
            calibration=calibrated,
            record=record,
            as_json=as_json,
        )
    )


@app.command()
def score(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Recorded generations; see docs/recordings.md.")
    ],
    group_by: Annotated[
        Literal["id", "file"], typer.Option(help="What candidates of one task share: an identifier, or the file.")
    ] = "id",
    task_pattern: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Where in its identifier the task is: first group, or match.")
    ] = None,
    answer: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Where in a text the answer is that votes compare: last match.")
    ] = None,
    segment: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="Signals of these tokens alone, say tool-argument.")
    ] = None,
    top_percent: Top = 1.0,
    bottom_percent: Bottom = 80.0,
    consecutive_low: Low = 2,
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Phases of `entcent calibrate`, in the place of those shares.")
    ] = None,
    window: Annotated[
        float, typer.Option(help="Of group and tail signals: tokens, or a share of the trajectory below 1.")
    ] = 2048,
    null_shuffles: Annotated[int, typer.Option(min=0, help="Shuffles of the null control; 0: none.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap and the null control.")] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without lines that cannot be read.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Rank recorded rollouts under every selector, without a model; with rewards, say how right each was."""
    from entcent_agents.branching import Calibration
    from entcent_agents.cli.score import ScoreSettings, score_files
    from entcent_agents.phases import PhaseConfig
    from entcent_agents.signals import SignalSettings

    phases = PhaseConfig(top_percent=top_percent, bottom_percent=bottom_percent, consecutive_low=consecutive_low)
    if calibration is not None:
        phases = Calibration.read(calibration).phases
    score_files(
        ScoreSettings(
            files=tuple(files),
            settings=SignalSettings(phases=phases, window=int(window) if window.is_integer() else window),
            group_by=group_by,
            task_pattern=task_pattern,
            answer=answer,
            segments=tuple(segment or ()),
            shuffles=null_shuffles,
            seed=seed,
            skip_bad=skip_bad,
            as_json=as_json,
        )
    )


@app.command()
def calibrate(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Recorded rollouts; see docs/recordings.md.")
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ask these, one a line, instead; about 10 are enough.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the thresholds go.")] = Path("calibration.toml"),
    percentile: Annotated[float, typer.Option(help="Branch above this percentile of decision tokens.")] = 90.0,
    top_percent: Top = 1.0,
    bottom_percent: Bottom = 80.0,
    consecutive_low: Low = 2,
    picture: Annotated[Path | None, typer.Option(metavar="FILE", help="What is printed, as an SVG picture.")] = None,
    db: Database = None,
    workspace: Workspace = None,
    model: Annotated[
        str | None, typer.Option(help=f"{MODEL_HELP} Of recorded rollouts: the name that is written down.")
    ] = None,
    agent: Agent = None,
    n: Annotated[int, typer.Option("-n", "--rollouts", help="How many rollouts of each question.")] = 2,
    temperature: Temperature = 0.7,
    seed: Seed = None,
    max_tokens: MaxTokens = 400,
    top_logprobs: Annotated[int, typer.Option(min=1, help="k: alternatives asked for at each token.")] = 10,
    tools: Tools = "text",
    read: Read = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append the rollouts to FILE, to calibrate on them again.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Measure from which entropy on a rollout should branch, on about 10 tasks without labels.

    Takes recorded rollouts, or asks questions of a model with an agent's tools; nothing that these rollouts do is
    committed, and no external call is made. Then: entcent run TASK --calibration calibration.toml
    """
    from entcent_agents.cli.calibrate import CalibrateSettings
    from entcent_agents.cli.calibrate import calibrate as measure
    from entcent_agents.cli.calibration import Wanted
    from entcent_agents.cli.setup import Setup
    from entcent_agents.phases import PhaseConfig

    phases = PhaseConfig(top_percent=top_percent, bottom_percent=bottom_percent, consecutive_low=consecutive_low)
    setup = Setup(
        db=db,
        workspace=workspace,
        model=model or DEFAULT_MODEL,
        agent=agent,
        n=n,
        temperature=temperature,
        seed=seed,
        max_tokens=max_tokens,
        tool_calling=tools,
        read=tuple(read or ()),
        top_logprobs=top_logprobs,
    )
    measure(
        CalibrateSettings(
            files=tuple(files or ()),
            questions=questions,
            model=model,
            setup=setup,
            record=record,
            wanted=Wanted(percentile=percentile, phases=phases, out=out, picture=picture, as_json=as_json),
        )
    )


@app.command()
def doctor(
    model: Model = DEFAULT_MODEL,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as one JSON object.")] = False,
    timeout_seconds: Annotated[
        float, typer.Option(min=0.001, help="Longest silence of the server; more for one that still loads or compiles.")
    ] = 120.0,
) -> None:
    """Measure what a model's server can do: log-probabilities, tools, choices, temperature.

    Takes some 30 small requests.

    Exit code 0: usable. 1: no log-probabilities. 2: no server.
    """
    from entcent_agents.cli.doctor import diagnose

    diagnose(model, as_json=as_json, timeout_seconds=timeout_seconds)


@models.command("list")
def list_models() -> None:
    """Show the known models, and which are here."""
    from entcent_agents.cli.models import show_models

    show_models()


@models.command()
def pull(
    name: Annotated[str, typer.Argument(help="A name of `entcent models list`.")],
    force: Annotated[bool, typer.Option(help="Download it again even where it is intact.")] = False,
) -> None:
    """Download a model; an interrupted download goes on where it stopped."""
    from entcent_agents.cli.models import pull_model

    pull_model(name, force=force)
