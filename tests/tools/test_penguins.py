from __future__ import annotations

import contextlib
import sqlite3
import sys
from pathlib import Path

import pytest

from tools import penguins


def rows(path: Path, statement: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def test_the_table_has_all_penguins_with_numbers_and_nulls(tmp_path: Path) -> None:
    path = penguins.build(tmp_path / "new" / "penguins.db")
    assert rows(path, "SELECT count(*), count(sex), count(body_mass_g), sum(year) FROM penguins") == [
        (344, 333, 342, 690762)
    ]
    assert rows(path, "SELECT * FROM penguins LIMIT 1") == [
        ("Adelie", "Torgersen", 39.1, 18.7, 181, 3750, "male", 2007)
    ]
    assert rows(path, "SELECT round(avg(body_mass_g)) FROM penguins WHERE species = 'Gentoo'") == [(5076.0,)]
    assert [child.name for child in path.parent.iterdir()] == ["penguins.db"]


def test_the_command_replaces_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "penguins.db"
    path.write_text("something else")
    monkeypatch.setattr(sys, "argv", ["penguins", str(path)])
    penguins.main()
    assert rows(path, "SELECT count(*) FROM penguins") == [(344,)]
