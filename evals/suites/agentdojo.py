"""AgentDojo: utility of its user tasks, without attacks. Suites of version 1.2.2."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from evals.errors import SuiteMalformedError
from evals.suites.protocol import Call, Reply, Score, Task, ToolSpec, World

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_VERSION: Final = "v1.2.2"
_MAX_STEPS: Final = 15
"""Rounds of tools in the official loop."""


def open_suite(argument: str) -> AgentDojo:
    """The suite; it takes no argument."""
    if argument:
        raise SuiteMalformedError(f"suite agentdojo takes nothing after its name, and got {argument!r}")
    return AgentDojo()


@dataclass(frozen=True, slots=True, kw_only=True)
class Office:
    """The world of a task: accounts, mails, calendars, files, channels."""

    suite: Any
    before: Any
    now: Any

    def run(self, call: Call) -> str:
        """Run a call by the official executor."""
        asked = [_official_call(call)]
        said = {"role": "assistant", "content": None, "tool_calls": asked}
        *_, messages, _ = _executor().query("", _runtime(self.suite), self.now, [said])
        result = messages[-1]
        return result["error"] or "\n".join(block["content"] for block in result["content"])

    def proceed(self, text: str) -> str | None:
        """A reply without calls is the answer."""
        del text


class AgentDojo:
    """The 97 user tasks of four suites."""

    name = "agentdojo"
    categories = ("workspace", "travel", "banking", "slack")
    unsolvable: Mapping[str, str] = {}
    free: Mapping[str, str] = {
        f"banking/user_task_{number}": "its checker looks at what is there already" for number in (5, 6, 8, 9, 10)
    }

    def tasks(self, category: str) -> Iterator[Task]:
        """The user tasks of one suite."""
        if category not in self.categories:
            raise SuiteMalformedError(f"agentdojo has no suite {category!r}: there are {', '.join(self.categories)}")
        system = import_module("agentdojo.agent_pipeline.agent_pipeline").load_system_message(None)
        for name, task in _official(category).user_tasks.items():
            yield Task(
                suite=self.name,
                category=category,
                id=f"{category}/{name}",
                messages=({"role": "system", "content": system}, {"role": "user", "content": task.PROMPT}),
                runs_tools=True,
                max_steps=_MAX_STEPS,
                max_replies=_MAX_STEPS + 1,
                truth={"task": name},
            )

    def make_env(self, task: Task) -> World:
        """The suite's environment, prepared by the task."""
        prepared = _user_task(task).init_environment(deepcopy(_environment(task.category)))
        return Office(suite=_official(task.category), before=prepared, now=deepcopy(prepared))

    def fork(self, world: World) -> World:
        """A copy of what can change."""
        assert isinstance(world, Office)
        return replace(world, now=deepcopy(world.now))

    def tools(self, task: Task, world: World) -> tuple[ToolSpec, ...]:
        """All tools of the suite."""
        del world
        return tuple(
            ToolSpec(name=tool.name, description=tool.description, parameters=tool.parameters.model_json_schema())
            for tool in _official(task.category).tools
        )

    def score(self, task: Task, world: World, replies: Sequence[Reply]) -> Score:
        """Utility, by the task's own checker: of the last words, and of the world before and after."""
        assert isinstance(world, Office)
        words = [{"type": "text", "content": replies[-1].text if replies else ""}]
        calls = [_official_call(call) for reply in replies for call in reply.calls]
        useful = world.suite._check_user_task_utility(
            _user_task(task), words, deepcopy(world.before), deepcopy(world.now), calls
        )
        return Score(reward=1) if useful else Score(reward=0, reason="the user's task is not done")

    def right_replies(self, task: Task, world: World) -> Iterator[Reply] | None:
        """The official calls, all in one reply, as some tasks have more of them than there are rounds; the answer."""
        assert isinstance(world, Office)
        official = _user_task(task)
        calls = official.ground_truth(deepcopy(world.before))
        if calls:
            yield Reply(calls=tuple(Call(name=call.function, arguments=dict(call.args)) for call in calls))
        yield Reply(text=official.GROUND_TRUTH_OUTPUT)

    def state(self, world: World) -> object:
        """All that can change."""
        assert isinstance(world, Office)
        return world.now.model_dump_json()


@cache
def _official(category: str) -> Any:
    return import_module("agentdojo.task_suite.load_suites").get_suite(_VERSION, category)


@cache
def _environment(category: str) -> Any:
    return _official(category).load_and_inject_default_environment({})


@cache
def _executor() -> Any:
    return import_module("agentdojo.agent_pipeline.tool_execution").ToolsExecutor()


def _runtime(suite: Any) -> Any:
    return import_module("agentdojo.functions_runtime").FunctionsRuntime(suite.tools)


def _official_call(call: Call) -> Any:
    # Copied: the executor turns texts that are lists into lists, in place.
    arguments = deepcopy(dict(call.arguments))
    return import_module("agentdojo.functions_runtime").FunctionCall(function=call.name, args=arguments)


def _user_task(task: Task) -> Any:
    return _official(task.category).get_user_task_by_id(task.truth["task"])
