"""What differs between two SQLite databases: the main one of a connection, and one attached to it as `base`."""

from __future__ import annotations

import sqlite3
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, cast

from entcent_agents.environments.diff import LINES, row_line, truncated
from entcent_agents.environments.protocol import Change, ChangeKind, ChangeWhat

if TYPE_CHECKING:
    from collections.abc import Mapping

_Definitions = dict[tuple[str, str], str]  # (kind, name) → SQL
# Tables in which a virtual one, such as a full-text index, keeps its rows: its own show what they say. Older versions
# of SQLite cannot tell which these are.
_SHADOWS = (
    "SELECT name FROM pragma_table_list WHERE schema = :schema AND type = 'shadow'"
    if sqlite3.sqlite_version_info >= (3, 37)
    else "''"
)


def database_changes(target: str, connection: sqlite3.Connection) -> tuple[Change, ...]:
    """Every table with other rows, and every table, view, index or trigger with another definition."""
    before, after = _definitions(connection, "base"), _definitions(connection, "main")
    changes: list[Change] = []
    for kind, name in sorted({*before, *after}, key=lambda key: (key[1], key[0])):
        what = _what(before, after, (kind, name))
        digest = blake2b(digest_size=16)
        lines: list[str] = []
        total = 0
        if what is not None:
            lines = [f"-{line}" for line in before.get((kind, name), "").splitlines()]
            lines += [f"+{line}" for line in after.get((kind, name), "").splitlines()]
            digest.update("\n".join(lines).encode("utf-8", "surrogatepass"))
        if kind == "table":
            rows, total = _row_lines(connection, name, (kind, name) in before, (kind, name) in after, digest)
            lines += rows
            total -= len(rows)
        if lines:
            changes.append(
                Change(
                    target=target,
                    kind=cast("ChangeKind", kind),
                    subject=name,
                    what=what or "changed",
                    text=truncated(lines, len(lines) + total),
                    digest=digest.hexdigest(),
                )
            )
    return tuple(changes)


def _definitions(connection: sqlite3.Connection, schema: str) -> _Definitions:
    rows = connection.execute(
        "SELECT type, name, coalesce(sql, '') "
        f"FROM {schema}.sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT IN ({_SHADOWS})",
        {"schema": schema},
    )
    return {(kind, name): sql for kind, name, sql in rows}


def _what(
    before: Mapping[tuple[str, str], str], after: Mapping[tuple[str, str], str], key: tuple[str, str]
) -> ChangeWhat | None:
    if key not in before:
        return "created"
    if key not in after:
        return "deleted"
    return None if before[key] == after[key] else "changed"


def _row_lines(
    connection: sqlite3.Connection, table: str, existed: bool, exists: bool, digest: Any
) -> tuple[list[str], int]:
    """The rows that went and came, after a line with the columns; and how many lines there are in all."""
    old = _columns(connection, "base", table) if existed else []
    new = _columns(connection, "main", table) if exists else []
    same = existed and exists and old == new  # with other columns no row can be told to be the same
    lines, total = [row_line(" ", new or old)], 1
    for sign, schema, other, columns in (("-", "base", "main", old), ("+", "main", "base", new)):
        if columns:  # the table is there
            rows, count = _only_in(connection, table, schema, other if same else None, columns, digest)
            lines += [row_line(sign, row) for row in rows]
            total += count
    return (lines, total) if total > 1 else ([], 0)


def _columns(connection: sqlite3.Connection, schema: str, table: str) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?, ?)", (table, schema))]


def _only_in(
    connection: sqlite3.Connection, table: str, schema: str, other: str | None, columns: list[str], digest: Any
) -> tuple[list[tuple[object, ...]], int]:
    """Rows that a table in one schema has and (as often) the other has not: the first of them, and their number."""
    names = ", ".join(_quoted(column) for column in columns)
    # Counted, because tables without a key hold equal rows; typed, because 1 and 1.0 and '1' are not one value here.
    types = ", ".join(f"typeof({_quoted(column)})" for column in columns)

    def counted(source: str) -> str:
        return f"SELECT {names}, {types}, count(*) FROM {source}.{_quoted(table)} GROUP BY {names}, {types}"

    query = counted(schema) + (f" EXCEPT {counted(other)}" if other else "")
    order = ", ".join(str(position) for position in range(1, 2 * len(columns) + 2))
    first: list[tuple[object, ...]] = []
    count = 0
    for row in connection.execute(f"{query} ORDER BY {order}"):
        digest.update(f"{schema} {row!r}\n".encode("utf-8", "surrogatepass"))
        count += 1
        if count <= LINES:
            first.append(row[: len(columns)])
    return first, count


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
