"""Tools on a SQLite database: look at its schema, query it, change it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager

from langchain_core.tools import BaseTool

from entcent_agents.effects import READ, WRITE
from entcent_agents.environments import SqliteEnvironment, SqliteFork
from tools.binding import bound_tools, fork_of

ENVIRONMENT = "database"
ROWS = 20
STATEMENT_SECONDS = 5.0
VALUE_BYTES = 4_000_000
"""Most of one value: a model can write a statement that makes a value of a gigabyte."""
_VALUE_CHARACTERS = 200
_COMMENTS_AND_WORD = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/|\()*(\w*)", re.DOTALL)
_READING = frozenset({"SELECT", "WITH", "VALUES", "EXPLAIN", "PRAGMA"})


def sql_tools(environment: SqliteEnvironment | None = None) -> list[BaseTool]:
    """The tools `schema`, `query` and `execute`, on the rollout's fork of the environment "database".

    What is wrong with a statement comes back as text that starts with "Error:", so that the model can mend it; what is
    wrong with the environment is raised.

    Args:
        environment: The database, for an agent that runs alone: see `bound_tools`.
    """
    return bound_tools({schema: READ, query: READ, execute: WRITE}, ENVIRONMENT, environment)


def schema() -> str:
    """Describe the database: every table with its columns, its number of rows and one example row."""
    with _connection(read_only=True) as connection:
        try:
            tables = [_described(connection, kind, name) for kind, name in _tables(connection)]
        except sqlite3.Error as error:
            return _error(error, "")
    return "\n\n".join(tables) or "The database has no tables yet."


def query(sql: str) -> str:
    """Read from the database with one SELECT statement (SQLite dialect). Returns at most 20 rows.

    Args:
        sql: One SELECT or WITH statement.
    """
    if _first_word(sql) not in _READING:
        return "Error: query takes one SELECT or WITH statement; use execute to change the database."
    with _connection(read_only=True) as connection:
        try:
            cursor = connection.execute(sql)
            rows = cursor.fetchmany(ROWS + 1)
        except (sqlite3.Error, sqlite3.Warning) as error:
            return _error(error, _hint(connection))
        return _table([column[0] for column in cursor.description or ()], rows)


def execute(sql: str) -> str:
    """Change the database with one statement (CREATE TABLE … AS SELECT …, INSERT, UPDATE, DELETE; SQLite dialect).

    Args:
        sql: One statement.
    """
    if _first_word(sql) in {"SELECT", "VALUES", "EXPLAIN"}:
        return "Error: execute is for statements that change the database; use query to read it."
    try:
        with _connection() as connection:
            cursor = connection.execute(sql)
            returned = cursor.fetchmany(ROWS + 1)
            for _ in cursor:  # the statement goes on to its end, and nothing more is kept of it
                pass
            text = _done(connection, sql, cursor.rowcount)
    except (sqlite3.Error, sqlite3.Warning) as error:
        with _connection(read_only=True) as connection:
            return _error(error, _hint(connection))
    if returned:
        text += "\n" + _table([column[0] for column in cursor.description or ()], returned)
    return text


@contextmanager
def _connection(*, read_only: bool = False) -> Generator[sqlite3.Connection]:
    with fork_of(ENVIRONMENT, SqliteFork).connect(
        read_only=read_only, statement_seconds=STATEMENT_SECONDS
    ) as connection:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_BYTES)
        yield connection


def _first_word(sql: str) -> str:
    found = _COMMENTS_AND_WORD.match(sql)
    return found[1].upper() if found else ""


def _tables(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    return connection.execute(
        "SELECT type, name FROM sqlite_schema WHERE type IN ('table', 'view') AND substr(name, 1, 7) <> 'sqlite_' "
        "ORDER BY name"
    ).fetchall()


def _described(connection: sqlite3.Connection, kind: str, name: str) -> str:
    columns = ", ".join(
        f"{column} {declared}".rstrip() + (" PRIMARY KEY" if key else "")
        for column, declared, key in connection.execute("SELECT name, type, pk FROM pragma_table_info(?)", (name,))
    )
    links = [
        f"{column} → {table}.{to or 'its primary key'}"
        for column, table, to in connection.execute(
            'SELECT "from", "table", "to" FROM pragma_foreign_key_list(?)', (name,)
        )
    ]
    count = connection.execute(f"SELECT count(*) FROM {_quoted(name)}").fetchone()[0]
    example = connection.execute(f"SELECT * FROM {_quoted(name)} LIMIT 1").fetchone()
    lines = [f"{kind} {name} ({count} {'row' if count == 1 else 'rows'}): {columns}"]
    if links:
        lines.append("  foreign keys: " + ", ".join(links))
    if example is not None:
        lines.append("  example: " + _row(example))
    return "\n".join(lines)


def _table(columns: list[str], rows: list[tuple[object, ...]]) -> str:
    lines = [" | ".join(columns), *(_row(row) for row in rows[:ROWS])]
    if not rows:
        lines.append("(no rows)")
    if len(rows) > ROWS:
        lines.append(f"… more rows: only {ROWS} are shown; narrow or aggregate the statement")
    return "\n".join(lines)


def _row(values: tuple[object, ...]) -> str:
    return " | ".join(_value(value) for value in values)


def _value(value: object) -> str:
    if value is None:
        return "NULL"
    text = f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)
    return text if len(text) <= _VALUE_CHARACTERS else text[:_VALUE_CHARACTERS] + "…"


def _done(connection: sqlite3.Connection, sql: str, changed: int) -> str:
    """What a statement did: rows changed, and how many rows the tables that it names have now."""
    words = set(re.findall(r"\w+", sql.casefold()))
    counts = [
        f"{name} now has {connection.execute(f'SELECT count(*) FROM {_quoted(name)}').fetchone()[0]} rows"
        for kind, name in _tables(connection)
        if kind == "table" and name.casefold() in words
    ]
    done = "Done." if changed < 0 else f"Done: {changed} {'row' if changed == 1 else 'rows'} changed."
    return f"{done} {'; '.join(counts)}." if counts else done


def _error(error: Exception, hint: str) -> str:
    if str(error) == "interrupted":
        return f"Error: stopped after {STATEMENT_SECONDS:g} seconds; write a cheaper statement."
    return f"Error: {str(error).rstrip('.')}. {hint}".rstrip()


def _hint(connection: sqlite3.Connection) -> str:
    """What the tables are, for a model that guessed wrong."""
    try:
        tables = [f"{name}({', '.join(_columns(connection, name))})" for _, name in _tables(connection)]
    except sqlite3.Error:  # out of time, after a statement that was stopped
        return ""
    return f"The tables are: {'; '.join(tables)}." if tables else "There are no tables yet."


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
