"""Which suites there are, what they need, and how one is had by its name."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final

from evals.errors import SuiteMissingError, SuiteUnknownError

if TYPE_CHECKING:
    from evals.suites.protocol import SelfTested


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A suite that can be had.

    Attributes:
        name: What it is called.
        about: What is in it, in a line.
        licence: Of its data and code.
        modules: What must be importable.
        pip: Arguments of `pip install`.
    """

    name: str
    about: str
    licence: str
    modules: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()

    @property
    def missing(self) -> str | None:
        """The first package that is not there; None where all are."""
        return next((name for name in self.modules if importlib.util.find_spec(name) is None), None)


ENTRIES: Final = {
    entry.name: entry
    for entry in (
        Entry(
            name="bfcl",
            about="function calling: AST categories and the four multi-turn ones",
            licence="Apache-2.0",
            modules=("bfcl_eval", "mpmath", "filelock"),
            # With its dependencies it would bring torch, and 6 GB.
            pip=("--no-deps", "bfcl-eval==2026.3.23", "mpmath", "filelock"),
        ),
        Entry(
            name="agentdojo",
            about="tool use at work, in travel, banking and chat: utility of the 97 user tasks",
            licence="MIT",
            modules=("agentdojo",),
            pip=("agentdojo==0.1.35",),
        ),
        Entry(
            name="textarena",
            about="text games for one player",
            licence="MIT",
            modules=("textarena",),
            pip=("textarena==0.7.4",),
        ),
        Entry(
            name="reasoning_gym",
            about="generated puzzles and sums, answered in one turn",
            licence="Apache-2.0",
            modules=("reasoning_gym",),
            pip=("reasoning-gym==0.1.25",),
        ),
        Entry(
            name="jsonl",
            about="tasks of your own, in a folder: jsonl:FOLDER",
            licence="yours",
        ),
    )
}


def entry_of(name: str) -> Entry:
    """The suite called so.

    Raises:
        SuiteUnknownError: There is none.
    """
    if name not in ENTRIES:
        raise SuiteUnknownError(f"no suite {name!r}: there are {', '.join(ENTRIES)}")
    return ENTRIES[name]


def load_suite(spec: str) -> SelfTested:
    """The suite called `spec`: a name of `ENTRIES`, and what the suite takes after a colon (jsonl:FOLDER).

    Raises:
        SuiteUnknownError: There is no such suite.
        SuiteMissingError: Its packages are not installed.
        SuiteMalformedError: Its folder cannot be read.
    """
    name, _, argument = spec.partition(":")
    entry = entry_of(name)
    if entry.missing:
        raise SuiteMissingError(name, entry.missing)
    return import_module(f"evals.suites.{name}").open_suite(argument)
