"""What operators see without OpenTelemetry: lines in the log, runs of a tracer, events of the stream."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run
from langgraph.types import interrupt

from entcent_agents.effects import EXTERNAL, READ
from entcent_agents.errors import LogprobsMissingError, RolloutsFailedError
from entcent_agents.nodes import SelectionEvent
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from tests.whole_graphs.comparing import Chosen
from tests.whole_graphs.comparing import says as turn

ASK = {"messages": [HumanMessage("the secret question")]}


@tool
def look(x: str) -> str:
    """Look."""
    return f"seen {x}"


@tool
def send(x: str) -> str:
    """Send something."""
    return f"sent {x}"


@tool
def confirm(x: str) -> str:
    """Ask a person."""
    return interrupt("the secret question to a person")


EFFECTS = {"look": READ, "send": EXTERNAL, "confirm": READ}
SCRIPTS = [
    [turn("secret", ("look", {"x": "secret"})), turn("secret", ("send", {"x": f"secret {i}"})), turn(f"secret {i}")]
    for i in range(3)
]


def graph_of(scripts: Any = SCRIPTS, **settings: Any) -> Any:
    settings = {"n": len(scripts), "effects": EFFECTS, "selector": Chosen(1), **settings}
    return entropy_centroid_graph(create_agent(ScriptedChat(scripts=scripts), [look, send, confirm]), **settings)


def lines_of(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    records = [record for record in caplog.records if record.name == f"entcent_agents.{name}"]
    lines = [json.loads(record.getMessage()) for record in records]
    assert [getattr(record, name) for record in records] == lines
    return lines


# The log.


async def test_each_round_is_one_line_and_says_nothing_of_the_content(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "entcent_agents"):
        result = await graph_of().ainvoke(ASK)
    first, second = lines_of(caplog, "round")
    assert {key: first[key] for key in first if key not in ("request", "usage", "reason")} == {
        "round": 1,
        "status": "held",
        "rollout": 1,
        "selector": "chosen",
        "rollouts": {"held": 3},
        "errors": {},
        "held": ["send"],
        "error": None,
    }
    assert (second["round"], second["status"], second["rollouts"]) == (2, "finished", {"finished": 3})
    assert first["request"] == second["request"]
    assert second["usage"] == result["selection"]["usage"]
    assert (first["usage"]["rollouts"], second["usage"]["rollouts"]) == (3, 6)
    assert "secret" not in caplog.text
    assert lines_of(caplog, "rollout") == []


async def test_rollouts_are_lines_for_those_who_look_closer(caplog: pytest.LogCaptureFixture):
    scripts = [[turn("secret")], [ScriptedTurn(error=ZeroDivisionError("secret"))]]
    with caplog.at_level(logging.DEBUG, "entcent_agents"):
        await graph_of(scripts, selector=Chosen(0)).ainvoke(ASK)
    lines = sorted(lines_of(caplog, "rollout"), key=lambda line: line["rollout"])
    keys = ("round", "rollout", "status", "turns", "model_calls", "generated_tokens", "coverage", "error")
    assert [tuple(line[key] for key in keys) for line in lines] == [
        (1, 0, "finished", 1, 1, 20, 1.0, None),
        (1, 1, "failed", 0, 0, 0, 0.0, "ZeroDivisionError"),
    ]
    (line,) = lines_of(caplog, "round")
    assert (line["rollouts"], line["errors"]) == ({"finished": 1, "failed": 1}, {"ZeroDivisionError": 1})
    assert "secret" not in "".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (ScriptedTurn(error=ZeroDivisionError("secret")), RolloutsFailedError),
        (ScriptedTurn(text="secret"), LogprobsMissingError),  # in the selector
        (ScriptedTurn(error=NameError("secret")), NameError),
    ],
)
async def test_a_round_that_fails_is_a_warning(
    caplog: pytest.LogCaptureFixture, said: ScriptedTurn, error: type[Exception]
):
    with pytest.raises(error):
        await graph_of([[said]] * 2).ainvoke(ASK)
    (line,) = lines_of(caplog, "round")
    assert (line["round"], line["status"], line["error"], line["rollout"]) == (1, "failed", error.__name__, None)
    assert (line["usage"]["rollouts"], line["usage"]["rounds"]) == (2, 0)
    assert [record.levelno for record in caplog.records if record.name == "entcent_agents.round"] == [logging.WARNING]
    assert "secret" not in "".join(record.getMessage() for record in caplog.records)


async def test_what_a_request_used_that_fails_is_in_its_last_line(caplog: pytest.LogCaptureFixture):
    scripts = [[turn("secret", ("send", {"x": "secret"})), ScriptedTurn(error=ZeroDivisionError("secret"))]] * 2
    with caplog.at_level(logging.INFO, "entcent_agents"), pytest.raises(RolloutsFailedError):
        await graph_of(scripts).ainvoke(ASK)
    held, failed = (line["usage"] for line in lines_of(caplog, "round"))
    assert (held["rollouts"], held["rounds"], held["model_calls"], held["cut_calls"]) == (2, 1, 2, 0)
    assert (failed["rollouts"], failed["rounds"], failed["model_calls"], failed["cut_calls"]) == (4, 1, 2, 2)
    assert failed["generated_tokens"] == held["generated_tokens"] > 0
    assert failed["seconds"] > held["seconds"]
    assert failed["seconds_to_first_visible"] == held["seconds_to_first_visible"]


async def test_a_round_that_is_cancelled_is_no_warning(caplog: pytest.LogCaptureFixture):
    slow = [[ScriptedTurn(text="late", delay_seconds=30.0)]] * 2
    with caplog.at_level(logging.INFO, "entcent_agents"), pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(graph_of(slow).ainvoke(ASK), 0.3)
    (line,) = lines_of(caplog, "round")
    assert (line["status"], line["error"]) == ("cancelled", "CancelledError")
    assert (line["usage"]["rollouts"], line["usage"]["cut_calls"]) == (2, 2)
    assert {record.levelno for record in caplog.records if record.name == "entcent_agents.round"} == {logging.INFO}


def test_nothing_is_printed_where_nobody_set_up_logging():
    code = """
