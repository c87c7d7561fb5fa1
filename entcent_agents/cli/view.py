"""The live view of rollouts, on standard error."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from entcent_agents.rollouts.events import BRANCH_EVENT, COMMIT_EVENT, EVENT

_STYLES = {"finished": "green", "held": "magenta", "failed": "red", "unfinished": "yellow", "tool": "cyan"}


class RolloutView:
    """A table that changes while rollouts run; one line at each stage where standard error is no terminal.

    Args:
        n: How many rollouts.
        model: Its name, for the heading.
    """

    def __init__(self, n: int, model: str) -> None:
        self._n = n
        self._events: dict[int, dict[str, Any]] = {index: {} for index in range(n)}
        self._model = model
        self._round = 1
        self._stage = f"starting {model}"
        self._started = time.perf_counter()
        self._console = Console(stderr=True)
        self._live = Live(
            get_renderable=self._table, console=self._console, transient=True, refresh_per_second=8, screen=False
        )
        self.first_token: float | None = None
        self.committing = False

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        else:
            self.say(self._stage)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def say(self, stage: str) -> None:
        """What is being done now."""
        self._stage = stage
        self._log(stage)

    def show(self, event: dict[str, Any]) -> None:
        """Take a progress event."""
        if event.get("type") == COMMIT_EVENT:
            self.committing = True
            self.say("committing")
            return
        if event.get("type") == BRANCH_EVENT and event["method"]:
            self._log(f"rollout {event['rollout']}: a branch of {event['parent']}, {event['method']}")
        if event.get("type") != EVENT:
            return
        before = self._events[event["rollout"]]
        self._events[event["rollout"]] = event
        if event["tokens"] and self.first_token is None:
            self.first_token = time.perf_counter()
            self._log("first token")
        if event["state"] in _STYLES and event["state"] != before.get("state"):
            detail = f" {event['tool']}" if event["tool"] else ""
            where = f"(turn {event['turns']}, {event['tokens']} tokens)"
            which = f"round {self._round}, " if self._round > 1 else ""
            self._log(f"{which}rollout {event['rollout']}: {event['state']}{detail} {where}")

    def end_round(self, selection: dict[str, Any]) -> None:
        """The selected rollout is committed; where it is held, other rollouts go on from it."""
        self.committing: bool = False
        if selection["status"] == "held":
            self._log(f"rollout {selection['winner']} selected, held: rollouts go on from there")
            self._round += 1
            self._events = {index: {} for index in range(self._n)}
            self._stage = "running"

    @contextmanager
    def set_aside(self) -> Generator[Console]:
        """The console, for whatever else has to be shown there and asked."""
        live = self._live.is_started
        self._live.stop()
        yield self._console
        if live:  # whoever leaves instead of answering needs no table any more
            self._live.start()

    def _log(self, line: str) -> None:
        if not self._console.is_terminal:
            self._console.print(f"{self._seconds():6.1f} s  {line}", highlight=False)

    def _seconds(self) -> float:
        return time.perf_counter() - self._started

    def _table(self) -> Table:
        which = f"round {self._round} · " if self._round > 1 else ""
        title = f"{self._model} · {which}{self._stage} · {self._seconds():.0f} s"
        table = Table(title=title, title_justify="left")
        for column in ("rollout", "turn", "tokens"):
            table.add_column(column, justify="right")
        table.add_column("tool", min_width=12)
        table.add_column("state", min_width=10)
        for index, event in self._events.items():
            state = event.get("state", "waiting")
            table.add_row(
                str(index),
                str(event.get("turns", 0)),
                str(event.get("tokens", 0)),
                event.get("tool") or "",
                Text(state, style=_STYLES.get(state, "")),
            )
        return table
