"""Real things that cannot be copied: values under keys, with and without versions of their own."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from entcent_agents.environments import Versioned
from entcent_agents.errors import EnvironmentConflictError


class Shelf:
    """Counts a version for every key, writes on a condition, and keeps a log of the writes that it took."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before_write: Callable[[str, Any], None] = lambda _key, _value: None
        self.after_write: Callable[[str, Any], None] = lambda _key, _value: None

    @classmethod
    def make(cls, path: Path) -> Shelf:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE shelf (key TEXT PRIMARY KEY, value TEXT, version INTEGER)")
            connection.execute("CREATE TABLE log (key TEXT, value TEXT)")
        return cls(path)

    def read(self, key: str) -> Versioned:
        found = self._run("SELECT value, version FROM shelf WHERE key = ?", key)
        value, version = found[0] if found else ("null", 0)
        return Versioned(value=json.loads(value), version=str(version))

    def write(self, key: str, value: Any, expected: str) -> str:
        self.before_write(key, value)
        if self.read(key).version != expected:
            raise EnvironmentConflictError(f"{key!r} is not at version {expected}")
        version = self.put(key, value)
        self.after_write(key, value)
        return version

    def get(self, key: str) -> Any:
        """Past this library."""
        return self.read(key).value

    def put(self, key: str, value: Any) -> str:
        """Past this library."""
        text = json.dumps(value)
        with contextlib.closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(
                "INSERT INTO shelf VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET value = ?, version = version + 1",
                (key, text, text),
            )
            connection.execute("INSERT INTO log VALUES (?, ?)", (key, text))
        return self.read(key).version

    def log(self) -> list[tuple[str, Any]]:
        return [(key, json.loads(value)) for key, value in self._run("SELECT key, value FROM log ORDER BY rowid")]

    def _run(self, statement: str, *values: object) -> list[Any]:
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(statement, values).fetchall()


class PlainShelf(Shelf):
    """Knows no versions and writes what it is told."""

    def read(self, key: str) -> Versioned:
        return Versioned.of(super().read(key).value)

    def write(self, key: str, value: Any, expected: str) -> str:
        self.before_write(key, value)
        version = self.put(key, value)
        self.after_write(key, value)
        return version
