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
    assert record["settings"]["window"] == 0.25
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
