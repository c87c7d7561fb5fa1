"""`entcent run` with agents that are held and ask: rounds, calls that are made for real, and a person at a terminal."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.terminal import Terminal
from tests.test_cli import ROOT, entcent

AGENTS = '''
"""Agents on scripted models; what their tools do to the world is a line in a file."""
import os
from pathlib import Path

from entcent_agents.effects import EXTERNAL, READ, declare
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.tools import tool
from langgraph.types import interrupt
from tools.sql import sql_tools

EARLY, LATE = [1.5] * 20 + [0.01] * 180 + [1.5] * 4 + [0.01] * 46, [0.01] * 180 + [1.5] * 20 + [0.01] * 46 + [1.5] * 4

@tool
def send(to: str) -> str:
    """Send a mail."""
    with Path(os.environ["OUTSIDE"]).open("a") as file:
        file.write(to + "\\n")
    if to == "a slow server":
        raise TimeoutError("no answer came")
    return f"sent to {to}"

@tool
def confirm(question: str) -> str:
    """Ask a person."""
    return f"the person says {interrupt(question)!r}"

def turn(text, *calls, early=False):
    return ScriptedTurn(text=text, tool_calls=calls, entropy=EARLY if early else LATE)

def agent_of(scripts, tools, **settings):
    return create_agent(ScriptedChat(scripts=scripts), tools, **settings)

def undeclared(model):
    scripts = [[turn("", ("send", {"to": f"person {i}"}), early=i == 1), turn(f"done {i}")] for i in range(3)]
    return agent_of(scripts, [send])

def finishing_first(model):
    early = [turn("", ("send", {"to": "ann"}), early=True), turn("done")]
    late = [[turn(f"nothing to {i}"), turn(f"done {i}")] for i in range(2)]
    return agent_of([early, *late], [send])

def reviewed_in(mode):
    scripts = [[turn("", ("send", {"to": f"person {i}"}), early=i == 1), turn(f"done {i}")] for i in range(3)]
    review = HumanInTheLoopMiddleware(interrupt_on={"send": True}, interrupt_mode=mode)
    return agent_of(scripts, [declare(send, EXTERNAL)], middleware=[review])

def reviewed(model):
    return reviewed_in("batched")

def reviewed_by_call(model):
    return reviewed_in("per_call")

def asking(model):
    turns = [turn("", ("send", {"to": "ann"})), turn("", ("confirm", {"question": "Also to Bob?"})), turn("done")]
    return agent_of([turns], [declare(send, EXTERNAL), declare(confirm, READ)])

def asking_twice(model):
    calls = [("confirm", {"question": f"Also to {name}?"}) for name in ("Bob", "Eve")]
    def script(messages):
        heard = [message.text for message in messages if message.type == "tool"]
        return turn("; ".join(heard)) if heard else turn("", *calls)
    return agent_of([script], [declare(confirm, READ)])

def storing(model, environments):
    def create(name):
        return ("execute", {"sql": f"CREATE TABLE {name} AS SELECT 1 AS x"})
    turns = [turn("", create("before")), turn("", ("send", {"to": "ann"})), turn("", create("after")), turn("done")]
    return agent_of([turns], [*sql_tools(), declare(send, EXTERNAL)])

def slow(model):
    return agent_of([[turn("", ("send", {"to": "a slow server"})), turn("done")]], [declare(send, EXTERNAL)])

def agreeing(model):
    quick, slow = ScriptedTurn(text="yes", entropy=LATE), ScriptedTurn(text="no", entropy=LATE, delay_seconds=3600)
    return agent_of([[quick], [quick], [quick], [slow], [quick]], [])

def failing_later(model):
    broken = ScriptedTurn(error=RuntimeError("the model broke"))
    return agent_of([[turn("", ("send", {"to": "ann"})), broken]], [declare(send, EXTERNAL)])
'''


@pytest.fixture
def agents(tmp_path: Path) -> Path:
    path = tmp_path / "agents.py"
    path.write_text(AGENTS)
    return path


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real world: a file with a line a mail."""
    path = tmp_path / "outside"
    path.touch()
    monkeypatch.setenv("OUTSIDE", str(path))
    return path


