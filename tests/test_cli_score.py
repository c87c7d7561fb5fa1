"""`entcent score` as a user meets it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.test_cli import entcent, refused

RECORDINGS = Path(__file__).parent / "data" / "recordings"


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Eight tasks of four chat completions; the surest is right in six of them."""
    path = tmp_path / "labelled.jsonl"
    lines = []
    for task in range(8):
        for i in range(4):
            spread = 0.2 + 0.2 * i  # probability of the second of two tokens
            content = [
                {
                    "token": "x",
                    "logprob": math.log(1 - spread / 2),
                    "top_logprobs": [{"logprob": math.log(1 - spread / 2)}, {"logprob": math.log(spread / 2)}],
                }
            ] * 12
            right = i == 0 if task < 6 else i == 3
            choice = {
                "index": 0,
                "message": {"content": f"answer: {int(right)}{i % 2}"},
                "logprobs": {"content": content},
            }
            lines.append(json.dumps({"task": f"task {task}", "reward": right, "choices": [choice]}))
    path.write_text("\n".join(lines))
    return path


def test_with_rewards_every_selector_is_shown_next_to_chance_oracle_and_null(labelled: Path):
    ran = entcent("score", str(labelled))
    assert ran.returncode == 0, ran.stderr
    assert "8 tasks, 32 candidates; scored tokens min 12, median 12, max 12" in ran.stdout
    row = next(line for line in ran.stdout.splitlines() if line.startswith("lowest mean entropy"))
    assert row.split()[3:5] == ["8/8", "0.750"] and "+0.500" in row
    assert "random (expected)" in ran.stdout and "oracle (best there was)" in ran.stdout
    assert "window 2048 is longer than 32 of 32 trajectories" in ran.stdout


def test_json_has_everything_and_is_json(labelled: Path):
    ran = entcent("score", str(labelled), "--json", "--window", "0.25", "--null-shuffles", "5")
    record = json.loads(ran.stdout)
    assert record["settings"]["settings"]["window"] == 0.25
    assert (record["settings"]["shuffles"], record["settings"]["files"]) == (5, [str(labelled)])
    assert len(record["tasks"]) == 8
    task = record["tasks"][0]
    assert [one["reward"] for one in task["candidates"]] == [1, 0, 0, 0]
    assert task["selections"]["lowest mean entropy"]["winner"] == 0
    assert task["selections"]["lowest centroid, with floors"]["winner"] is None
    summary = {one["selector"]: one for one in record["summary"]["selectors"]}
    assert summary["lowest mean entropy"]["reward"][0] == 0.75
    assert 0.0 <= summary["lowest mean entropy"]["null"] <= 0.6
    assert record["summary"]["mixed_tasks"] == 8


@pytest.mark.parametrize("name", sorted(path.name for path in RECORDINGS.iterdir() if path.suffix != ".md"))
def test_every_sample_of_a_shape_is_scored(name: str):
    ran = entcent("score", str(RECORDINGS / name))
    assert ran.returncode == 0, ran.stderr
    assert "best first" in ran.stdout


def test_a_bad_line_is_named_and_skipped_where_asked(labelled: Path):
    labelled.write_text(labelled.read_text() + '\n{"choices": [{"logprobs": {"content": [{"logprob": 0.7}]}}]}\n')
    ran = entcent("score", str(labelled))
    refused(ran, f"{labelled}:33", "--skip-bad")
    assert ran.stdout == ""
    ran = entcent("score", str(labelled), "--skip-bad")
    assert ran.returncode == 0
    assert f"skipped {labelled}:33" in ran.stderr
    assert "8 tasks, 32 candidates" in ran.stdout


