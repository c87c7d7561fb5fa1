"""`python -m evals run`, from a folder of tasks to scores, with every kind of model that has an address or a path."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from langchain_core.language_models import BaseChatModel
from typer.testing import CliRunner

from entcent_agents.branching import Calibration
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.errors import ConfigurationError
from entcent_agents.phases import PhaseConfig
from entcent_agents.testing.chat import ScriptedChat, ScriptedTurn
from evals.cli.app import app
from evals.errors import RunSettingsError, SuiteUnknownError
from evals.runner.modes import Mode
from evals.runner.settings import RunSettings, run_settings
from evals.store import DATABASE, TABLE, read_run
from tests.chat_server import ChatServer
from tests.evals import hesitant
from tests.evals.sums import choices

Serve = Callable[..., ChatServer]


def scripted() -> BaseChatModel:
    """What an import path names."""
    return ScriptedChat(scripts=[lambda _: ScriptedTurn(text="it is 4", entropy=[0.5, 0.1, 0.2])])


plain = ScriptedChat(scripts=[[ScriptedTurn(text="it is 5", entropy=[0.5])]])


@pytest.fixture
def suite(tmp_path: Path) -> str:
    folder = tmp_path / "tasks"
    folder.mkdir()
    lines = [
        {"id": f"sum {i}", "category": "even" if i % 2 else "odd", "prompt": f"Task {i}", "pattern": r"\d+$"}
        for i in range(4)
    ]
    lines = [line | {"answer": "4"} for line in lines]
    (folder / "tasks.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return f"jsonl:{folder}"


@pytest.fixture
def run(suite: str, tmp_path: Path) -> Callable[..., Any]:
    pytest.importorskip("pyarrow")

    def invoke(*arguments: object) -> str:
        options = [str(argument) for argument in ("run", suite, "--out", tmp_path / "out", *arguments)]
        result = CliRunner().invoke(app, options, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    return invoke


def test_a_model_at_an_address_is_run_stored_and_scored(serve: Serve, run: Callable[..., str], tmp_path: Path):
    server = serve(choices)
    model = ("--model", f"{server.base_url}#scripted", "--top-logprobs", 5, "-n", 3)
    said = run(*model, "--price-generated", 1000)
    assert "12 rollouts of 4 tasks" in said
    generated = sum(len(reply.tokens) for request in server.answered[1:] for reply in choices(request))
    assert f"{generated:,} generated, cost {generated / 1000:.4f}" in said
    for name in (DATABASE, TABLE):
        assert {len(task) for task in read_run(tmp_path / "out" / name).tasks.values()} == {3}
    asked = len(server.answered)
    assert "12 of 12 rollouts are stored already" in run(*model)
    assert len(server.answered) == asked
    assert "20 rollouts of 4 tasks" in run(*model, "-n", 5)
    assert {request.n for request in server.answered[asked + 1 :]} == {5}, "an incomplete group is asked for whole"
    scored = CliRunner().invoke(app, ["score", str(tmp_path / "out"), "--draws", "1"], catch_exceptions=False)
    assert "Selectors over 4 tasks" in scored.stdout
    with pytest.raises(RunSettingsError, match=r"temperature 0\.7, now 0\.1"):
        run(*model, "--temperature", 0.1)


def test_a_run_of_which_the_table_is_left_goes_on_at_a_server_that_moved(
    serve: Serve, run: Callable[..., str], tmp_path: Path
):
    first, moved = serve(choices), serve(choices)
    run("--model", f"{first.base_url}#scripted", "-n", 2, "--limit", 1)
    before = read_run(tmp_path / "out").tasks
    (tmp_path / "out" / DATABASE).unlink()
    with pytest.raises(RunSettingsError, match=r"temperature 0\.7, now 0\.1"):
        run("--model", f"{moved.base_url}#scripted", "-n", 2, "--temperature", 0.1)
    assert "4 of 8 rollouts are stored already" in run("--model", f"{moved.base_url}#scripted", "-n", 2)
    for name in (DATABASE, TABLE):
        tasks = read_run(tmp_path / "out" / name).tasks
        assert len(tasks) == 4
        assert {key: [one.ended_at for one in tasks[key]] for key in before} == {
            key: [one.ended_at for one in before[key]] for key in before
        }


def test_a_model_by_import_path_is_asked_once_a_rollout(run: Callable[..., str], tmp_path: Path):
    run("--model", "tests.evals.test_run_command:scripted", "-n", 2, "--category", "even")
    stored = read_run(tmp_path / "out")
    assert "temperature" not in stored.settings
    tasks = stored.tasks
    assert len(tasks) == 2
    for one in (one for task in tasks.values() for one in task):
        assert one.reward == 1.0
        assert one.seed is None
        assert one.rollout.trajectory.entropy.tolist() == pytest.approx([0.5, 0.1, 0.2])
        assert one.rollout.trajectory.coverage == 1.0


def test_a_model_that_is_an_object_is_run_once_in_mode_single(run: Callable[..., str], tmp_path: Path):
    run("--model", "tests.evals.test_run_command:plain", "--mode", "single", "--limit", 1)
    tasks = read_run(tmp_path / "out").tasks
    assert [[one.reward for one in task] for task in tasks.values()] == [[0.0], [0.0]]


def test_every_mode_can_be_asked_for(serve: Serve, run: Callable[..., str], tmp_path: Path):
    server = serve(choices)
    for mode in get_args(Mode):
        sizes = () if mode == "single" else ("-n", 2)
        model = ("--model", f"{server.base_url}#scripted", "--limit", 1, "--out", tmp_path / mode)
        assert "of 2 tasks" in run("--mode", mode, *sizes, *model)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--model", "tests.evals.test_run_command:nothing"), "nothing"),
        (("--model", "no_such_module:chat"), "no_such_module"),
        (("--model", "pathlib:Path"), "no chat model"),
        (("--model", "tests.evals.test_run_command:plain", "--preset", "eager"), "samples as it was built to"),
        (("--category", "prime"), "no category prime: there are odd, even"),
        (("--preset", "of-my-own"), "no preset"),
        (("--mode", "single", "-n", 4), "one rollout a task"),
    ],
)
def test_what_cannot_be_is_refused_by_name(run: Callable[..., str], options: tuple[object, ...], said: str):
    with pytest.raises(ConfigurationError, match=said):
        run(*options)


def test_a_suite_that_does_not_exist_is_refused(tmp_path: Path):
    with pytest.raises(SuiteUnknownError):
        CliRunner().invoke(app, ["run", "nothing", "--out", str(tmp_path)], catch_exceptions=False)


def test_a_preset_gives_what_is_not_asked_for():
    papers = run_settings("entropy-centroids", model="m", n=None, temperature=None)
    assert (papers.n, papers.temperature, papers.top_p, papers.top_logprobs) == (64, 0.7, 0.95, 10)
    assert run_settings("entropy-centroids", model="m", n=4).n == 4
    eager = run_settings("eager", model="m")
    assert (eager.n, eager.temperature, eager.top_logprobs) == (32, 0.6, 20)
    assert run_settings("eager", model="m", mode="single").n == 1
    assert run_settings(None, model="m") == RunSettings(model="m")


def test_tasks_can_be_named(run: Callable[..., str], tmp_path: Path):
    run("--model", "tests.evals.test_run_command:plain", "--mode", "single", "--task", "sum 2", "--task", "* 3")
    assert {task for _, task in read_run(tmp_path / "out").tasks} == {"sum 2", "sum 3"}


def test_names_that_no_task_has_are_refused(suite: str, tmp_path: Path):
    pytest.importorskip("pyarrow")
    arguments = ["run", suite, "--out", str(tmp_path / "out"), "--task", "product*"]
    with pytest.raises(ConfigurationError, match=r"no tasks called product\* in"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_rollouts_that_branch_are_run_stored_scored_and_compared(serve: Serve, run: Callable[..., str], tmp_path: Path):
    server = serve(hesitant.choices)
    model = ("--model", f"{server.base_url}#scripted", "--top-logprobs", 5)
    run(*model, "-n", 4, "--out", tmp_path / "parallel")
    branching = (*model, "--mode", "branching", "-n", 4, "--initial", 1, "--out", tmp_path / "branching")
    said = run(*branching, "--threshold", 0.6, "--decision", "call")
    tasks = read_run(tmp_path / "branching" / TABLE).tasks
    assert f"{sum(map(len, tasks.values()))} rollouts of 4 tasks" in said
    assert {one.rollout.branch.decision for task in tasks.values() for one in task if one.rollout.branch} == {"call"}
    asked = len(server.answered)
    assert "of at most 16 rollouts are stored already" in run(*branching, "--threshold", 0.6, "--decision", "call")
    assert len(server.answered) == asked
    with pytest.raises(RunSettingsError, match="policy"):
        run(*branching, "--threshold", 0.7, "--decision", "call")
    folders = [str(tmp_path / name) for name in ("parallel", "branching")]
    scored = CliRunner().invoke(app, ["score", folders[1], "--draws", "1"], catch_exceptions=False)
    assert "Selectors over 4 tasks" in scored.stdout
    compared = CliRunner().invoke(app, ["compare", *folders], catch_exceptions=False).stdout
    figures = {line.split("  ")[0].strip(): line.split() for line in compared.splitlines() if line.strip()}
    generated = [
        sum(one.rollout.usage.generated_tokens for task in read_run(Path(folder)).tasks.values() for one in task) / 4
        for folder in folders
    ]
    assert [float(mean) for mean in figures["generated tokens"][2:4]] == pytest.approx(generated, abs=0.001)
    assert "2 branching: where rollouts branched" in compared
    assert figures["call, continued"][2] == figures["all"][1]
    assert "rollouts of branching branch" in compared


def calibrated(path: Path, **threshold: float) -> Path:
    phases = PhaseConfig(thresholds=(0.6, 0.1))
    found = Calibration(top_k=5, tasks=10, turns=20, tokens=90, percentile=90.0, threshold=threshold, phases=phases)
    found.write(path)
    return path


def test_a_run_branches_above_calibrated_thresholds_alone_and_keeps_them(
    serve: Serve, run: Callable[..., str], tmp_path: Path
):
    server = serve(hesitant.choices)
    model = ("--model", f"{server.base_url}#scripted", "--mode", "branching", "-n", 4, "--initial", 1)
    low = calibrated(tmp_path / "low.toml", call=0.6)
    run(*model, "--calibration", low)
    stored = read_run(tmp_path / "out")
    decisions = {one.rollout.branch.decision for task in stored.tasks.values() for one in task if one.rollout.branch}
    assert decisions == {"call"}
    assert stored.settings["top_logprobs"] == 5
    assert stored.settings["policy"]["threshold"] == {"call": 0.6}
    assert stored.settings["policy"]["decisions"] == ["call"]
    assert {request.body["top_logprobs"] for request in server.answered if "top_logprobs" in request.body} == {5}
    with pytest.raises(RunSettingsError, match="policy"):
        run(*model, "--calibration", calibrated(tmp_path / "high.toml", call=0.9))
    run(*model, "--calibration", tmp_path / "high.toml", "--out", tmp_path / "high")
    assert {len(task) for task in read_run(tmp_path / "high").tasks.values()} == {1}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--mode", "branching", "--top-logprobs", 10), "calibrated at top-k 5, and the run asks for 10"),
        (("--mode", "branching", "--preset", "eager"), "calibrated at top-k 5, and the run asks for 20"),
        (("--mode", "branching", "--threshold", 0.5), "leave one of them out"),
        (("--mode", "branching", "--decision", "tool"), "must have one for each of"),
        (("--mode", "parallel"), "nothing branches in this mode"),
    ],
)
def test_a_calibration_that_does_not_fit_the_run_is_refused(
    run: Callable[..., str], tmp_path: Path, options: tuple[object, ...], said: str
):
    with pytest.raises(ConfigurationError, match=said):
        run("--calibration", calibrated(tmp_path / "c.toml", call=0.6), *options)


def test_a_model_by_import_path_is_asked_for_the_k_that_the_run_keeps(
    serve: Serve, run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    server = serve(choices)
    monkeypatch.setattr("tests.evals.test_run_command.plain", chat_of(server))
    run("--model", "tests.evals.test_run_command:plain", "-n", 1, "--limit", 1, "--top-logprobs", 5)
    assert read_run(tmp_path / "out").settings["top_logprobs"] == 5
    assert {request.body["top_logprobs"] for request in server.answered} == {5}


def chat_of(server: ChatServer) -> ChatLogprobs:
    return ChatLogprobs(model="scripted", base_url=server.base_url, top_logprobs=2)
