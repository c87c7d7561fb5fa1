"""The scripts of a package: as its own documentation would have it written, and with this library."""

from __future__ import annotations

import runpy
import warnings
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What is known of a package's scripts.

    Attributes:
        package: On the registry.
        requests: What is asked, one after the other in one conversation.
        effects: What the script with rollouts declares.
        external: The list of calls that were made for real, in the script.
        made: What it is for rollout i, after one request.
        marks: What is only said or written in rollout i; never a part of what another one says.
    """

    name: str
    package: str
    requests: tuple[str, ...]
    effects: dict[str, str] = field(default_factory=dict)
    external: str | None = None
    made: str = ""
    marks: tuple[str, ...] = ()

    def run(self, script: str = "with_rollouts") -> dict[str, Any]:
        """Run one of its scripts as it is; what it leaves: its graph is `app`."""
        with warnings.catch_warnings():  # packages that are built on what LangGraph has moved elsewhere
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            return runpy.run_path(str(self._path(script)))

    def changed_lines(self, script: str = "with_rollouts") -> int:
        """Lines that are other, new or gone."""
        before, after = (self._path(name).read_text().splitlines() for name in ("plain", script))
        codes = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
        return sum(max(i2 - i1, j2 - j1) for tag, i1, i2, j1, j2 in codes if tag != "equal")

    def marks_of(self, index: int) -> list[str]:
        """Traces of a rollout."""
        return [mark.format(index) for mark in self.marks]

    def _path(self, script: str) -> Path:
        return FOLDER / self.name / f"{script}.py"


PAIRS: Final = {
    pair.name: pair
    for pair in (
        Pair(
            name="supervisor",
            package="langgraph-supervisor",
            requests=("A room in Oslo, please.", "And one for my sister."),
            effects={"search_hotels": "READ"},
            external="booked",
            made="hotel {}",
            marks=("says {}", "Oslo {}", "otel {}", "for {}", "ing {}"),
        ),
        Pair(
            name="swarm",
            package="langgraph-swarm",
            requests=("It came broken.", "So did the other one."),
            effects={"find_order": "READ"},
            external="refunded",
            made="('7', {})",
            marks=("says {}", "order {}", "That is {}", "'kroner': {}", "back {}"),
        ),
        Pair(
            name="deep_agent",
            package="deepagents",
            requests=("Find it out, and tell Ann.", "Once more."),
            effects=dict.fromkeys(["search", "read_file", "write_file", "task"], "READ"),
            external="sent",
            made="ann{}",
            marks=("plan of {}", "note of {}", "errand of {}", "for {}", "mail {}", "query {}", "act {}", "ann{}"),
        ),
        Pair(
            name="memory",
            package="langmem",
            requests=("Remember that I like dark mode.", "Which mode do I like?"),
            effects=dict.fromkeys(["manage_memory", "search_memory"], "READ"),
            marks=("shade {}", "Shade {}", "({})"),
        ),
        Pair(name="extraction", package="trustcall", requests=("Ann will be 33 in May.",), marks=("Ann {}",)),
    )
}
