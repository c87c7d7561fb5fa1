"""Tasks of several turns: simulated services that calls change, and the checker that replays the calls."""

from __future__ import annotations

import inspect
import itertools
import json
import keyword
from contextlib import contextmanager, suppress
from copy import deepcopy
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, cast

from evals.suites.bfcl.official import BACKENDS, official, restore_shared_objects, shared_objects
from evals.suites.protocol import Score

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from evals.suites.protocol import Call, Reply, Task

Turns = list[list[list[str]]]
"""Calls as the checker reads them: turn, step, call."""
LONG: Final = "long_context"
_CHECKED: Final = itertools.count()


class Services:
    """The services of one rollout, and how far its user's script has come."""

    def __init__(self, task: Task) -> None:
        self._said: list[str | None] = task.truth["said"]
        self.turn = 0
        with BACKENDS:
            # Copied, as the services hold tables of their modules by reference and would change them for all.
            self.instances = deepcopy(_instances(task.truth["initial_config"], task.truth["classes"], task.category))

    def run(self, call: Call) -> str:
        """Run a call as the official executor does, and word its result as it does."""
        method = self.methods().get(call.name)
        if method is None:
            return f"Error during execution: name '{call.name}' is not defined"
        try:
            with BACKENDS:
                return _worded(method(**_own_arguments(method, call.arguments)))
        except Exception as error:
            return f"Error during execution: {error}"

    def proceed(self, text: str) -> str | None:
        """The user's words of the next turn."""
        del text  # the script is fixed
        self.turn += 1
        if self.turn >= len(self._said):
            return None
        said = self._said[self.turn]
        return official().functions_added if said is None else said

    def methods(self) -> dict[str, Callable[..., Any]]:
        """What can be called, those of later classes first, as in the official executor."""
        return {
            name: method
            for instance in self.instances.values()
            for name, method in inspect.getmembers(instance, predicate=inspect.ismethod)
            if not name.startswith("_")
        }


def check(task: Task, replies: Sequence[Reply], methods: Mapping[str, Any]) -> Score:
    """Judge by the official checkers: of state and results after each turn, and of turns with nothing to call."""
    truth: list[list[str]] = task.truth["ground_truth"]
    turns = turns_of(replies, methods)
    begun = _Begun(truth[: len(turns)])
    verdict = _replayed(task, turns, begun)
    derived = {"turns_solved": (begun.started - (not verdict["valid"])) / len(truth)}
    if len(turns) != len(truth):
        return Score(reward=0, reason=f"{len(turns)} of {len(truth)} turns were ended", derived=derived)
    if verdict["valid"]:
        return Score(reward=1, derived=derived)
    return Score(reward=0, reason=str(verdict.get("error_message", verdict)), derived=derived)


class _Begun(list[list[str]]):
    """Turns that count how many of them the checker has begun: it stops at the first that is wrong.

    So one replay gives the verdict and the turns solved, which are a figure of our own making.
    """

    def __init__(self, turns: Sequence[list[str]]) -> None:
        super().__init__(turns)
        self.started = 0

    def __iter__(self) -> Iterator[list[str]]:
        for turn in super().__iter__():
            self.started += 1
            yield turn


def turns_of(replies: Sequence[Reply], methods: Mapping[str, Any]) -> Turns:
    """Calls by turn and step; a reply without calls ends a turn, and a turn that was not ended is left out."""
    turns: Turns = []
    steps: list[list[str]] = []
    for reply in replies:
        if reply.calls:
            steps.append([call_text(call, methods) for call in reply.calls])
        else:
            turns.append(steps)
            steps = []
    return turns


def call_text(call: Call, methods: Mapping[str, Any]) -> str:
    """The call in the form that the official executor evaluates.

    Nothing that a model wrote gets there but as the `repr` of a value. What the services do not have could name a
    builtin, and what is no identifier could be code: both become a call of something undefined, which fails alike.
    """
    if call.name not in methods or not all(key.isidentifier() and not keyword.iskeyword(key) for key in call.arguments):
        return "not_a_function_of_the_task()"
    return f"{call.name}({', '.join(f'{key}={value!r}' for key, value in call.arguments.items())})"


def _replayed(task: Task, turns: Turns, truth: list[list[str]]) -> dict[str, Any]:
    # The checker keeps the instances of a model and task among its globals and would go on with them next time.
    name = f"rollout{next(_CHECKED)}"
    entry = {
        "id": task.id,
        "initial_config": task.truth["initial_config"],
        "involved_classes": task.truth["classes"],
    }
    with BACKENDS, _left_as_found(name):
        try:
            return official().multi_turn_checker(turns, truth, entry, task.category, name)
        except Exception as error:  # say the comparison of a folder that was moved into itself
            return {"valid": False, "error_message": f"the official checker broke off: {error!r}"}


@contextmanager
def _left_as_found(name: str) -> Generator[None]:
    shared_objects()  # remembers them, the first time
    try:
        yield
    finally:
        kept = vars(official().executor)
        for key in [key for key in kept if key.startswith(f"{name}_")]:
            del kept[key]
        restore_shared_objects()


def _own_arguments(method: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of the arguments, and of defaults that can change: services keep both, and change them later."""
    own: dict[str, Any] = {
        each.name: each.default
        for each in inspect.signature(method).parameters.values()
        if isinstance(each.default, dict | list)
    }
    return deepcopy({**own, **arguments})


def _instances(config: Mapping[str, Any], classes: Sequence[str], category: str) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name in classes:
        made[name] = getattr(import_module(official().services[name]), name)()
        if name not in official().stateless:
            made[name]._load_scenario(deepcopy(config.get(name, {})), long_context=LONG in category)
    return made


def _worded(result: Any) -> str:
    if isinstance(result, dict):
        with suppress(TypeError, ValueError, RecursionError):
            return json.dumps(result)
    return str(cast("object", result))
