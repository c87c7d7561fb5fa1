"""What a rollout saw of a real thing and what it wants to write there, in a SQLite file of its own."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from entcent_agents.environments import pages

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

_SCHEMA = """
CREATE TABLE seen (key TEXT PRIMARY KEY, value TEXT, version TEXT NOT NULL);
CREATE TABLE writes (number INTEGER PRIMARY KEY, key TEXT NOT NULL, value TEXT);
CREATE TABLE begun (one INTEGER PRIMARY KEY CHECK (one = 1));
CREATE TABLE applied (number INTEGER PRIMARY KEY, version TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One write that is to be replayed.

    Attributes:
        number: Its place in the order, from 1.
        key: What it is written to.
        value: The whole new value; None deletes.
    """

    number: int
    key: str
    value: Any


class Overlay:
    """An open overlay.

    Args:
        connection: To its file; every statement is a transaction of its own.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def value(self, key: str, look: Callable[[str], tuple[Any, str]]) -> Any:
        """What the rollout sees: its own last write, else what it saw first; `look` where it saw nothing yet."""
        self.see(key, look)
        written = self._rows("SELECT value FROM writes WHERE key = ? ORDER BY number DESC LIMIT 1", key)
        return _loaded((written or self._rows("SELECT value FROM seen WHERE key = ?", key))[0][0])

    def write(self, key: str, value: Any, look: Callable[[str], tuple[Any, str]]) -> None:
        """Add a write; what is there is seen first, if it was not, so that a conflict will be noticed."""
        text = _dumped(value)
        self.see(key, look)
        self._rows("INSERT INTO writes (key, value) VALUES (?, ?)", key, text)

    def see(self, key: str, look: Callable[[str], tuple[Any, str]]) -> None:
        """Remember what is there, at the first look alone."""
        if not self._rows("SELECT 1 FROM seen WHERE key = ?", key):
            value, version = look(key)
            self._rows("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", key, _dumped(value), version)

    def seen(self) -> Mapping[str, str]:
        """The versions that were seen, by key."""
        return dict(self._rows("SELECT key, version FROM seen ORDER BY key"))

    def changes(self) -> Mapping[str, tuple[Any, Any]]:
        """What was there and what is to be there, for every key where they differ, in order of the keys."""
        last = "SELECT key, value, max(number) FROM writes GROUP BY key ORDER BY key"
        before = dict(self._rows("SELECT key, value FROM seen"))
        return {
            key: (_loaded(before[key]), _loaded(value)) for key, value, _ in self._rows(last) if value != before[key]
        }

    def writes(self) -> list[Write]:
        """All writes in order, those that are replayed too."""
        found = self._rows("SELECT number, key, value FROM writes ORDER BY number")
        return [Write(number=number, key=key, value=_loaded(value)) for number, key, value in found]

    def versions(self) -> dict[str, str]:
        """Which versions are there, by key, if nobody else wrote: those seen, and those that replayed writes led to."""
        replayed = self._rows("SELECT key, version FROM applied JOIN writes USING (number) ORDER BY number")
        return {**self.seen(), **dict(replayed)}

    def done(self) -> int:
        """How many writes are replayed."""
        return int(self._rows("SELECT count(*) FROM applied")[0][0])

    @property
    def begun(self) -> bool:
        """Whether a replay was begun: a write that is not marked may have been made."""
        return bool(self._rows("SELECT 1 FROM begun"))

    def begin(self) -> None:
        """Say durably that the next write is about to be made."""
        self._rows("INSERT OR IGNORE INTO begun VALUES (1)")

    def take_back(self) -> None:
        """Say that no write was made after all."""
        self._rows("DELETE FROM begun")

    def mark(self, number: int, version: str) -> None:
        """Say durably that a write was made, and which version it led to."""
        self._rows("INSERT INTO applied VALUES (?, ?)", number, version)

    def _rows(self, statement: str, *values: object) -> list[Any]:
        return self._connection.execute(statement, values).fetchall()


def make_overlay(path: Path) -> None:
    """Make an empty one."""
    path.touch(mode=0o600)
    with contextlib.closing(pages.open_database(path)) as connection:
        connection.executescript(_SCHEMA)


@contextlib.contextmanager
def open_overlay(path: Path, *, durable: bool = False) -> Generator[Overlay, None, None]:
    """Open one for a call. Where it is `durable`, what is said survives a power cut at once."""
    with contextlib.closing(pages.open_database(path)) as connection:
        connection.execute(f"PRAGMA synchronous = {'EXTRA' if durable else 'OFF'}")
        yield Overlay(connection)


def _dumped(value: Any) -> str | None:
    return None if value is None else json.dumps(value, sort_keys=True, allow_nan=False)


def _loaded(text: str | None) -> Any:
    return None if text is None else json.loads(text)
