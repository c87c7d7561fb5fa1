"""`entcent run`: from a task in words to a committed rollout."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer
from rich.console import Console
from rich.text import Text

from entcent_agents.branching import BranchPolicy, Calibration, EarlyStopping
from entcent_agents.branching.stopping import Consensus
from entcent_agents.cli import STARTED
from entcent_agents.cli.result import Round, RunResult, print_questions, print_result, print_so_far
from entcent_agents.cli.serving import serve
from entcent_agents.cli.setup import Prepared, Setup
from entcent_agents.cli.view import RolloutView
from entcent_agents.errors import ConfigurationError
from entcent_agents.ledger import LedgerSettings
from entcent_agents.trajectory import Rollout

if TYPE_CHECKING:  # LangGraph takes seconds to import, and a refusal should not
    from langgraph.types import Interrupt

    from entcent_agents.effects import ToolEffect

QUESTIONS_LEFT: Final = 3
"""Exit code where the agent asks and nobody is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """The options of `entcent run`, as the command line has them."""

    task: str
    setup: Setup
    initial: int | None
    consensus: Consensus | None
    calibration: Calibration | None
    record: Path | None
    as_json: bool

    @property
    def policy(self) -> BranchPolicy | None:
        """When rollouts branch: above calibrated thresholds, where there are some; None: they do not."""
        if self.initial is None:
            return None
        return BranchPolicy() if self.calibration is None else BranchPolicy.calibrated(self.calibration)

    @property
    def stopping(self) -> EarlyStopping | None:
        """What ends rollouts early; None: nothing does."""
        return None if self.consensus is None else EarlyStopping(consensus=self.consensus)


def run_task(settings: RunSettings) -> None:
    """Run it and print the result; what can be seen to be wrong is refused before the model is started."""
    _require_sensible(settings)
    setup, calibration = settings.setup, settings.calibration
    prepared = Prepared(setup)
    from entcent_agents.cli.declarations import declared, external_tools

    _announce(external_tools(prepared.agent, declared(setup.read, setup.external), prepared.names))
    result = RunResult(task=settings.task, model=setup.model)
    if calibration is not None:
        result.phases = calibration.phases
        _warn_of_another_model(calibration, setup)
    view = RolloutView(setup.n, setup.model)
    try:
        asyncio.run(_run(settings, prepared, view, result))
    except KeyboardInterrupt:
        print_so_far(result, "interrupted", committing=view.committing)
        raise typer.Exit(130) from None
    except BaseException:
        if result.changed:
            print_so_far(result, "failed")
        raise
    if result.questions:
        print_questions(result, as_json=settings.as_json)
        raise typer.Exit(QUESTIONS_LEFT)
    print_result(result, as_json=settings.as_json)
    if settings.record is not None:
        _record(settings.record, result)


def _require_sensible(settings: RunSettings) -> None:
    settings.setup.require_sensible()
    if not settings.task.strip():
        raise ConfigurationError("the task is empty: say what the agent is to do")
    if settings.initial is not None and settings.initial > settings.setup.n:
        raise ConfigurationError(f"--initial {settings.initial} is above -n {settings.setup.n}, the most rollouts")
    if settings.stopping and settings.stopping.warm_up > settings.setup.n:
        raise ConfigurationError(f"--consensus needs -n {settings.stopping.warm_up} or more: fewer never agree")
    if settings.record is not None:
        require_writable("--record", settings.record)


def _announce(external: list[ToolEffect]) -> None:
    """Say what will be made real beside the environments, before anything is."""
    if external:
        said = {"declared": "--external", "metadata": "by its author"}
        tools = ", ".join(f"{effect.tool} ({said[effect.source]})" for effect in external)
        text = f"{tools}: rollouts stop before such calls; those of the selected rollout are made for real, once"
        Console(stderr=True).print(Text.assemble(("EXTERNAL ", "bold yellow"), text), soft_wrap=True)


def _warn_of_another_model(calibration: Calibration, setup: Setup) -> None:
    """A name is no proof: one model has several, and a server may call any model as it likes."""
    if calibration.model not in (None, setup.model_name):
        text = f"calibrated on {calibration.model}: its entropies need not compare with those of {setup.model_name}"
        Console(stderr=True).print(Text(text, "yellow"), soft_wrap=True)


