"""BFCL's multi-turn checker against wrong answers, in between right ones; and what a model may write there."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from entcent_agents.errors import ConfigurationError
from evals.cli.app import app
from evals.errors import SuiteMalformedError
from evals.suites.registry import ENTRIES, load_suite

if ENTRIES["bfcl"].missing:
    pytest.skip("bfcl is not installed: python -m evals install bfcl", allow_module_level=True)

from evals.suites.bfcl import multi_turn
from evals.suites.bfcl.official import official, shared_objects
from evals.suites.bfcl.suite import SEVERAL_TURNS, Bfcl
from evals.suites.protocol import Call, Reply, Score, Task
from evals.suites.self_test import play

LONG = "multi_turn_long_context"
NOTHING_NEW = {"multi_turn_base_139", "multi_turn_miss_func_139", "multi_turn_miss_param_139"}
"""The last call of these gives what an earlier one gave, and the checker asks only that some call has given it."""


@pytest.fixture(scope="module")
def suite() -> Bfcl:
    found = load_suite("bfcl")
    assert isinstance(found, Bfcl)
    return found


def right(suite: Bfcl, task: Task) -> list[Reply]:
    return list(suite.right_replies(task, suite.make_env(task)) or ())


def judge(suite: Bfcl, task: Task, replies: list[Reply]) -> Score:
    score, _ = play(suite, task, suite.make_env(task), replies)
    return score


def spoilt(replies: list[Reply], where: int) -> Iterator[tuple[str, list[Reply]]]:
    """The ground truth made wrong, at the reply in this place, which has calls."""
    before, at, after = replies[:where], replies[where], replies[where + 1 :]
    yield "calls nothing in one turn", [*before, *after]
    yield "calls what there is not", [*before, Reply(calls=(Call(name="nothing_of_the_kind"),)), *after]
    yield "breaks off", [*before, at]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("category", SEVERAL_TURNS)
def test_wrong_answers_fail_and_leave_right_ones_right(suite: Bfcl, category: str) -> None:
    looked_at, passed = 0, set[str]()
    for task in suite.tasks(category):
        replies = right(suite, task)
        last = max(place for place, reply in enumerate(replies) if reply.calls)
        for what, wrong in spoilt(replies, last):
            if judge(suite, task, wrong).passed:
                assert what == "calls what there is not", task.id
                passed.add(task.id)
        assert judge(suite, task, replies).passed, task.id
        looked_at += 1
    assert (looked_at, passed) == (200, {name for name in NOTHING_NEW if name.startswith(f"{category}_1")})


def test_turns_are_counted_from_the_first_and_by_the_official_checker(suite: Bfcl) -> None:
    task = next(task for task in suite.tasks("multi_turn_base") if len(task.truth["ground_truth"]) == 4)
    replies = right(suite, task)
    ends = [place for place, reply in enumerate(replies) if not reply.calls]
    solved = {turns: judge(suite, task, replies[: ends[turns - 1] + 1]).derived["turns_solved"] for turns in (1, 3, 4)}
    assert solved == {1: 0.25, 3: 0.75, 4: 1.0}


def test_withheld_functions_are_offered_from_their_turn_on(suite: Bfcl) -> None:
    task = next(iter(suite.tasks("multi_turn_miss_func")))
    world = suite.make_env(task)
    turn, added = next(iter(task.truth["withheld"].items()))
    names = {function["name"] for function in added}
    for _ in range(int(turn)):
        assert not names & {tool.name for tool in suite.tools(task, world)}
        said = world.proceed("I cannot.")
    assert said == official().functions_added
    assert names <= {tool.name for tool in suite.tools(task, world)}


def test_rollouts_checked_at_once_do_not_spoil_one_another(suite: Bfcl) -> None:
    tasks = [task for task, _ in zip(suite.tasks("multi_turn_base"), range(24), strict=False)]
    truths = [right(suite, task) for task in tasks]

    def one(number: int) -> bool:
        task, replies = tasks[number % 24], truths[number % 24]
        wrong = [reply if not reply.calls else replace(reply, calls=reply.calls[:0]) for reply in replies]
        return judge(suite, task, replies if number % 2 else wrong).passed

    with ThreadPoolExecutor(8) as pool:
        passed = list(pool.map(one, [*range(48), *range(1, 49)]))
    assert passed == [bool(number % 2) for number in [*range(48), *range(1, 49)]]
    assert not [key for key in vars(official().executor) if key.startswith("rollout")]


@pytest.mark.parametrize(
    "call",
    [
        Call(name="__import__", arguments={"name": "os"}),
        Call(name="open", arguments={"file": "written", "mode": "w"}),
        Call(name="ls", arguments={"a=open('written', 'w'), b": True}),
        Call(name="ls(); open", arguments={"file": "written", "mode": "w"}),
        Call(name="echo", arguments={"content": "'); open('written', 'w'); ('"}),
        Call(name="_load_scenario", arguments={"scenario": {}}),
        Call(name="ls", arguments={"lambda": 1}),
    ],
)
def test_nothing_that_a_model_writes_is_run_as_code(
    suite: Bfcl, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    task = next(task for task in suite.tasks("multi_turn_base") if "GorillaFileSystem" in task.truth["classes"])
    replies = right(suite, task)
    opened: list[Any] = []
    monkeypatch.setattr(builtins, "open", lambda *args, **_: opened.append(args))
    judge(suite, task, [Reply(calls=(call,)), *replies])
    assert opened == [] and list(tmp_path.iterdir()) == []


def test_arguments_are_the_models_own_however_services_change_what_they_are_given(suite: Bfcl) -> None:
    task = next(task for task in suite.tasks("multi_turn_base") if "TwitterAPI" in task.truth["classes"])
    world = suite.make_env(task)
    assert isinstance(world, multi_turn.Services)
    world.instances["TwitterAPI"].authenticated = True
    post = Call(name="post_tweet", arguments={"content": "hello", "mentions": ["@one"]})
    number = world.instances["TwitterAPI"].tweet_counter
    world.run(post)
    world.run(Call(name="mention", arguments={"tweet_id": number, "mentioned_usernames": ["@two"]}))
    assert world.instances["TwitterAPI"].tweets[number]["mentions"] == ["@one", "@two"]
    assert post.arguments["mentions"] == ["@one"]


def test_a_list_that_is_a_default_is_not_shared_by_rollouts(suite: Bfcl) -> None:
    task = next(task for task in suite.tasks("multi_turn_base") if "TwitterAPI" in task.truth["classes"])
    mentions: list[list[str]] = []
    for _ in range(2):
        world = suite.make_env(task)
        assert isinstance(world, multi_turn.Services)
        service = world.instances["TwitterAPI"]
        service.authenticated = True
        number = service.tweet_counter
        world.run(Call(name="post_tweet", arguments={"content": "hello"}))
        world.run(Call(name="mention", arguments={"tweet_id": number, "mentioned_usernames": ["@somebody"]}))
        mentions.append(service.tweets[number]["mentions"])
    assert mentions == [["@somebody"], ["@somebody"]]


def test_a_check_leaves_the_modules_of_the_services_as_they_were(suite: Bfcl) -> None:
    task = next(task for task in suite.tasks(LONG) if "TwitterAPI" in task.truth["classes"])
    before = [repr(value) for value, _ in shared_objects()]
    number = suite.make_env(task).instances["TwitterAPI"].tweet_counter  # type: ignore[attr-defined]
    login = Call(name="authenticate_twitter", arguments={"username": "a", "password": "b"})
    post = Call(name="post_tweet", arguments={"content": "hello"})
    mention = Call(name="mention", arguments={"tweet_id": number, "mentioned_usernames": ["@somebody"]})
    turns = len(task.truth["said"])
    judge(suite, task, [Reply(calls=(login, post, mention)), *[Reply(text="done")] * turns])
    assert [repr(value) for value, _ in shared_objects()] == before


def test_importing_the_package_leaves_no_folders(suite: Bfcl) -> None:
    package = Path(str(official().executor.__file__)).parents[3]
    assert not [name for name in ("result", "score", ".file_locks") if (package / name).exists()]


def test_a_value_that_the_ast_checker_did_not_foresee_is_wrong_and_no_crash(suite: Bfcl) -> None:
    task = next(iter(suite.tasks("simple_python")))
    function = task.truth["functions"][0]
    odd: list[Any] = [None, {"a": {"b": []}}, [[{}]], "", True, 1e400]
    for value in odd:
        arguments = dict.fromkeys(function["parameters"]["properties"], value)
        name = suite.tools(task, suite.make_env(task))[0].name
        assert not judge(suite, task, [Reply(calls=(Call(name=name, arguments=arguments),))]).passed


def test_first_turns_are_a_suite_of_their_own_judged_by_the_official_checker():
    shortened = load_suite("bfcl:turns=1")
    assert isinstance(shortened, Bfcl)
    assert (shortened.name, shortened.categories) == ("bfcl:turns=1", SEVERAL_TURNS)
    tasks = list(islice(shortened.tasks("multi_turn_miss_param"), 20))
    for task in tasks:
        replies = right(shortened, task)
        assert sum(not reply.calls for reply in replies) == 1
        assert judge(shortened, task, replies).passed
        assert not judge(shortened, task, [Reply(text="done")]).passed


@pytest.mark.parametrize("argument", ["turns=0", "turns", "turns=one", "first"])
def test_other_arguments_are_refused(argument: str):
    with pytest.raises(SuiteMalformedError, match="takes bfcl:turns=N"):
        load_suite(f"bfcl:{argument}")


def test_tools_as_text_are_refused_where_several_calls_are_wanted(tmp_path: Path):
    pytest.importorskip("pyarrow")
    arguments = ["run", "bfcl", "--category", "multiple", "--category", "parallel", "--out", str(tmp_path / "out")]
    with pytest.raises(ConfigurationError, match="^parallel want several calls in one reply.*--tools native"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert not (tmp_path / "out").exists()
