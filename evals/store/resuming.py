"""A run that goes on, from its database and from its table, whichever has more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.store.database import DATABASE, RolloutStore, require_equal
from evals.store.record import StoredRollout
from evals.store.table import TABLE, table_rows, table_settings


def resume(folder: Path, settings: Mapping[str, Any]) -> RolloutStore:
    """The store of a run, to append to: a new one, or one with all that is stored there.

    Raises:
        RunSettingsError: Where the run was begun with other settings.
        StoreError: Where it cannot be written, or what is there cannot be read.
        MissingExtraError: Where a table is there, without pyarrow.
    """
    table = folder / TABLE
    if not table.is_file():
        return RolloutStore.create(folder / DATABASE, settings)
    require_equal(table_settings(table), settings, table)
    store = RolloutStore.create(folder / DATABASE, settings)
    try:
        # It may have more than a database: of a checkout that was brought up to date, say. What is stored stays.
        store.extend(StoredRollout.from_row(row) for row in table_rows(table))
    except BaseException:
        store.close()
        raise
    return store