@pytest.fixture
def run(agents: Path, serve) -> Any:
    """The arguments of a run of an agent."""
    model = f"{serve().base_url}#m"

    def arguments(agent: str, *rest: str) -> list[str]:
        return ["run", "do it", "--model", model, "--agent", f"{agents}:{agent}", "-n", "3", *rest]

    return arguments


def at_a_terminal(arguments: list[str]) -> Terminal:
    command = [sys.executable, "-c", "from entcent_agents.cli import main; main()", *arguments]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "TERM": "xterm"}
    return Terminal(command, ROOT, variables)


def test_the_selected_rollouts_call_is_made_once_and_every_round_is_shown(run, outside: Path):
    ran = entcent(*run("undeclared", "--external", "send"))
    assert ran.returncode == 0, ran.stderr
    assert outside.read_text() == "person 1\n"
    assert ran.stderr.startswith("EXTERNAL send (--external)")
    assert "rollout 1: held" in ran.stderr and "round 2, rollout 0: finished" in ran.stderr
    first, second = ran.stdout.index("round 1 of 2"), ran.stdout.index("round 2 of 2")
    assert first < ran.stdout.index("selected rollout 1 by lowest centroid") < second
    assert 'called: send {"to": "person 1"}: sent to person 1' in ran.stdout
    assert "committed: nothing" not in ran.stdout


def test_json_has_every_round_and_the_last_one_at_the_top(run, outside: Path, tmp_path: Path):
    record = tmp_path / "runs.jsonl"
    ran = entcent(*run("finishing_first", "--external", "send", "--json", "--record", str(record)))
    result = json.loads(ran.stdout)
    first, last = result["rounds"]
    assert [rollout["status"] for rollout in first["rollouts"]] == ["held", "finished", "finished"]
    assert first["selection"]["winner"] == 0 and first["selection"]["status"] == "held"
    assert {key: result[key] for key in ("rollouts", "selection")} == last
    (call,) = result["committed"]["calls"]
    assert [call[key] for key in ("tool", "arguments", "state")] == ["send", {"to": "ann"}, "done"]
    assert result["answer"].startswith("done")
    assert result["usage"]["model_calls"] == 6
    assert result["usage"]["generated_tokens"] == 6 * 250
    assert outside.read_text() == "ann\n"
    assert len(record.read_text().splitlines()) == 2 + 3


def test_what_every_round_commits_is_real_and_listed(run, outside: Path, tmp_path: Path):
    database = tmp_path / "world.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE t (x INTEGER)")
        ran = entcent(*run("storing", "--db", str(database)))
        assert ran.returncode == 0, ran.stderr
        tables = connection.execute("SELECT name FROM sqlite_master ORDER BY name").fetchall()
    assert tables == [("after",), ("before",), ("t",)]
    for line in ("table before in database created", "table after in database created", 'called: send {"to": "ann"}'):
        assert ran.stdout.count(line) == 1
    assert outside.read_text() == "ann\n"


def test_without_a_terminal_the_question_is_said_with_what_was_done_before(run, outside: Path):
    ran = entcent(*run("asking"))
    assert ran.returncode == 3 and not ran.stdout
    assert ran.stderr.startswith("EXTERNAL send (by its author)")
    told = ran.stderr[ran.stderr.index("the agent asks: Also to Bob?") :]
    assert "run it in a terminal" in told and 'called: send {"to": "ann"}: sent to ann' in told
    assert outside.read_text() == "ann\n"
    ran = entcent(*run("asking", "--json"))
    assert ran.returncode == 3 and not ran.stdout
    left = json.loads(ran.stderr.splitlines()[-1])
    assert [question["value"] for question in left["questions"]] == ["Also to Bob?"]
    assert left["answer"] is None and len(left["rounds"]) == 2
    assert left["committed"]["calls"][0]["result"] == "sent to ann"


