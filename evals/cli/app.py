"""The commands and their options; what they do is in the modules beside this one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    name="python -m evals",
    help="Suites of tasks with official checkers: rollouts are stored once and scored under every selector.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def run(
    suite: Annotated[str, typer.Argument(help="A suite, say bfcl, or jsonl:FOLDER for tasks of your own.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the rollouts are stored.")],
    category: Annotated[list[str] | None, typer.Option(help="Parts of the suite; default: all of them.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first tasks of each category.")] = None,
    model: Annotated[
        str,
        typer.Option(
            help="A model of `entcent models list`, a .gguf file, http://…/v1#name, or MODULE:NAME of a chat model."
        ),
    ] = "qwen2.5-coder-1.5b",
    preset: Annotated[str | None, typer.Option(help="Settings of a paper: entropy-centroids or eager.")] = None,
    mode: Annotated[Literal["single", "parallel"], typer.Option(help="One rollout a task, or several.")] = "parallel",
    n: Annotated[int | None, typer.Option("-n", "--n", min=1, help="Rollouts a task.")] = None,
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
    from evals.runner.settings import run_settings

    settings = run_settings(
        preset,
        model=model,
        mode=mode,
        n=n,
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
            limit=limit,
            settings=settings,
            concurrency=concurrency,
            context_tokens=context_tokens,
            prices=Prices(prompt=price_prompt, generated=price_generated),
        )
    )
