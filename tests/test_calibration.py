"""Thresholds from tasks without labels: measured, kept in a file, and used."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from entcent_agents.branching import BranchPolicy, Calibration, hesitation
from entcent_agents.errors import ConfigurationError
from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.phases import PhaseConfig, high_entropy_phases
from entcent_agents.segments import SegmentKind
from entcent_agents.trajectory import Trajectory, Turn
from tests.forks import forked
from tests.test_cli import ROOT, agent, database, entcent, refused  # noqa: F401  fixtures too

MARKUP, NAME, VALUE = SegmentKind.MARKUP, SegmentKind.TOOL_NAME, SegmentKind.TOOL_ARGUMENT
TRACES = ROOT / "evals" / "traces" / "bfcl_multiple"


def turn(
    entropy: list[float], kinds: list[SegmentKind], *, reused: int = 0, logprob: float = -1.0, k: int = 10
) -> Turn:
    ones = np.ones(len(entropy), np.float32)
    logprobs = TokenLogprobs(
        text=b"",
        offsets=np.zeros(len(entropy) + 1, np.int32),
        logprob=ones * logprob,
        entropy=np.array(entropy, np.float32),
        residual=ones * 0,
        confidence=ones,
        top_k=k,
        kind=np.array(kinds, np.uint8),
    )
    return Turn(message_id="m", generated_tokens=len(entropy), logprobs=logprobs, reused_tokens=reused)


def calls(*values: float, reused: int = 0, logprob: float = -1.0, k: int = 10) -> Trajectory:
    """One turn: a call that begins with 0.5 nats and a name of 0.25, and argument tokens of these entropies."""
    kinds = [MARKUP, NAME, *(VALUE for _ in values)]
    return Trajectory(turns=(turn([0.5, 0.25, *values], kinds, reused=reused, logprob=logprob, k=k),))


def test_thresholds_are_percentiles_of_what_is_decided():
    found = hesitation([[calls(0.0, 1.0, 2.0, 3.0, 4.0)]])
    assert found.thresholds(50) == {"call": 0.5, "tool": 0.25, "argument": 2.0}
    assert found.thresholds(75)["argument"] == 3.0
    calibration = found.calibration(50, PhaseConfig(top_percent=50, bottom_percent=50), "m")
    assert calibration.phases.thresholds == (1.0, 1.0)  # the median of all seven
    assert (calibration.tasks, calibration.turns, calibration.tokens, calibration.top_k) == (1, 1, 7, 10)


def test_what_would_branch_is_what_is_above():
    tasks = [[calls(1.0), calls(2.0)], [calls(3.0), Trajectory(turns=calls(4.0).turns + calls(1.0).turns)]]
    found = hesitation(tasks)
    assert found.branching({"argument": 2.0}) == (2 / 5, 2 / 4)
    assert found.branching({"argument": 0.0, "call": 9.0}) == (1.0, 1.0)
    assert found.branching({}) == (0.0, 0.0)


def test_prompts_that_begin_alike_are_not_above_their_own_percentile():
    found = hesitation([[calls(1 / 3) for _ in range(8)]])
    assert found.branching(found.thresholds(99)) == (0.0, 0.0)


def test_a_token_that_leaves_no_probability_for_another_does_not_branch():
    assert hesitation([[calls(3.0, logprob=-0.01)]]).branching({"argument": 0.1}) == (0.0, 0.0)
    assert hesitation([[calls(3.0, logprob=-0.1)]]).branching({"argument": 0.1}) == (1.0, 1.0)


def test_tokens_of_the_parent_count_there_alone():
    found = hesitation([[calls(9.0, 1.0, reused=3)]])
    assert found.thresholds(50) == {"argument": 1.0}
    assert len(found.entropy) == 1


def test_several_k_and_no_tokens_are_refused():
    with pytest.raises(ConfigurationError, match="top-k 5 and 10"):
        hesitation([[calls(1.0), calls(1.0, k=5)]])
    with pytest.raises(ConfigurationError, match="nothing to calibrate on"):
        hesitation([[Trajectory()], []])
    unknown = Trajectory(turns=(turn([1.0], [SegmentKind.UNKNOWN]),))
    with pytest.raises(ConfigurationError, match="no token decides anything"):
        hesitation([[unknown]]).calibration(90, PhaseConfig())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "calibration.toml"
    hesitation([[calls(1.0, 2.0)]]).calibration(90, PhaseConfig(), 'a "model" \x7f ü').write(path)
    return path


def test_a_file_is_read_as_it_was_written(file: Path):
    read = Calibration.read(file)
    assert read == hesitation([[calls(1.0, 2.0)]]).calibration(90, PhaseConfig(), 'a "model" \x7f ü')
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_policy_has_the_thresholds_of_the_file(file: Path):
    policy = BranchPolicy.from_file(file, max_per_turn=1)
    assert policy.threshold == Calibration.read(file).threshold
    assert (policy.max_per_turn, policy.bound("tool")) == (1, 0.25)
    assert BranchPolicy.from_file(file, decisions=["tool"]).decisions == {"tool"}


def test_a_policy_does_not_branch_where_nothing_was_measured(tmp_path: Path):
    path = tmp_path / "c.toml"
    answer = Trajectory(turns=(turn([1.0, 1.0], [SegmentKind.ANSWER] * 2),))
    hesitation([[answer]]).calibration(90, PhaseConfig()).write(path)
    assert BranchPolicy.from_file(path).decisions == {"call"}


def test_fixed_thresholds_of_phases_count_more_than_shares():
    fixed = PhaseConfig(thresholds=(2.0, 0.5))
    entropy = [1.0, 2.0, 1.0, 0.5, 0.5, 3.0]
    assert [tuple(phase) for phase in high_entropy_phases(entropy, fixed)] == [(1, 2), (5, 1)]
    for wrong in ((0.5, 2.0), (float("nan"), 0.0), (float("inf"), 0.0), (1.0, -1.0)):
        with pytest.raises(ConfigurationError, match="thresholds="):
            PhaseConfig(thresholds=wrong)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("version = 1", "version = 2", "version 2; this release reads 1"),
        ("version = 1", "version =", "no TOML"),
        ("call = ", "cal = ", "Invalid enum value"),
        ("call = 0.5", "call = 'much'", "Expected `float`"),
        ("call = 0.5", "call = nan", "threshold.call=nan"),
        ("percentile = 90", "percentil = 90", "percentil"),
        ("high = ", "high = -", "thresholds="),
        ("top_k = 10", "top_k = 0", "top_k=0"),
        ("[phases]", "[faces]", "faces"),
    ],
)
def test_a_bad_file_is_said_in_one_line(file: Path, old: str, new: str, said: str):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigurationError, match=said) as error:
        Calibration.read(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_not_there_are_said_in_one_line(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        Calibration.read(tmp_path / "absent.toml")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        hesitation([[calls(1.0)]]).calibration(90, PhaseConfig()).write(tmp_path / "absent" / "c.toml")


def test_questions_are_asked_and_nothing_is_committed(agent: Path, database: Path, serve, tmp_path: Path):  # noqa: F811
    questions, before = tmp_path / "questions.jsonl", database.read_bytes()
    questions.write_text('make it\n\n{"prompt": "make it again"}\n')
    out, record = tmp_path / "c.toml", tmp_path / "r.jsonl"
    model = f"{serve().base_url}#m"
    asked = ["calibrate", "--questions", str(questions), "--db", str(database), "--agent", f"{agent}:make_agent"]
    ran = entcent(*asked, "--model", model, "--out", str(out), "--record", str(record), "-n", "3")
    assert ran.returncode == 0, ran.stderr
    assert "2 tasks, 6 rollouts, 12 turns" in ran.stdout and "→ 90" in ran.stdout
    assert database.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir() if "world" in path.name) == ["world.db"]
    made = Calibration.read(out)
    assert (made.model, made.tasks, made.turns) == ("m", 2, 12)

    again = entcent("calibrate", str(record), "--out", str(tmp_path / "again.toml"), "--model", "m", "--json")
    assert Calibration.read(tmp_path / "again.toml") == made
    assert json.loads(again.stdout)["calibration"]["threshold"] == made.threshold

    run = ["run", "make it", "--db", str(database), "--agent", f"{agent}:make_agent", "--model", model, "-n", "3"]
    ran = entcent(*run, "--calibration", str(out), "--json")
    assert ran.returncode == 0, ran.stderr
    assert "calibrated on" not in ran.stderr
    centroids = [rollout["centroid"] for rollout in json.loads(ran.stdout)["rollouts"]]
    assert centroids[1] < centroids[0]


def test_calibrate_says_what_it_cannot_do(agent: Path, database: Path, tmp_path: Path):  # noqa: F811
    questions = tmp_path / "questions.txt"
    questions.write_text('{"query": "what?"}\n')
    asked = ("calibrate", "--questions", str(questions), "--db", str(database))
    refused(entcent(*asked), f"{questions}:1", "question, prompt, task")
    questions.write_text("\n\n")
    refused(entcent(*asked), "is empty")
    refused(entcent("calibrate"), "--questions FILE")
    refused(entcent("calibrate", str(questions), "--percentile", "101"), "--percentile 101")
    refused(entcent("calibrate", str(questions), "--out", str(tmp_path)), "--out", "cannot be written")
    refused(entcent("calibrate", str(TRACES / "rollouts.parquet")), "python -m evals calibrate")
    refused(entcent("run", "task", "--calibration", str(questions)), str(questions), "version None")


def evals(*arguments: str):
    from evals.__main__ import main

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    return forked(main, arguments=arguments, environment=environment, folder=ROOT, timeout=110.0)


def test_stored_runs_are_calibrated_on_and_scored_with_it(tmp_path: Path):
    out, picture = tmp_path / "c.toml", tmp_path / "c.svg"
    ran = evals("calibrate", str(TRACES), "--limit", "10", "--out", str(out), "--picture", str(picture))
    assert ran.returncode == 0, ran.stderr
    assert "10 tasks, 80 rollouts, 80 turns" in ran.stdout
    assert picture.read_text().startswith("<svg")
    made = Calibration.read(out)
    assert (made.model, made.top_k, sorted(made.threshold)) == ("qwen2.5-coder-1.5b", 10, ["argument", "call", "tool"])

    options = ["score", str(TRACES), "--calibration", str(out), "--draws", "1", "--null-shuffles", "0"]
    ran = evals(*options)
    assert ran.returncode == 0, ran.stderr
    assert f"phases: {made.phases}" in ran.stdout
    out.write_text(out.read_text().replace("top_k = 10", "top_k = 20"))
    refused(evals(*options), "calibrated at top-k 20", "top-k 10")