from langchain.agents import create_agent

from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.testing import ScriptedChat, ScriptedTurn

graph = entropy_centroid_graph(create_agent(ScriptedChat(scripts=[[ScriptedTurn(error=ValueError())]]), []), n=1)
try:
    graph.invoke({"messages": [("user", "go")]})
except Exception:
    pass
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("", "")


# A tracer, as LangSmith's is one.


class Tracer(BaseTracer):
    """Keeps all runs."""

    run_inline = True

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        """Kept by then."""

    def _on_run_create(self, run: Run) -> None:
        self.runs.append(run)

    def of(self, rollout: int, kind: str = "llm") -> list[Run]:
        return [run for run in self.runs if told(run).get("entcent_rollout") == rollout and run.run_type == kind]


def told(run: Run) -> dict[str, Any]:
    return (run.extra or {}).get("metadata", {})


async def test_runs_of_a_tracer_are_told_apart_by_metadata_and_by_name():
    tracer = Tracer()
    config: Any = {"callbacks": [tracer], "metadata": {"team": "blue"}}
    result = await graph_of().ainvoke(ASK, config)
    rollouts = [run for run in tracer.runs if run.name.startswith("rollout ")]
    assert sorted((told(run)["entcent_round"], told(run)["entcent_rollout"], run.name) for run in rollouts) == [
        (round, index, f"rollout {index}") for round in (1, 2) for index in range(3)
    ]
    assert len({told(run)["entcent_request"] for run in rollouts}) == 1
    assert all(told(run)["team"] == "blue" for run in rollouts)
    parents = {run.id: run for run in tracer.runs}
    assert {parents[run.parent_run_id].name for run in rollouts} == {"rollouts"}
    for index in range(3):
        assert len(tracer.of(index)) == 3 and len(tracer.of(index, "tool")) <= 2
        for run in tracer.of(index):
            while not run.name.startswith("rollout "):
                run = parents[run.parent_run_id]
            assert run.name == f"rollout {index}"
    selects = [run for run in tracer.runs if run.name == "select"]
    assert [run.outputs["selection"]["winner"] for run in selects] == [1, 1]
    assert selects[-1].outputs["selection"] == result["selection"]
    assert not any("entcent_rollout" in told(run) for run in [*selects, tracer.runs[0]])


async def test_a_selection_says_of_which_request_it_is_as_the_runs_of_its_rollouts_do():
    tracer = Tracer()
    events = [event async for event in graph_of().astream(ASK, {"callbacks": [tracer]}, stream_mode="custom")]
    requests = {told(run)["entcent_request"] for run in tracer.runs if "entcent_request" in told(run)}
    assert requests == {event["request"] for event in events if event["type"] == "entcent.selection"}


class Metadata(BaseCallbackHandler):
    """A handler of the user's, which follows into no rollout."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_chain_start(self, *args: Any, metadata: Any = None, **kwargs: Any) -> None:
        self.seen.append(metadata)


async def test_what_is_not_a_rollouts_has_no_metadata_of_one():
    handler = Metadata()
    await graph_of().ainvoke(ASK, {"callbacks": [handler]})
    assert handler.seen
    assert not any("entcent_rollout" in (metadata or {}) for metadata in handler.seen)


# The stream.


async def test_the_last_event_of_a_round_says_what_was_selected_and_why():
    events = [event async for event in graph_of().astream(ASK, stream_mode="custom")]
    ends = [number for number, event in enumerate(events) if event["type"] == "entcent.selection"]
    assert [events[number - 1]["type"] for number in ends] == ["entcent.commit"] * 2
    first, last = (events[number] for number in ends)
    assert ends[-1] == len(events) - 1
    assert {*first} == {*SelectionEvent.__annotations__}
    assert (first["round"], first["winner"], first["status"], first["held"]) == (1, 1, "held", ["send"])
    assert (last["round"], last["winner"], last["status"], last["held"]) == (2, 1, "finished", [])
    assert first["selector"] == "chosen" and first["reason"]
    assert (first["usage"]["model_calls"], last["usage"]["model_calls"]) == (6, 9)
    assert [(each["rollout"], each["value"]) for each in last["candidates"]] == [(0, 1.0), (1, 0.0), (2, 1.0)]
    assert "secret" not in json.dumps(events)