def test_what_cannot_work_is_refused_in_one_line(tmp_path: Path, labelled: Path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text("no json\n")
    refused(entcent("score", str(bad), "--skip-bad"), "nothing to score")
    refused(entcent("score", str(tmp_path / "absent.jsonl")), "absent.jsonl")
    refused(entcent("score", str(labelled), "--window", "-3"), "window=-3")
    refused(entcent("score", str(labelled), "--answer", "("), "--answer")
    refused(entcent("score", str(labelled), "--segment", "thoughts"), "'thoughts'", "tool-argument")
    refused(entcent("score", str(labelled), "--top-percent", "30"), "top_percent=30.0")


def test_answers_are_compared_where_the_pattern_finds_them(labelled: Path):
    record = json.loads(entcent("score", str(labelled), "--json", "--answer", r"answer: (\d)").stdout)
    vote = record["tasks"][0]["selections"]["majority vote"]
    assert [one["value"] for one in vote["candidates"]] == [1.0, 3.0, 3.0, 3.0]


def test_what_people_call_their_tasks_and_files_is_printed_as_it_is(tmp_path: Path):
    folder = tmp_path / "[run1]"
    folder.mkdir()
    path = folder / "a.jsonl"
    path.write_text(
        json.dumps({"task": "fix [/b] path\nnow", "choices": [{"message": {"content": "x"}}]}) + "\n{[/x]}\n"
    )
    ran = entcent("score", str(path), "--skip-bad")
    assert ran.returncode == 0, ran.stderr
    assert "task fix [/b] path now" in ran.stdout
    assert f"{path}:2" in ran.stderr


def test_signals_of_a_segment_are_those_of_its_tokens_alone(labelled: Path):
    whole = json.loads(entcent("score", str(labelled), "--json").stdout)
    argument = entcent("score", str(labelled), "--json", "--segment", "tool-argument")
    part = json.loads(argument.stdout)
    assert whole["tasks"][0]["candidates"][0]["scored_tokens"] == 12
    assert part["tasks"][0]["candidates"][0]["scored_tokens"] == 0  # nothing was called
    assert part["tasks"][0]["selections"]["lowest mean entropy"]["reason"] == "no log-probabilities"
    assert part["settings"]["segments"] == ["tool-argument"]
    answer = entcent("score", str(labelled), "--segment", "answer")
    assert "answer tokens alone" in answer.stdout


def test_tasks_are_told_apart_by_file_or_by_a_part_of_their_names(labelled: Path):
    assert "1 task, 32 candidates" in entcent("score", str(labelled), "--group-by", "file").stdout
    lines = [json.loads(line) for line in labelled.read_text().splitlines()]
    for i, line in enumerate(lines):
        line["id"] = f"{line.pop('task')}-sample-{i}"
    labelled.write_text("\n".join(map(json.dumps, lines)))
    ran = entcent("score", str(labelled), "--task-pattern", r"(task \d+)-sample")
    assert "8 tasks, 32 candidates" in ran.stdout


def test_without_rewards_it_says_how_often_selectors_agree_with_the_default_chain(labelled: Path):
    lines = [json.loads(line) for line in labelled.read_text().splitlines()]
    labelled.write_text("\n".join(json.dumps({**line, "reward": None}) for line in lines))
    ran = entcent("score", str(labelled))
    assert "chooses as the default chain" in ran.stdout
    row = next(line for line in ran.stdout.splitlines() if line.startswith("default chain"))
    assert row.split()[2:] == ["8/8", "8/8"]


def test_one_task_has_no_interval(labelled: Path):
    ran = entcent("score", str(labelled), "--group-by", "file")
    assert "one task" in ran.stdout


def test_several_bad_lines_are_listed_one_a_line(labelled: Path):
    labelled.write_text(labelled.read_text() + "\n{\n[1]\n")
    ran = entcent("score", str(labelled))
    assert ran.returncode == 2
    assert sum(str(labelled) in line for line in ran.stderr.splitlines()) == 2


def test_selectors_that_never_decide_say_why(labelled: Path):
    ran = entcent("score", str(labelled), "--answer", "nothing like it")
    assert "abstain (no outcome to vote for; in 8 of 8 tasks): majority vote" in " ".join(ran.stdout.split())


def test_slips_of_a_shell_are_refused(labelled: Path):
    refused(entcent("score", str(labelled), str(labelled)), "is named twice")
    refused(entcent("score", str(labelled), "--answer", ""), "--answer is empty")
    assert entcent("score", str(labelled), "--segment", "Tool_Argument").returncode == 0
