"""What a suite is: tasks, a world for each rollout of a task, the tools in it, and a checker.

A rollout of a task goes like this. `Suite.make_env` once, `Suite.fork` for each rollout. The model is given
`Task.messages` and `Suite.tools`; what it writes is a `Reply`, and `respond` says what comes after it: results of its
calls, the user's next words, or nothing, and then the rollout is over and `Suite.score` judges it. Ask `Suite.tools`
again after the user has spoken: what is offered can change there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

Message = Mapping[str, str]
"""A chat message as OpenAI writes it: `role` (system, user) and `content`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task of a suite.

    Attributes:
        suite: Name of the suite.
        category: The part of the suite it is counted in.
        id: Identifier, unique in the suite.
        messages: What the model is told first.
        runs_tools: Whether calls are run. Where they are not, the model's first reply is its answer, calls included.
        calls_at_once: Whether it is solved by several calls in one reply alone.
        max_steps: Replies with calls between two words of the user; one more is not run, and the rollout is over.
        max_replies: Replies in all; then the rollout is over as it stands.
        truth: What the checker needs: plain JSON-able values, the suite's own. Never shown to a model.
    """

    suite: str
    category: str
    id: str
    messages: tuple[Message, ...]
    runs_tools: bool = False
    calls_at_once: bool = False
    max_steps: int = 1
    max_replies: int = 1
    truth: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool as a model is told of it; `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    def as_openai(self) -> dict[str, Any]:
        """The form that `tools` of a chat request and `bind_tools` take."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A tool call; `arguments` are values as JSON reads them."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One message of the model."""

    text: str = ""
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What the checker says.

    Attributes:
        reward: In [0, 1]. The task is solved at 1.
        reason: Why not, in the checker's words; empty where it is solved.
        derived: Figures of ours from the same checker, say turns solved. Not official: to be labelled as derived.
    """

    reward: float
    reason: str = ""
    derived: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def passed(self) -> bool:
        """Whether the task is solved."""
        return self.reward >= 1


class World(Protocol):
    """The copy of a task's world that one rollout acts on. Not for two threads at once."""

    def run(self, call: Call) -> str:
        """Run one call and say what came of it, errors included: a model's mistake raises nothing."""
        ...

    def proceed(self, text: str) -> str | None:
        """Take a reply without calls; what the user says to it, None at the end of the task."""
        ...


class Suite(Protocol):
    """Tasks with a checker."""

    @property
    def name(self) -> str:
        """Name of the suite."""
        ...

    @property
    def categories(self) -> tuple[str, ...]:
        """The parts it has."""
        ...

    def tasks(self, category: str) -> Iterator[Task]:
        """The tasks of one part, in the official order.

        Raises:
            SuiteMalformedError: The data cannot be read.
        """
        ...

    def make_env(self, task: Task) -> World:
        """The world as the task finds it."""
        ...

    def fork(self, world: World) -> World:
        """A copy of it as it is now, on its own from here on."""
        ...

    def tools(self, task: Task, world: World) -> tuple[ToolSpec, ...]:
        """What the model may call now."""
        ...

    def score(self, task: Task, world: World, replies: Sequence[Reply]) -> Score:
        """Judge a rollout by the official checker.

        Args:
            task: What was asked.
            world: What the rollout left behind. It is not changed.
            replies: Everything that the model wrote, in order; cut short where the rollout broke off.
        """
        ...


@runtime_checkable
class Answered(Protocol):
    """A suite whose replies hold an answer that can be told from the reasoning around it."""

    def outcome(self, task: Task, replies: Sequence[Reply]) -> str | None:
        """The answer, as votes compare it; None where there is none."""
        ...


class SelfTested(Suite, Protocol):
    """A suite that can be tested without a model."""

    @property
    def unsolvable(self) -> Mapping[str, str]:
        """Tasks, by identifier, whose ground truth the official checker refuses, and why."""
        ...

    @property
    def free(self) -> Mapping[str, str]:
        """Tasks, by identifier, that pass when nothing is done, and why. Worth counting apart."""
        ...

    def right_replies(self, task: Task, world: World) -> Iterator[Reply] | None:
        """What a model that knows the ground truth would write; None where the suite knows none.

        It is read one reply at a time, and the world moves between them.
        """
        ...

    def state(self, world: World) -> object:
        """All that a rollout can change, to be compared."""
        ...


def respond(task: Task, world: World, reply: Reply) -> tuple[Message, ...]:
    """What comes after a reply: one `tool` message a call, in their order, or one `user` message; () at the end."""
    if reply.calls:
        if not task.runs_tools:
            return ()
        return tuple({"role": "tool", "name": call.name, "content": world.run(call)} for call in reply.calls)
    said = world.proceed(reply.text)
    return () if said is None else ({"role": "user", "content": said},)


class Allowance:
    """Counts the replies of one rollout against `Task.max_steps` and `Task.max_replies`."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._steps = 0
        self._replies = 0

    def permits(self, reply: Reply) -> bool:
        """Count this reply. False where the rollout ends here: with calls too many, or with no reply to come."""
        self._steps = self._steps + 1 if reply.calls else 0
        self._replies += 1
        return self._steps <= self._task.max_steps and self._replies <= self._task.max_replies
