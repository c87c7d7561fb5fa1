"""`entcent run`: from a task in words to a committed rollout."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import typer
from rich.console import Console

from entcent_agents.cli import STARTED
from entcent_agents.cli.agents import agent_factory, build_agent
from entcent_agents.cli.result import RunResult, print_result
from entcent_agents.cli.serving import address_of, serve
from entcent_agents.cli.view import RolloutView
from entcent_agents.environments import DirectoryEnvironment, Environment, SqliteEnvironment
from entcent_agents.errors import ConfigurationError
from entcent_agents.trajectory import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """The options of `entcent run`, as the command line has them."""

    task: str
    db: Path | None
    workspace: Path | None
    model: str
    agent: str | None
    n: int
    temperature: float
    seed: int | None
    max_tokens: int
    tool_calling: Literal["text", "native"]
    read: tuple[str, ...]
    record: Path | None
    as_json: bool


def run_task(settings: RunSettings) -> None:
    """Run it and print the result; what can be seen to be wrong is refused before the model is started."""
    if settings.n < 1:
        raise ConfigurationError(f"-n {settings.n}: at least one rollout is needed")
    if not 0.0 <= settings.temperature <= 2.0:
        raise ConfigurationError(f"--temperature {settings.temperature} is outside 0 to 2")
    if not settings.task.strip():
        raise ConfigurationError("the task is empty: say what the agent is to do")
    if settings.record is not None:
        _require_writable(settings.record)
    address_of(settings.model)
    environments = _environments(settings)
    factory = agent_factory(settings.agent)
    if settings.agent is None and not environments:
        raise ConfigurationError("the agent has no tools: pass --db FILE or --workspace DIR")
    view = RolloutView(settings.n, settings.model)
    try:
        result = asyncio.run(_run(settings, environments, factory, view))
    except KeyboardInterrupt:
        what = "the commit had begun and was carried through" if view.committing else "nothing was changed"
        Console(stderr=True).print(f"[bold]interrupted:[/] {what}")
        raise typer.Exit(130) from None
    print_result(result, as_json=settings.as_json)
    if settings.record is not None:
        _record(settings.record, result)


def _record(path: Path, result: RunResult) -> None:
    """Append the rollouts that finished, for `entcent score`."""
    from entcent_agents.recordings import recorded_line

    lines = [recorded_line(result.task, rollout) for rollout in result.rollouts if rollout.status == "finished"]
    try:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        raise ConfigurationError(f"--record {path}: {error.strerror}; the run itself was committed") from None


def _require_writable(path: Path) -> None:
    try:
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise ConfigurationError(f"--record {path} cannot be written ({error.strerror}): name a file") from None


async def _run(settings: RunSettings, environments: list[Environment], factory: Any, view: RolloutView) -> RunResult:
    with view:
        async with serve(settings.model, settings.n) as served:
            view.say("checking the model")
            model = await _model(settings, served)
            graph = _graph(settings, environments, factory, model)
            view.say("running")
            return await _stream(graph, settings, view)


async def _model(settings: RunSettings, served: Any) -> Any:
    from entcent_agents.chat.model import ChatLogprobs

    model = ChatLogprobs(
        model=served.name,
        base_url=served.base_url,
        api_key=served.api_key,
        tool_calling=settings.tool_calling,
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
    )
    await model.acheck()
    return model


def _graph(settings: RunSettings, environments: list[Environment], factory: Any, model: Any) -> Any:
    from entcent_agents.prebuilt import entropy_centroid_graph

    return entropy_centroid_graph(
        build_agent(factory, model, [environment.name for environment in environments]),
        n=settings.n,
        seed=settings.seed,
        environments=environments,
        effects=dict.fromkeys(settings.read, "READ"),
    )


async def _stream(graph: Any, settings: RunSettings, view: RolloutView) -> RunResult:
    started = time.perf_counter()
    rollouts: list[Rollout] = []
    update: dict[str, Any] = {}
    async for mode, event in graph.astream({"messages": [("user", settings.task)]}, stream_mode=["custom", "updates"]):
        if mode == "custom":
            view.show(event)
        elif "rollouts" in event:
            rollouts = [Rollout.from_dict(record) for record in event["rollouts"]["rollouts"]]
        else:
            update = event.get("select", update)
    return RunResult(
        task=settings.task,
        model=settings.model,
        rollouts=rollouts,
        selection=update["selection"],
        answer=str(update["messages"][-1].text),
        seconds=time.perf_counter() - started,
        first_token_seconds=None if view.first_token is None else view.first_token - STARTED,
    )


def _environments(settings: RunSettings) -> list[Environment]:
    environments: list[Environment] = []
    if settings.db is not None:
        environments.append(SqliteEnvironment(settings.db))
    if settings.workspace is not None:
        environments.append(DirectoryEnvironment(settings.workspace))
    return environments