def _record(path: Path, result: RunResult) -> None:
    """Append the rollouts that finished, for `entcent score`."""
    from entcent_agents.recordings import recorded_line
    from entcent_agents.recordings.appending import append_lines

    rollouts = [rollout for each in result.rounds for rollout in each.rollouts if rollout.status == "finished"]
    lines = [recorded_line(result.task, rollout) for rollout in rollouts]
    try:
        append_lines(path, lines)
    except OSError as error:
        raise ConfigurationError(f"--record {path}: {error.strerror}; the run itself was committed") from None


def require_writable(option: str, path: Path) -> None:
    """Refuse a file that nothing can be added to, before there is something to add.

    Raises:
        ConfigurationError: With the option's name.
    """
    try:
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise ConfigurationError(f"{option} {path} cannot be written ({error.strerror}): name a file") from None


async def _run(settings: RunSettings, prepared: Prepared, view: RolloutView, result: RunResult) -> None:
    with view:
        async with serve(settings.setup.model, settings.setup.n) as served:
            view.say("checking the model")
            await settings.setup.chat(served).acheck()
            graph = _graph(settings, prepared.on(served), prepared, result)
            view.say("running")
            await _converse(graph, settings.task, view, result)


def _graph(settings: RunSettings, agent: Any, prepared: Prepared, result: RunResult) -> Any:
    from langgraph.checkpoint.memory import InMemorySaver

    from entcent_agents.cli.declarations import declared
    from entcent_agents.nodes import Branching
    from entcent_agents.prebuilt import entropy_centroid_graph
    from entcent_agents.selection import LowestCentroid, default_selector
    from entcent_agents.signals import SignalSettings

    setup, policy = settings.setup, settings.policy
    return entropy_centroid_graph(
        agent,
        n=setup.n,
        branching=Branching(policy, settings.initial or 1) if policy else None,
        stopping=settings.stopping,
        selector=default_selector(LowestCentroid(settings=SignalSettings(phases=result.phases))),
        seed=setup.seed,
        environments=prepared.environments,
        effects=declared(setup.read, setup.external),
        ledger=result.ledger,
        ledger_settings=LedgerSettings(keep_arguments=True),  # it is in memory, and the user is to see them
        checkpointer=InMemorySaver(),  # a question stops the graph, and its answer goes on with it
    )


async def _converse(graph: Any, task: str, view: RolloutView, result: RunResult) -> None:
    """Run the graph to its end, or to a question that nobody is there to answer."""
    from langgraph.types import Command

    from entcent_agents.cli.questions import answers_to, person_is_there

    config = {"configurable": {"thread_id": "run"}}
    given: Any = {"messages": [("user", task)]}
    while given is not None:
        started = time.perf_counter()
        result.questions = await _stream(graph, given, config, view, result)
        result.seconds += time.perf_counter() - started
        given = None
        if result.questions and person_is_there():
            with view.set_aside() as console:
                given = Command(resume=answers_to(result.questions, console))
    result.first_token_seconds = None if view.first_token is None else view.first_token - STARTED
    if not result.questions:
        state = await graph.aget_state(config)
        result.answer = str(state.values["messages"][-1].text)


async def _stream(graph: Any, given: Any, config: Any, view: RolloutView, result: RunResult) -> list[Interrupt[Any]]:
    """Run the graph until it ends or asks, and gather its rounds; the questions are returned."""
    rollouts: list[Rollout] = []
    questions: list[Interrupt[Any]] = []
    async for mode, event in graph.astream(given, config, stream_mode=["custom", "updates"]):
        if mode == "custom":
            view.show(event)
        elif event.get("rollouts"):  # a node that goes on after an answer is announced with None
            rollouts = [Rollout.from_dict(record) for record in event["rollouts"]["rollouts"]]
        elif "select" in event:
            result.rounds.append(Round(rollouts=rollouts, selection=event["select"]["selection"]))
            view.end_round(result.rounds[-1].selection)
        elif "__interrupt__" in event:
            questions += event["__interrupt__"]
    return questions
