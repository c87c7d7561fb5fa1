"""A folder of one's own tasks: what is right, and what a malformed folder is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evals.errors import SuiteMalformedError
from evals.suites.protocol import Reply, Suite
from evals.suites.registry import load_suite
from evals.suites.self_test import examine


def written(folder: Path, *lines: dict[str, Any] | str, checker: str | None = None) -> str:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "tasks.jsonl").write_text("\n".join(texts), encoding="utf-8")
    if checker is not None:
        (folder / "checker.py").write_text(checker, encoding="utf-8")
    return f"jsonl:{folder}"


def reward(suite: Suite, text: str) -> float:
    task = next(iter(suite.tasks(suite.categories[0])))
    world = suite.make_env(task)
    return suite.score(task, world, [Reply(text=text)]).reward


@pytest.mark.parametrize(
    ("line", "text", "right"),
    [
        ({"answer": "42"}, "so it is\n 42 \n\n", True),
        ({"answer": "42"}, "42 it is", False),
        ({"answer": "Paris"}, "the capital is\nPARIS", True),
        ({"answer": "42", "pattern": r"answer is (\d+)"}, "the answer is 41, no: the answer is 42.", True),
        ({"answer": "41", "pattern": r"answer is (\d+)"}, "the answer is 41, no: the answer is 42.", False),
        ({"answer": "42", "pattern": r"\d+"}, "6 times 7 is 42.", True),
        ({"pattern": r"(?i)sorry"}, "I am SORRY", True),
        ({"pattern": r"(?i)sorry"}, "never", False),
        ({"answer": "42"}, "", False),
    ],
)
def test_an_answer_is_found_by_pattern_or_in_the_last_line(
    tmp_path: Path, line: dict[str, Any], text: str, right: bool
) -> None:
    suite = load_suite(written(tmp_path, {"id": "1", "prompt": "?", **line}))
    assert reward(suite, text) == right


def test_a_checker_of_ones_own_sees_the_line_and_the_reply(tmp_path: Path) -> None:
    checker = "def check(task, text):\n    return len(text) / task['letters'] if len(text) <= task['letters'] else 0\n"
    line = {"id": "1", "prompt": "?", "letters": 4, "solution": "four"}
    suite = load_suite(written(tmp_path, line, checker=checker))
    assert (reward(suite, "four"), reward(suite, "ab"), reward(suite, "too long")) == (1, 0.5, 0)
    assert examine(suite, "all").faults == []


def test_the_self_test_sees_tasks_that_cannot_be_right(tmp_path: Path) -> None:
    lines = [
        {"id": "a", "prompt": "?", "pattern": "x*"},
        {"id": "b", "category": "hard", "prompt": "?", "answer": "7", "pattern": r"is (\d)", "solution": "it is 8"},
        {"id": "c", "category": "hard", "prompt": "?", "answer": "7"},
    ]
    suite = load_suite(written(tmp_path, *lines))
    assert suite.categories == ("all", "hard")
    assert examine(suite, "all").faults == ["a: doing nothing passes"]
    found = examine(suite, "hard")
    assert found.solved == 1 and any(fault.startswith("b: the ground truth fails") for fault in found.faults)


def test_messages_are_given_as_they_are(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "2 + 2"}]
    suite = load_suite(written(tmp_path, {"id": "1", "messages": messages, "answer": "4"}))
    assert list(next(iter(suite.tasks("all"))).messages) == messages


TASK = {"id": "1", "prompt": "?", "answer": "4"}


@pytest.mark.parametrize(
    ("lines", "checker", "said"),
    [
        (["not json"], None, "line 1: Invalid JSON"),
        ([TASK, TASK], None, "line 2: there is a task '1' before it"),
        ([], None, "has no task"),
        ([{"id": "1", "prompt": "?"}], None, "line 1: nothing says what is right"),
        ([{"prompt": "?", "answer": "4"}], None, "line 1, id: Field required"),
        ([{**TASK, "id": 1}], None, "line 1, id: Input should be a valid string"),
        ([{**TASK, "answer": 4}], None, "line 1, answer: Input should be a valid string"),
        ([{**TASK, "messages": [{"role": "user", "content": "?"}]}], None, "not both"),
        ([{"id": "1", "messages": [{"role": "user"}], "answer": "4"}], None, "line 1, messages.0.content"),
        ([{**TASK, "pattern": "("}], None, "no regular expression"),
        ([["a", "list"]], None, "line 1: Input should be an object"),
        ([TASK], "import nothing_of_the_kind", "checker.py cannot be imported"),
        ([TASK], "def chek(task, text): ...", "has no function check(task, text)"),
    ],
)
def test_a_malformed_folder_is_told_where_and_what(
    tmp_path: Path, lines: list[Any], checker: str | None, said: str
) -> None:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    with pytest.raises(SuiteMalformedError, match=r"tasks\.jsonl|checker\.py") as raised:
        load_suite(written(tmp_path, *texts, checker=checker))
    assert said in str(raised.value)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SuiteMalformedError, match="nowhere"):
        load_suite(f"jsonl:{tmp_path / 'nowhere'}")
    with pytest.raises(SuiteMalformedError, match="jsonl:FOLDER"):
        load_suite("jsonl")


@pytest.mark.parametrize(
    ("body", "said"),
    [("return 2", "returned 2.0"), ("return 1 / 0", "ZeroDivisionError"), ("return None", "TypeError")],
)
def test_a_checker_that_gives_no_reward_is_told(tmp_path: Path, body: str, said: str) -> None:
    suite = load_suite(written(tmp_path, {"id": "1", "prompt": "?"}, checker=f"def check(task, text): {body}"))
    with pytest.raises(SuiteMalformedError, match=said):
        reward(suite, "x")
