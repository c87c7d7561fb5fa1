"""The demonstration's task on the penguins database, and the checker that knows what is right."""

from __future__ import annotations

import math
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

TASK: Final = (
    "On which island do male Adelie penguins have the longest flippers on average? "
    "Store the mean flipper length of the male Adelie penguins of every island in a new table "
    "adelie_males (island, mean_flipper_mm), one row per island, and then name the island."
)

_TRUTH: Final = (
    "SELECT island, AVG(flipper_length_mm) FROM penguins WHERE species = 'Adelie' AND sex = 'male' GROUP BY island"
)
_STORED: Final = "SELECT island, mean_flipper_mm FROM adelie_males"


def is_right(database: Path | str) -> bool:
    """Whether the table holds one row for each island, with the true mean to a tenth of a millimetre."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        truth = dict(connection.execute(_TRUTH).fetchall())
        try:
            rows = connection.execute(_STORED).fetchall()
        except sqlite3.Error:
            return False
    return len(rows) == len(truth) and all(
        island in truth and isinstance(mean, int | float) and math.isclose(mean, truth[island], abs_tol=0.1)
        for island, mean in rows
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
