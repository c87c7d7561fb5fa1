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
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Run TASK as several rollouts, select one and commit it."""
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
            as_json=as_json,
        )
    )


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
