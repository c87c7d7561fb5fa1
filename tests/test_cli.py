"""The command line as a user meets it: in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from langchain.agents import create_agent
from langchain_core.tools import StructuredTool

from entcent_agents.branching import Calibration
from entcent_agents.cli import main
from entcent_agents.cli.declarations import declared, external_tools
from entcent_agents.environments import SqliteEnvironment
from entcent_agents.errors import EffectError
from entcent_agents.phases import PhaseConfig
from entcent_agents.testing import ScriptedChat
from tests.chat_server import Reply, says
from tests.evals import hesitant
from tests.forks import forked
from tests.graphs.model import Model, calls

ROOT = Path(__file__).parent.parent
SCRIPTED_AGENT = '''
"""An agent on a scripted model: it needs no server to answer, only to be checked."""
from entcent_agents.effects import READ
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from langchain.agents import create_agent
from langchain_core.tools import tool
from tools.sql import sql_tools

EARLY, LATE = [1.5] * 20 + [0.01] * 230, [0.01] * 230 + [1.5] * 20

def make_agent(model, environments):
    scripts = [
        [
            ScriptedTurn(text="plan", tool_calls=[("execute", {"sql": f"CREATE TABLE made AS SELECT {i} AS x"})],
                         entropy=EARLY if i == 1 else LATE),
            ScriptedTurn(text=f"answer {i}", entropy=EARLY if i == 1 else LATE),
        ]
        for i in range(3)
    ]
    return create_agent(ScriptedChat(scripts=scripts), sql_tools())

def slow_agent(model, environments):
    turns = [ScriptedTurn(tool_calls=[("execute", {"sql": "CREATE TABLE made (x)"})], entropy=EARLY),
             ScriptedTurn(text="late", entropy=EARLY, delay_seconds=60.0)]
    return create_agent(ScriptedChat(scripts=[turns]), sql_tools())

@tool
def send(text: str) -> str:
    """Send it."""
    return "sent"

@tool
def add(number: int) -> str:
    """Add a number."""
    return "added"

def adding_agent(model):
    return create_agent(model, [add])

def unsafe_agent(model):
    return create_agent(ScriptedChat(scripts=[[ScriptedTurn(text="hi", entropy=EARLY)]]), [send])

def not_a_graph(model):
    return "graph"
'''


def entcent(
    *arguments: str, home: Path | None = None, timeout: float = 110.0, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **variables}
    if home is not None:
        environment["ENTCENT_HOME"] = str(home)
    return forked(main, arguments=arguments, environment=environment, folder=ROOT, timeout=timeout)


def refused(ran: subprocess.CompletedProcess[str], *said: str) -> None:
    assert ran.returncode == 2, ran.stderr
    assert "Traceback" not in ran.stderr
    lines = [line for line in ran.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1, ran.stderr
    for words in said:
        assert words in lines[0]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "world.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x INTEGER)")
    connection.commit()
    connection.close()
    return path


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    path = tmp_path / "agent.py"
    path.write_text(SCRIPTED_AGENT)
    return path


def test_an_unknown_model_is_named_with_the_known_ones(database: Path):
    refused(entcent("run", "task", "--db", str(database), "--model", "gpt-17"), "gpt-17", "qwen2.5-coder-1.5b")


def test_a_model_that_is_not_here_is_answered_with_the_command_that_brings_it(database: Path, tmp_path: Path):
    refused(entcent("run", "task", "--db", str(database), home=tmp_path / "home"), "entcent models pull")


def test_no_server_at_the_address(database: Path):
    ran = entcent("run", "task", "--db", str(database), "--model", "http://127.0.0.1:9/v1#m")
    refused(ran, "no model server answers at http://127.0.0.1:9/v1", "start one")


def test_an_address_without_a_model(database: Path):
    for address in ("http://127.0.0.1:9/v1", "http://localhost:abc/v1#m", "http://[::1/v1#m", "ftp://here#m"):
        refused(entcent("run", "task", "--db", str(database), "--model", address), "#NAME")


def test_no_tools():
    refused(entcent("run", "task"), "no tools", "--db FILE or --workspace DIR")


def test_a_corrupt_model_file(database: Path, tmp_path: Path):
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"not a model at all")
    refused(entcent("run", "task", "--db", str(database), "--model", str(file)), "broken.gguf", "GGUF")


def test_a_corrupt_model_of_the_store(database: Path, tmp_path: Path):
    folder = tmp_path / "home" / "models"
    folder.mkdir(parents=True)
    (folder / "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf").write_bytes(b"GGUF but cut off")
    refused(entcent("run", "task", "--db", str(database), home=tmp_path / "home"), "entcent models pull")


def test_a_database_that_is_not_sqlite(tmp_path: Path):
    file = tmp_path / "notes.txt"
    file.write_text("these are only notes, and there are quite a few of them" * 20)
    refused(entcent("run", "task", "--db", str(file)), "notes.txt", "not a SQLite database")
    refused(entcent("run", "task", "--db", str(tmp_path / "absent.db")), "absent.db")
    refused(entcent("run", "task", "--workspace", str(tmp_path / "absent")), "absent")


def test_no_rollouts(database: Path):
    refused(entcent("run", "task", "--db", str(database), "-n", "0"), "-n 0", "at least one")


def test_a_model_without_log_probabilities(database: Path, serve):
    server = serve([Reply(logprobs=False)])
    ran = entcent("run", "task", "--db", str(database), "--model", f"{server.base_url}#m")
    refused(ran, "gives no log-probabilities", "llama.cpp, vLLM")


@pytest.mark.parametrize(
    ("spec", "said"),
    [("agent.py", "FILE:FACTORY"), ("absent.py:make", "no file"), ("{agent}:absent", "no function 'absent'")],
)
def test_an_agent_that_cannot_be_loaded(agent: Path, spec: str, said: str):
    refused(entcent("run", "task", "--agent", spec.format(agent=agent)), said)


def test_an_undeclared_tool_and_a_factory_of_something_else(agent: Path, serve, tmp_path: Path):
    server = serve()
    options = ["run", "task", "--model", f"{server.base_url}#m", "--agent"]
    unsafe = [*options, f"{agent}:unsafe_agent"]
    refused(entcent(*unsafe), "'send'", "--read send", "--external send")
    refused(entcent(*unsafe, "--read", "send", "--external", "send"), "contradict")
    refused(entcent(*unsafe, "--external", "sned"), "'sned'", "did you mean 'send'")
    refused(entcent(*options, f"{agent}:not_a_graph"), "returned str")
    assert not server.requests
    ran = entcent(*unsafe, "--read", "send", "-n", "1")
    assert ran.returncode == 0, ran.stderr
    assert "EXTERNAL" not in ran.stderr


def test_an_undeclared_tool_is_refused_before_a_model_is_started(agent: Path, tmp_path: Path):
    refused(entcent("run", "task", "--agent", f"{agent}:unsafe_agent", home=tmp_path / "no models here"), "'send'")


def test_what_a_server_hints_of_its_tool_is_mentioned_and_not_believed():
    hinted = StructuredTool.from_function(str.upper, name="shout", description="S.", metadata={"readOnlyHint": True})
    agent = create_agent(ScriptedChat(scripts=[[]]), [hinted])
    with pytest.raises(EffectError, match=r"'shout' .*the server of shout hints .*--read shout .*--external shout"):
        external_tools(agent, {}, [])
    (effect,) = external_tools(agent, declared([], ["shout"]), [])
    assert (effect.tool, effect.source) == ("shout", "declared")


def test_a_run_prints_every_rollout_the_winner_and_what_was_committed(agent: Path, database: Path, serve):
    model = f"{serve().base_url}#m"
    arguments = ["run", "make it", "--db", str(database), "--agent", f"{agent}:make_agent", "--model", model, "-n", "3"]
    ran = entcent(*arguments)
    assert ran.returncode == 0, ran.stderr
    assert "selected rollout 1 by lowest centroid" in ran.stdout
    assert "answer 1" in ran.stdout and "answer 0" not in ran.stdout
    assert "committed: table made in database created" in ran.stdout
    assert "first token" in ran.stderr
    connection = sqlite3.connect(database)
    assert connection.execute("SELECT x FROM made").fetchall() == [(1,)]
    connection.close()


def test_the_default_agent_answers_a_question_on_a_database(database: Path):
    model = Model()
    model.says(calls("query", sql="SELECT 1"), calls("execute", sql="CREATE TABLE made AS SELECT 1 AS x"),
               calls("query", sql="SELECT * FROM made"), says("It is 1."), own=1)  # fmt: skip
    with model.server:
        address = f"{model.server.base_url}#m"
        ran = entcent("run", "make it", "--db", str(database), "--model", address, "-n", "2")
    assert ran.returncode == 0, ran.stderr
    assert "It is 1." in ran.stdout and "committed: table made in database created" in ran.stdout


def test_json_is_one_object_on_standard_output(agent: Path, database: Path, serve):
    model = f"{serve().base_url}#m"
    arguments = ["run", "make it", "--db", str(database), "--agent", f"{agent}:make_agent", "--model", model, "-n", "3"]
    ran = entcent(*arguments, "--json")
    result = json.loads(ran.stdout)
    assert result["selection"]["winner"] == 1
    assert [rollout["status"] for rollout in result["rollouts"]] == ["finished"] * 3
    assert result["rollouts"][0]["scored_tokens"] == 500
    assert result["usage"]["generated_tokens"] == 1500


def test_a_run_is_recorded_for_scoring(agent: Path, database: Path, serve, tmp_path: Path):
    record = tmp_path / "runs.jsonl"
    arguments = ["run", "make it", "--db", str(database), "--agent", f"{agent}:make_agent", "-n", "3", "--record"]
    ran = entcent(*arguments, str(record), "--model", f"{serve().base_url}#m")
    assert ran.returncode == 0, ran.stderr
    scored = json.loads(entcent("score", str(record), "--json").stdout)
    (task,) = scored["tasks"]
    assert task["task"] == "make it"
    assert task["selections"]["default chain"]["winner"] == 1
    assert [one["scored_tokens"] for one in task["candidates"]] == [500] * 3
    for path in (tmp_path / "absent" / "runs.jsonl", tmp_path):
        refused(entcent(*arguments, str(path)), "--record", "cannot be written")


@pytest.mark.parametrize(("given", "decisions"), [((), {"call", "argument"}), (("--calibration",), {"call"})])
def test_few_rollouts_begin_and_branch_where_they_hesitate(
    agent: Path, serve, tmp_path: Path, given: tuple[str, ...], decisions: set[str]
):
    file = tmp_path / "c.toml"
    phases = PhaseConfig(thresholds=(0.6, 0.1))
    Calibration(
        model="m", top_k=5, tasks=10, turns=20, tokens=90, percentile=90.0, threshold={"call": 0.6}, phases=phases
    ).write(file)
    server = serve(hesitant.choices)
    options = ("--agent", f"{agent}:adding_agent", "--read", "add", "--model", f"{server.base_url}#m", "--seed", "1")
    branching = (*options, "-n", "6", "--initial", "2", *(option for name in given for option in (name, str(file))))
    ran = entcent("run", "Task", *branching, "--json")
    assert ran.returncode == 0, ran.stderr
    rollouts = json.loads(ran.stdout)["rollouts"]
    branches = [one["branch"] for one in rollouts]
    assert [branch is None for branch in branches[:3]] == [True, True, False]
    assert {branch["decision"] for branch in branches[2:]} <= decisions
    assert all(one["reused_tokens"] > 0 for one in rollouts[2:])
    usage = json.loads(ran.stdout)["usage"]
    assert [sum(one[name] for one in rollouts) for name in ("generated_tokens", "reused_tokens")] == [
        usage["generated_tokens"],
        usage["reused_tokens"],
    ]
    asked = {request.body.get("top_logprobs") for request in server.answered if "'Task'" in str(request.body)}
    assert asked - {None} == {5 if given else 10}
    assert "a branch of" in ran.stderr
    refused(entcent("run", "Task", *options, "-n", "2", "--initial", "3"), "--initial 3", "-n 2")


def test_interrupting_leaves_the_world_untouched(agent: Path, database: Path, serve):
    before = database.read_bytes()
    code = "from entcent_agents.cli import main; main()"
    options = ["--db", str(database), "--agent", f"{agent}:slow_agent", "--model", f"{serve().base_url}#m"]
    running = subprocess.Popen(
        [sys.executable, "-u", "-c", code, "run", "make it", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert running.stderr is not None
    with running.stderr as lines:
        for line in lines:
            if "tool execute" in line:
                running.send_signal(signal.SIGINT)
                break
        said = lines.read()
    assert running.wait(30) == 130
    assert "interrupted: nothing was changed" in said and "Traceback" not in said
    assert database.read_bytes() == before
    SqliteEnvironment(database)  # a tool that was cut off may leave its fork; the next to open sweeps it
    assert sorted(path.name for path in database.parent.iterdir()) == ["agent.py", "world.db"]


def test_models_list_shows_what_is_here(tmp_path: Path):
    ran = entcent("models", "list", home=tmp_path)
    assert ran.returncode == 0
    assert "qwen2.5-coder-1.5b" in ran.stdout and "entcent models pull smollm2-135m" in ran.stdout


def test_help_names_every_option():
    ran = entcent("run", "--help")
    for option in (
        "--db",
        "--workspace",
        "--model",
        "--agent",
        "-n",
        "--initial",
        "--consensus",
        "--seed",
        "--read",
        "--external",
        "--json",
    ):
        assert option in ran.stdout
    assert "Exit code 0" in ran.stdout