@pytest.mark.parametrize("agent", ["reviewed", "reviewed_by_call"])
def test_a_call_is_edited_at_the_terminal_and_made_as_it_was_approved(run, outside: Path, agent: str):
    with at_a_terminal(run(agent, "--json")) as terminal:
        terminal.wait_for('"to": "person 1"')
        terminal.answer("[approve/edit/reject/respond]", "edit")
        terminal.answer("a JSON object: ", '{"to": "carol"}')
        code, output = terminal.end()
    assert code == 0, terminal.shown
    assert outside.read_text() == "carol\n"
    assert json.loads(output)["committed"]["calls"][0]["arguments"] == {"to": "carol"}


def test_an_edit_that_the_agent_refuses_ends_the_run_with_its_words(run, outside: Path):
    with at_a_terminal(run("reviewed_by_call")) as terminal:
        terminal.answer("[approve/edit/reject/respond]", "edit")
        terminal.answer("a JSON object: ", '{"whom": "carol"}')
        code, _ = terminal.end()
    assert code == 2
    assert "error: " in terminal.shown and "ValidationError" in terminal.shown and "Traceback" not in terminal.shown
    assert not outside.read_text()


def test_questions_of_one_turn_are_asked_one_after_the_other(run, outside: Path):
    with at_a_terminal(run("asking_twice", "--json")) as terminal:
        for name in ("Bob", "Eve"):
            terminal.wait_for(f"Also to {name}?")
            terminal.answer("answer", f"yes, {name} too")
        code, output = terminal.end()
    assert code == 0, terminal.shown
    assert json.loads(output)["answer"] == "the person says 'yes, Bob too'; the person says 'yes, Eve too'"


def test_a_call_in_doubt_is_settled_at_the_terminal_and_not_made_again(run, outside: Path):
    with at_a_terminal(run("slow")) as terminal:
        terminal.wait_for("nobody knows whether this call happened: TimeoutError: no answer came")
        terminal.answer("[happened/run/give up]", "happened")
        terminal.answer("what it gave", "it arrived")
        code, output = terminal.end()
    assert code == 0, terminal.shown
    assert 'called: send {"to": "a slow server"}: it arrived (says the person at the terminal)' in output
    assert outside.read_text() == "a slow server\n"


def test_ctrl_c_at_a_question_says_what_was_done_before(run, outside: Path):
    with at_a_terminal(run("asking")) as terminal:
        terminal.wait_for("Also to Bob?")
        terminal.interrupt("answer")
        code, output = terminal.end()
    assert code == 130 and not output
    told = terminal.shown[terminal.shown.index("interrupted: what was done before stays") :]
    assert 'called: send {"to": "ann"}: sent to ann' in told
    assert "Traceback" not in terminal.shown
    assert "round 3 · running" in terminal.shown[: terminal.shown.index("the agent asks")]
    assert outside.read_text() == "ann\n"


def test_a_run_that_fails_says_what_was_done_before(run, outside: Path):
    ran = entcent(*run("failing_later"))
    assert ran.returncode == 2
    told = ran.stderr[ran.stderr.index("failed: what was done before stays") :]
    assert told.index('called: send {"to": "ann"}: sent to ann') < told.index("error: ")
    assert "Traceback" not in ran.stderr
    assert outside.read_text() == "ann\n"


def test_where_enough_rollouts_agree_the_others_are_stopped(run):
    ran = entcent(*run("agreeing", "-n", "5", "--consensus", "share", "--json"))
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["answer"] == "yes"
    assert [one["error"] for one in said["rollouts"] if one["status"] == "unfinished"] == [
        "stopped early: 4 of 4 rollouts agree"
    ]
    refused = entcent(*run("agreeing", "--consensus", "share"))
    assert refused.returncode == 2 and "--consensus needs -n 4 or more" in refused.stderr
