"""The suite: AST categories of one turn, and the four categories of several turns."""

from __future__ import annotations

import pickle
from copy import deepcopy
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from evals.errors import SuiteMalformedError
from evals.suites.bfcl import ground_truth, multi_turn, single_turn
from evals.suites.bfcl.names import tool_spec
from evals.suites.bfcl.official import official
from evals.suites.protocol import Reply, Score, Task, ToolSpec, World
from evals.suites.world import NoWorld

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ONE_TURN: Final = (
    "simple_python",
    "simple_java",
    "simple_javascript",
    "multiple",
    "parallel",
    "parallel_multiple",
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
)
AT_ONCE: Final = ("parallel", "parallel_multiple", "live_parallel", "live_parallel_multiple")
"""Solved by several calls in one reply."""
SEVERAL_TURNS: Final = (
    "multi_turn_base",
    "multi_turn_miss_func",
    "multi_turn_miss_param",
    "multi_turn_long_context",
)

_REFUSED: Final = {
    "the checker keeps the quotes of texts in a Java array": (
        "simple_java_35",
        "simple_java_78",
        "simple_java_83",
        "simple_java_85",
        "simple_java_86",
        "simple_java_89",
        "simple_java_90",
        "simple_java_91",
    ),
    "the checker reads numbers and truth values in a Java array as texts": ("simple_java_36", "simple_java_65"),
    "a required parameter has no possible answer": ("live_simple_106-63-0", "live_simple_112-68-0"),
    "the function that answers has other parameters than its document": (
        "live_multiple_862-181-3",
        "live_multiple_964-207-0",
    ),
}


def open_suite(argument: str) -> Bfcl:
    """The suite as it is published, or with `turns=N` the first turns of its tasks of several."""
    if not argument:
        return Bfcl()
    option, _, number = argument.partition("=")
    if option != "turns" or not number.isdecimal() or not int(number):
        raise SuiteMalformedError(f"suite bfcl takes bfcl:turns=N, N from 1, and got bfcl:{argument}")
    return Bfcl(int(number))


class Bfcl:
    """BFCL v4: AST and multi-turn categories.

    Args:
        turns: Tasks of several turns end after so many of them, and are solved when the official checker accepts
            these. That is a suite of ours, under a name of its own; None leaves the tasks as they are published.
    """

    free: Mapping[str, str] = {}

    def __init__(self, turns: int | None = None) -> None:
        self._turns = turns
        self.name = "bfcl" if turns is None else f"bfcl:turns={turns}"
        self.categories = SEVERAL_TURNS if turns else (*ONE_TURN, *SEVERAL_TURNS)

    @property
    def unsolvable(self) -> Mapping[str, str]:
        """Tasks whose own answer the official checker refuses."""
        return {name: why for why, names in _REFUSED.items() for name in names}

    def tasks(self, category: str) -> Iterator[Task]:
        """The tasks of one category, in the official order."""
        if category not in self.categories:
            raise SuiteMalformedError(f"bfcl has no category {category!r}: there are {', '.join(self.categories)}")
        several = category in SEVERAL_TURNS
        for entry, truth in self._entries(category):
            turns = len(truth["said"]) if several else 1
            steps = official().max_steps if several else 1
            yield Task(
                suite=self.name,
                category=category,
                id=entry["id"],
                messages=tuple(entry["question"][0]),
                runs_tools=several,
                calls_at_once=category in AT_ONCE,
                max_steps=steps,
                max_replies=turns * (steps + 1) if several else 1,
                truth=truth,
            )

    def make_env(self, task: Task) -> World:
        """The services in the state that the task asks for."""
        return multi_turn.Services(task) if task.runs_tools else NoWorld()

    def fork(self, world: World) -> World:
        """All services at once, as they may share what they hold."""
        return deepcopy(world)

    def tools(self, task: Task, world: World) -> tuple[ToolSpec, ...]:
        """The functions of the task, less those that are withheld as yet."""
        functions = list(task.truth["shown"])
        if isinstance(world, multi_turn.Services):
            for turn, added in task.truth["withheld"].items():
                if int(turn) <= world.turn:
                    functions.extend(added)
        return tuple(tool_spec(function) for function in functions)

    def score(self, task: Task, world: World, replies: Sequence[Reply]) -> Score:
        """Judge by the official checkers, which replay the calls."""
        if isinstance(world, multi_turn.Services):
            return multi_turn.check(task, replies, world.methods())
        return single_turn.check(task, replies)

    def right_replies(self, task: Task, world: World) -> Iterator[Reply] | None:
        """The official answers as calls."""
        del world
        return ground_truth.right_turns(task) if task.runs_tools else ground_truth.right_answer(task)

    def state(self, world: World) -> object:
        """All services, their random generators included, and the turn."""
        if isinstance(world, multi_turn.Services):
            return pickle.dumps((world.instances, world.turn))
        return None

    def _entries(self, category: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Those of a category; with fewer turns, of tasks that have something to be called in them."""
        for entry, truth in _loaded(category):
            calls = truth["ground_truth"][: self._turns]
            if self._turns is None:
                yield entry, truth
            elif any(calls):
                yield entry, {**truth, "ground_truth": calls, "said": truth["said"][: self._turns]}


@cache
def _loaded(category: str) -> tuple[tuple[dict[str, Any], dict[str, Any]], ...]:
    """Every entry of a category, and the truth of its task."""
    answers = official().ground_truth(category)
    entries = official().entries(category)
    if category in SEVERAL_TURNS:
        return tuple((entry, _several(entry, answer)) for entry, answer in zip(entries, answers, strict=True))
    # The checker wants the documents as they were before hints for a language made every type a string.
    plain = official().entries(category, include_language_specific_hint=False)
    together = zip(entries, plain, answers, strict=True)
    return tuple((entry, _one(entry, bare, answer)) for entry, bare, answer in together)


def _one(entry: Mapping[str, Any], bare: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    return {"ground_truth": answer["ground_truth"], "functions": bare["function"], "shown": entry["function"]}


def _several(entry: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    withheld: dict[str, list[Any]] = entry.get("missed_function", {})
    return {
        "ground_truth": answer["ground_truth"],
        "initial_config": entry["initial_config"],
        "classes": entry["involved_classes"],
        # A turn without words is the one in which withheld functions are added.
        "said": [turn[0]["content"] if turn else None for turn in entry["question"]],
        "shown": entry["function"],
        "withheld": withheld,
        "all_functions": [*entry["function"], *(function for added in withheld.values() for function in added)],
    }
