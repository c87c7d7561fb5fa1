"""A stored run, whichever form it is in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.errors import StoreError
from evals.store.database import DATABASE, RolloutStore
from evals.store.record import StoredRollout, TaskKey
from evals.store.table import TABLE, table_rows, table_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """What one run left.

    Attributes:
        path: The file that was read.
        settings: What the run was begun with.
        tasks: Its rollouts by task, in the order of their numbers.
    """

    path: Path
    settings: Mapping[str, Any]
    tasks: Mapping[TaskKey, tuple[StoredRollout, ...]]

    @property
    def branches(self) -> bool:
        """Whether its rollouts branch: then there are more of some tasks than of others."""
        return "initial" in self.settings  # which other runs do not have

    @property
    def adapts(self) -> bool:
        """Whether its tasks get what others did not use, in a second pass."""
        return str(self.settings.get("mode")).startswith("adaptive")

    @property
    def uses_labels(self) -> bool:
        """Whether rewards decided which of its tasks got more rollouts."""
        return self.settings.get("mode") == "adaptive-labels"

    @property
    def name(self) -> str:
        """That of its folder, or of a file that was named by hand."""
        return self.path.parent.name if self.path.name in (DATABASE, TABLE) else self.path.stem


def read_run(path: Path) -> StoredRun:
    """Read a run from its folder, its database or its table.

    Args:
        path: Of a folder the database is read where there is one: it is never older than the table.

    Raises:
        StoreError: Where there is none, or it cannot be read.
        MissingExtraError: On a table, without pyarrow.
    """
    file = _file_of(path)
    settings: Mapping[str, Any]
    if file.suffix == ".parquet":
        settings, found = table_settings(file), [StoredRollout.from_row(row) for row in table_rows(file)]
    else:
        with RolloutStore.open(file) as store:
            settings, found = store.settings, list(store.rollouts())
    if not found:
        raise StoreError(f"{file} has no rollouts yet")
    tasks: dict[TaskKey, list[StoredRollout]] = {}
    for rollout in found:
        tasks.setdefault(rollout.key, []).append(rollout)
    return StoredRun(path=file, settings=settings, tasks={key: tuple(rollouts) for key, rollouts in tasks.items()})


def _file_of(path: Path) -> Path:
    if path.is_file():
        return path
    for name in (DATABASE, TABLE):
        if (path / name).is_file():
            return path / name
    raise StoreError(f"no stored run at {path}: name the folder of a run, its {DATABASE} or its {TABLE}")
