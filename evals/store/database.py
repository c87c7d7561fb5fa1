"""The store while a run goes on: SQLite, one transaction a rollout, so that no kill and no full disk loses one."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from evals.errors import RunSettingsError, StoreError, StoreVersionError
from evals.store.record import COLUMNS, READ_SCHEMAS, SCHEMA_VERSION, ColumnSpec, ColumnType, StoredRollout, TaskKey

DATABASE: Final = "rollouts.sqlite"
"""Its name in the folder of a run."""

_TYPES: Final[Mapping[ColumnType, str]] = {
    "text": "TEXT",
    "integer": "INTEGER",
    "real": "REAL",
    "floats": "BLOB",
    "bytes": "BLOB",
}
_ARRAYS: Final[Mapping[ColumnType, str]] = {"floats": "<f4", "bytes": "u1"}
_NAMES: Final = ", ".join(column.name for column in COLUMNS)
_BUSY_SECONDS: Final = 30.0
_BATCH: Final = 64


def _declared(column: ColumnSpec) -> str:
    return f"{column.name} {_TYPES[column.type]}{' NOT NULL' if column.required else ''}"


_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
    f"""
    CREATE TABLE IF NOT EXISTS rollouts (
        {", ".join(_declared(column) for column in COLUMNS)}, PRIMARY KEY (suite, task, rollout)
    ) STRICT
    """,
)


class RolloutStore:
    """The rollouts of one run; a context manager.

    Opened by `create` to be written, by `open` to be read. Rollback journal and not WAL: the one file then is the whole
    store at any moment at which nobody writes.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def create(cls, path: Path, settings: Mapping[str, Any]) -> Self:
        """A store to append to: a new one, or one that was begun with the same settings.

        Raises:
            RunSettingsError: Where it was begun with others.
            StoreError: Where it cannot be written, or is no store.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        store = cls(path, _connected(path, "rwc"))
        try:
            with store._guarded():
                store._begin(settings)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def open(cls, path: Path) -> Self:
        """A store to read.

        Raises:
            StoreError: Where there is none.
            StoreVersionError: Where it is of another schema.
        """
        store = cls(path, _connected(path, "rw"))
        try:
            with store._guarded():
                store._require_version()
        except BaseException:
            store.close()
            raise
        return store

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    @property
    def settings(self) -> dict[str, Any]:
        """What the run was begun with."""
        with self._guarded():
            return json.loads(self._fact("settings") or "{}")

    def append(self, rollout: StoredRollout) -> bool:
        """Store it durably; False where it is stored already, and that one stays.

        Raises:
            StoreError: Where the disk is full, or the file cannot be written.
        """
        return self.extend([rollout]) > 0

    def extend(self, rollouts: Iterable[StoredRollout]) -> int:
        """Store several in one transaction; how many of them were not stored already.

        Raises:
            StoreError: As `append`; none of them is stored then.
        """
        places = ", ".join("?" * len(COLUMNS))
        values = (_values(rollout.to_row()) for rollout in rollouts)
        with self._guarded(), self._connection:
            done = self._connection.executemany(f"INSERT OR IGNORE INTO rollouts ({_NAMES}) VALUES ({places})", values)
        return done.rowcount

    def stored(self) -> dict[TaskKey, set[int]]:
        """The numbers of the rollouts that are there, by (suite, task)."""
        found: dict[TaskKey, set[int]] = {}
        with self._guarded():
            for suite, task, rollout in self._connection.execute("SELECT suite, task, rollout FROM rollouts"):
                found.setdefault((suite, task), set()).add(rollout)
        return found

    def solved(self, below: int) -> set[TaskKey]:
        """The tasks that a rollout of a number below this one solves."""
        sql = "SELECT DISTINCT suite, task FROM rollouts WHERE reward >= 1 AND rollout < ?"
        with self._guarded():
            return {(suite, task) for suite, task in self._connection.execute(sql, (below,))}

    def rollouts(self) -> Iterator[StoredRollout]:
        """All of them, by suite, task and number; a few at a time are in memory."""
        for row in self.rows():
            yield StoredRollout.from_row(row)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The columns of all of them, in the same order."""
        with self._guarded():
            schema = int(self._fact("schema") or SCHEMA_VERSION)
            names = ", ".join(name if since <= schema else f"NULL AS {name}" for name, _, _, since in COLUMNS)
            cursor = self._connection.execute(f"SELECT {names} FROM rollouts ORDER BY suite, task, rollout")
            while batch := cursor.fetchmany(_BATCH):
                for values in batch:
                    yield {column.name: _read(column, value) for column, value in zip(COLUMNS, values, strict=True)}

    def _begin(self, settings: Mapping[str, Any]) -> None:
        # FULL: a rollout that was reported as stored is on the disk, also after a power cut.
        self._connection.execute("PRAGMA synchronous = FULL")
        if self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._require_version()
        facts = [("schema", str(SCHEMA_VERSION)), ("settings", json.dumps(settings, sort_keys=True))]
        with self._connection:  # in one transaction: a store of which half is there is no store
            self._connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                self._connection.execute(statement)
            self._connection.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?)", facts)
            self._bring_up_to_date()
        require_equal(json.loads(self._fact("settings") or "{}"), settings, self.path)

    def _bring_up_to_date(self) -> None:
        """Columns that its schema did not have yet, empty: a run that another release began goes on."""
        schema = int(self._fact("schema") or SCHEMA_VERSION)
        for column in COLUMNS:
            if column.since > schema:
                self._connection.execute(f"ALTER TABLE rollouts ADD COLUMN {_declared(column)}")
        self._connection.execute("UPDATE facts SET value = ? WHERE name = 'schema'", (str(SCHEMA_VERSION),))

    def _require_version(self) -> None:
        try:
            version = self._fact("schema")
        except sqlite3.OperationalError:
            version = None
        if version is None:
            raise StoreError(f"{self.path} is a SQLite database, but no store of rollouts: name another folder")
        if version not in READ_SCHEMAS:
            raise StoreVersionError(
                f"{self.path} is of schema {version}; this release reads {' and '.join(READ_SCHEMAS)}: read it with "
                "the release that wrote it"
            )

    def _fact(self, name: str) -> str | None:
        found = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return found[0] if found else None

    @contextmanager
    def _guarded(self) -> Generator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"{self.path}: {error}; what is stored stays: free space or make it writable, and start the same "
                "command again"
            ) from error


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    try:
        return sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=_BUSY_SECONDS, check_same_thread=False
        )
    except sqlite3.OperationalError as error:
        raise StoreError(f"{path} cannot be opened: {error}") from error


def _values(row: Mapping[str, Any]) -> list[Any]:
    return [_written(column, row[column.name]) for column in COLUMNS]


def _written(column: ColumnSpec, value: Any) -> Any:
    if isinstance(value, str):  # half a surrogate pair, which models do write, is no UTF-8
        return value.encode("utf-8", "backslashreplace").decode()
    dtype = _ARRAYS.get(column.type)
    return value if dtype is None else np.asarray(value, dtype).tobytes()


def _read(column: ColumnSpec, value: Any) -> Any:
    dtype = _ARRAYS.get(column.type)
    return value if dtype is None else np.frombuffer(value, dtype)


def require_equal(begun: Mapping[str, Any], asked: Mapping[str, Any], path: Path) -> None:
    """Refuse to go on with a run under other settings than it was begun with.

    Raises:
        RunSettingsError: Where any differ.
    """
    names = sorted({*begun, *asked})
    differing = [
        f"{name} {begun.get(name)!r}, now {asked.get(name)!r}" for name in names if begun.get(name) != asked.get(name)
    ]
    if differing:
        raise RunSettingsError(
            f"{path} was begun with other settings ({'; '.join(differing)}): rollouts of both would not compare; "
            "name another folder"
        )
