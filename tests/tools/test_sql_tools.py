from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_core.tools import BaseTool

from entcent_agents.environments import DirectoryEnvironment, SqliteEnvironment, SqliteFork, use_environments
from entcent_agents.errors import ConfigurationError, EnvironmentFault
from tools import sql
from tools.penguins import build
from tools.sql import sql_tools

TOOLS: dict[str, BaseTool] = {tool.name: tool for tool in sql_tools()}


@pytest.fixture
def fork(tmp_path: Path) -> Iterator[SqliteFork]:
    made = SqliteEnvironment(build(tmp_path / "penguins.db")).fork()
    with use_environments({"database": made}):
        yield made
    made.discard()


def call(name: str, **arguments: str) -> str:
    return TOOLS[name].invoke(arguments)


def test_effects_are_declared_in_metadata() -> None:
    assert {name: tool.metadata for name, tool in TOOLS.items()} == {
        "schema": {"effect": "READ", "environment": "database"},
        "query": {"effect": "READ", "environment": "database"},
        "execute": {"effect": "WRITE", "environment": "database"},
    }
    assert all(tool.description for tool in TOOLS.values())
    assert "description" in TOOLS["query"].args["sql"]


def test_schema_shows_columns_size_and_an_example(fork: SqliteFork) -> None:
    text = call("schema")
    assert text.startswith("table penguins (344 rows): species TEXT, island TEXT, bill_length_mm REAL")
    assert "example: Adelie | Torgersen | 39.1 | 18.7 | 181 | 3750 | male | 2007" in text
    call("execute", sql="CREATE TABLE notes (id INTEGER PRIMARY KEY, island TEXT REFERENCES penguins (island))")
    assert "table notes (0 rows): id INTEGER PRIMARY KEY, island TEXT" in call("schema")
    assert "foreign keys: island → penguins.island" in call("schema")


def test_query_returns_rows_and_says_when_there_are_more(fork: SqliteFork) -> None:
    text = call("query", sql="SELECT species, count(*) AS n FROM penguins GROUP BY species ORDER BY n DESC")
    assert text == "species | n\nAdelie | 152\nGentoo | 124\nChinstrap | 68"
    lines = call("query", sql="/* all */ SELECT * FROM penguins").splitlines()
    assert len(lines) == 22
    assert lines[-1].startswith("… more rows: only 20 are shown")
    assert call("query", sql="SELECT sex FROM penguins WHERE year = 1900") == "sex\n(no rows)"


def test_execute_changes_the_fork_alone(fork: SqliteFork) -> None:
    assert call("execute", sql="DELETE FROM penguins WHERE island = 'Dream'") == (
        "Done: 124 rows changed. penguins now has 220 rows."
    )
    assert call("query", sql="SELECT count(*) FROM penguins") == "count(*)\n220"
    assert call("execute", sql="CREATE TABLE extra (a)").startswith("Done.")
    text = call("execute", sql="INSERT INTO extra VALUES (5) RETURNING a")
    assert text.startswith("Done: 1 row changed.")
    assert text.endswith("\na\n5")
    real = SqliteEnvironment(fork.environment.path).fork()
    with real.connect(read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM penguins").fetchone() == (344,)
    real.discard()


@pytest.mark.parametrize(
    ("name", "statement", "answer"),
    [
        (
            "query",
            "SELECT mass FROM penguins",
            "Error: no such column: mass. The tables are: penguins(species, island, ",
        ),
        ("query", "SELEC 1", "Error: query takes one SELECT"),
        ("query", "DELETE FROM penguins", "Error: query takes one SELECT"),
        ("query", "WITH a AS (SELECT 1) DELETE FROM penguins", "Error: attempt to write a readonly database"),
        ("query", "SELECT 1; SELECT 2", "Error: You can only execute one statement at a time. The tables are"),
        ("query", "", "Error: query takes one SELECT"),
        ("execute", "SELECT 1", "Error: execute is for statements that change"),
        ("execute", "UPDATE penguins SET mass = 1", "Error: no such column: mass. The tables are: penguins("),
        ("execute", "ATTACH 'x.db' AS x", "Error: not authorized"),
        ("execute", "BEGIN", "Error: cannot start a transaction within a transaction"),
    ],
)
def test_wrong_statements_come_back_as_text(fork: SqliteFork, name: str, statement: str, answer: str) -> None:
    assert call(name, sql=statement).startswith(answer)
    assert call("query", sql="SELECT count(*) FROM penguins") == "count(*)\n344"


def test_endless_statements_are_stopped(fork: SqliteFork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "STATEMENT_SECONDS", 0.1)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    assert call("query", sql=endless) == "Error: stopped after 0.1 seconds; write a cheaper statement."
    assert call("execute", sql=f"INSERT INTO penguins (year) {endless}").startswith("Error: stopped after 0.1 s")


def test_of_many_rows_and_large_values_little_is_kept(fork: SqliteFork) -> None:
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT i, i * i FROM n"
    tracemalloc.start()
    said = call("execute", sql=many)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "… more rows" in said and peak < 5_000_000
    for name in ("query", "execute"):
        large = call(name, sql="WITH a AS (SELECT zeroblob(100000000)) SELECT * FROM a")
        assert large.startswith("Error: string or blob too big")


def test_halves_of_characters_come_back_as_text(fork: SqliteFork) -> None:
    for name in ("query", "execute"):
        assert call(name, sql="DELETE FROM penguins -- \ud800" if name == "execute" else "SELECT '\ud800'") == (
            "Error: an argument holds characters that cannot be written as UTF-8."
        )


def test_faults_of_the_environment_are_raised(fork: SqliteFork, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    wrong = DirectoryEnvironment(tmp_path / "files").fork()
    with (
        use_environments({"database": wrong}),
        pytest.raises(ConfigurationError, match="is a DirectoryEnv"),
    ):
        call("schema")
    wrong.discard()
    with use_environments({}), pytest.raises(ConfigurationError, match="no environment 'database'"):
        call("schema")
    fork.discard()
    with pytest.raises(EnvironmentFault, match="discarded"):
        call("query", sql="SELECT 1")
