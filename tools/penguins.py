"""The demonstration database: Palmer Penguins in one SQLite table.

python -m tools.penguins PATH
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import sqlite3
import tempfile
from pathlib import Path

_CSV = Path(__file__).parent / "data" / "penguins.csv"
_TABLE = """
CREATE TABLE penguins (
    species TEXT, island TEXT, bill_length_mm REAL, bill_depth_mm REAL,
    flipper_length_mm INTEGER, body_mass_g INTEGER, sex TEXT, year INTEGER
)
"""


def build(path: Path | str) -> Path:
    """Make the database, in place of a file that may be there, in one step.

    Args:
        path: Where; its directory is created if need be.

    Returns:
        The path.

    Raises:
        OSError: It cannot be written there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".penguins-") as folder:
        made = Path(folder, "penguins.db")
        with contextlib.closing(sqlite3.connect(made)) as connection, connection:
            connection.execute(_TABLE)
            connection.executemany("INSERT INTO penguins VALUES (?, ?, ?, ?, ?, ?, ?, ?)", _rows())
        made.replace(path)
    return path


def _rows() -> list[list[str | None]]:
    with _CSV.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        next(rows)
        # Column affinities make numbers of the texts.
        return [[None if value == "NA" else value for value in row] for row in rows]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.penguins", description="Make the penguins database.")
    parser.add_argument("path", type=Path, help="the SQLite file to make; one that is there is replaced")
    build(parser.parse_args().path)


if __name__ == "__main__":
    main()
