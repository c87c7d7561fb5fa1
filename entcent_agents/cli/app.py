"""The commands and their options; what they do is in the modules beside this one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    name="entcent",
    help="Several rollouts of an agent at once; the one whose uncertainty comes early is committed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
models = typer.Typer(help="The models that run on this computer.", no_args_is_help=True)
app.add_typer(models, name="models")

DEFAULT_MODEL = "qwen2.5-coder-1.5b"


@app.command()
def run(
    task: Annotated[str, typer.Argument(help="What the agent is to do, in words.")],
    db: Annotated[Path | None, typer.Option("--db", help="SQLite database the agent works on.")] = None,
    workspace: Annotated[Path | None, typer.Option(help="Folder the agent works in.")] = None,
    model: Annotated[
        str, typer.Option(help="A model of `entcent models list`, a .gguf file, or http://…/v1#name.")
    ] = DEFAULT_MODEL,
    agent: Annotated[
        str | None, typer.Option(metavar="FILE:FACTORY", help="Your own: factory(model, environments) → graph.")
    ] = None,
    n: Annotated[int, typer.Option("-n", "--rollouts", help="How many rollouts.")] = 4,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 0.7,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable on a deterministic server.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of one turn.")] = 400,
    tools: Annotated[
        Literal["text", "native"], typer.Option(help="How the model is told of its tools and calls them.")
    ] = "text",
    read: Annotated[
        list[str] | None, typer.Option("--read", metavar="TOOL", help="Declare that a tool changes nothing.")
    ] = None,
    external: Annotated[
        list[str] | None,
        typer.Option(
            "--external",
            metavar="TOOL",
            help="Declare that a tool touches the real world: the selected rollout's calls are made, once.",
        ),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append the finished rollouts to FILE, for entcent score.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Run TASK as several rollouts, select one and commit it; ask you what the agent asks.

    Exit code 0: done. 2: refused, or failed. 3: the agent asks, and there is no terminal to ask at. 130: interrupted.
    """
    from entcent_agents.cli.run import RunSettings, run_task

    run_task(
        RunSettings(
            task=task,
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
    top_percent: Annotated[float, typer.Option(help="A phase starts among this top share of entropies.")] = 1.0,
    bottom_percent: Annotated[float, typer.Option(help="A phase ends among this bottom share.")] = 80.0,
    consecutive_low: Annotated[int, typer.Option(help="How many such tokens in a row end it.")] = 2,
    window: Annotated[
        float, typer.Option(help="Of group and tail signals: tokens, or a share of the trajectory below 1.")
    ] = 2048,
    null_shuffles: Annotated[int, typer.Option(min=0, help="Shuffles of the null control; 0: none.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap and the null control.")] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without lines that cannot be read.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Rank recorded rollouts under every selector, without a model; with rewards, say how right each was."""
    from entcent_agents.cli.score import ScoreSettings, score_files
    from entcent_agents.phases import PhaseConfig
    from entcent_agents.signals import SignalSettings

    phases = PhaseConfig(top_percent=top_percent, bottom_percent=bottom_percent, consecutive_low=consecutive_low)
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
def doctor(
    model: Annotated[
        str, typer.Option(help="A model of `entcent models list`, a .gguf file, or http://…/v1#name.")
    ] = DEFAULT_MODEL,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as one JSON object.")] = False,
) -> None:
    """Measure what a model's server can do: log-probabilities, tools, choices, temperature.

    Takes some 30 small requests.

    Exit code 0: usable. 1: no log-probabilities. 2: no server.
    """
    from entcent_agents.cli.doctor import diagnose

    diagnose(model, as_json=as_json)


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
