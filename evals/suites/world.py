"""The world of tasks that have none: one reply, and nothing is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evals.suites.protocol import Call


class NoWorld:
    """Nothing to act on."""

    def run(self, call: Call) -> str:
        """Say that there are no tools; only a model that calls one all the same gets here."""
        return f"there is no tool {call.name!r}"

    def proceed(self, text: str) -> str | None:
        """The first reply ends the task."""
        del text
