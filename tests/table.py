"""A database with one table of numbers, for tests of what rollouts write."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def new_table(path: Path) -> Path:
    """A database at this path, its table empty."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (x INTEGER)")
    return path


def rows(path: Path) -> list[int]:
    """The numbers in the table."""
    with closing(sqlite3.connect(path)) as connection:
        return [x for (x,) in connection.execute("SELECT x FROM t ORDER BY x")]
