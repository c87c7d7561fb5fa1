"""The demonstration's task on the penguins database, and the checker that knows what is right."""

from __future__ import annotations

import math
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

TASK: Final = (
    "Of which species are the female penguins the heaviest on average? "
    "Store the mean body mass of the female penguins of every species in a new table "
    "female_mass (species, mean_mass_g), one row per species, and then name the species."
)

_TRUTH: Final = "SELECT species, AVG(body_mass_g) FROM penguins WHERE sex = 'female' GROUP BY species"
_STORED: Final = "SELECT species, mean_mass_g FROM female_mass"


def is_right(database: Path | str) -> bool:
    """Whether the table holds one row for each species, with the true mean to half a gram."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        truth = dict(connection.execute(_TRUTH).fetchall())
        try:
            rows = connection.execute(_STORED).fetchall()
        except sqlite3.Error:
            return False
    return len(rows) == len(truth) and all(
        species in truth and isinstance(mean, int | float) and math.isclose(mean, truth[species], abs_tol=0.5)
        for species, mean in rows
    )


def main(argv: list[str]) -> int:
    """`task` prints the task; `check DATABASE` says whether what was stored is right, and exits with 0 either way."""
    match argv:
        case ["task"]:
            sys.stdout.write(f"{TASK}\n")
        case ["check", database]:
            verdict = "right" if is_right(database) else "wrong (a small model errs; see docs/demo.md for how often)"
            sys.stdout.write(f"checked against the data: what was committed is {verdict}\n")
        case _:
            sys.stderr.write("usage: python -m evals.penguins task | check DATABASE\n")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
