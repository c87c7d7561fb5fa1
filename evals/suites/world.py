"""The world of tasks that have none: one reply, and nothing is run; and what their suites share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evals.suites.protocol import Call, Task, ToolSpec, World


class NoWorld:
    """Nothing to act on."""

    def run(self, call: Call) -> str:
        """Say that there are no tools; only a model that calls one all the same gets here."""
        return f"there is no tool {call.name!r}"

    def proceed(self, text: str) -> str | None:
        """The first reply ends the task."""
        del text


class WithoutWorld:
    """The part of a suite that is the same where no task has a world."""

    def make_env(self, task: Task) -> World:
        """None to speak of."""
        del task
        return NoWorld()

    def fork(self, world: World) -> World:
        """Nothing to copy."""
        return world

    def tools(self, task: Task, world: World) -> tuple[ToolSpec, ...]:
        """None."""
        del task, world
        return ()

    def state(self, world: World) -> object:
        """Nothing changes."""
        del world
