"""A run that goes on, from its database or from the table that is left of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.store.database import DATABASE, RolloutStore
from evals.store.record import StoredRollout
from evals.store.table import TABLE, table_rows, table_settings


def resume(folder: Path, settings: Mapping[str, Any]) -> RolloutStore:
    """The store of a run, to append to: a new one, or one with all that is stored there.

    Raises:
        RunSettingsError: Where the run was begun with other settings.
        StoreError: Where it cannot be written, or what is there cannot be read.
        MissingExtraError: Where a table is all that is there, without pyarrow.
    """
    database, table = folder / DATABASE, folder / TABLE
    if table.is_file() and not database.exists():
        refilled = database.with_suffix(".unfinished")
        refilled.unlink(missing_ok=True)  # of a process that was killed here
        with RolloutStore.create(refilled, table_settings(table)) as store:
            store.extend(StoredRollout.from_row(row) for row in table_rows(table))
        refilled.replace(database)
    return RolloutStore.create(database, settings)
