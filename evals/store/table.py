"""The store after a run: one Parquet file, small enough to commit and readable by anything that reads Parquet."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from entcent_agents.errors import MissingExtraError
from evals.errors import StoreError, StoreVersionError
from evals.store.database import RolloutStore
from evals.store.record import COLUMNS, READ_SCHEMAS, SCHEMA_VERSION, ColumnSpec

TABLE: Final = "rollouts.parquet"
"""Its name in the folder of a run."""

_SCHEMA_KEY: Final = b"entcent.schema"
_SETTINGS_KEY: Final = b"entcent.settings"
_GROUP_ROWS: Final = 256
_ZSTD_LEVEL: Final = 15


def compact(store: RolloutStore, path: Path) -> None:
    """Write all rollouts of a store to one Parquet file, which is there as a whole or not at all.

    Raises:
        MissingExtraError: Without pyarrow.
        StoreError: Where it cannot be written.
    """
    pa, pq = require_pyarrow()
    schema = _schema(pa, store.settings)
    floats = [f"{column.name}.list.element" for column in COLUMNS if column.type == "floats"]
    texts = [column.name for column in COLUMNS if column.type == "text"]
    unfinished = path.with_suffix(".unfinished")
    rows = store.rows()
    with _cleared(unfinished), _writing(path):
        with pq.ParquetWriter(
            unfinished,
            schema,
            compression="zstd",
            compression_level=_ZSTD_LEVEL,
            use_dictionary=[*texts, "kind.list.element"],
            use_byte_stream_split=floats,
        ) as writer:
            while group := list(islice(rows, _GROUP_ROWS)):
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.replace(path)


def table_settings(path: Path) -> dict[str, Any]:
    """What the run was begun with.

    Raises:
        StoreError: Where it is no such file.
        StoreVersionError: Where it is of another schema.
    """
    with _reading(path) as file:
        return json.loads(file.schema_arrow.metadata[_SETTINGS_KEY])


def table_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The columns of all rollouts, as `RolloutStore.rows` gives them.

    Raises:
        StoreError: Where it is no such file.
        StoreVersionError: Where it is of another schema.
    """
    with _reading(path) as file:
        for group in range(file.num_row_groups):
            yield from (_with_arrays(row) for row in file.read_row_group(group).to_pylist())


def _schema(pa: Any, settings: Mapping[str, Any]) -> Any:
    types = {
        "text": pa.string(),
        "integer": pa.int64(),
        "real": pa.float64(),
        "floats": pa.list_(pa.float32()),
        "bytes": pa.list_(pa.uint8()),
    }
    fields = [pa.field(column.name, types[column.type], nullable=not column.required) for column in COLUMNS]
    facts = {
        _SCHEMA_KEY: str(SCHEMA_VERSION).encode(),
        _SETTINGS_KEY: json.dumps(settings, sort_keys=True).encode(),
    }
    return pa.schema(fields, metadata=facts)


def require_pyarrow() -> tuple[Any, Any]:
    """Pyarrow and its Parquet.

    Raises:
        MissingExtraError: Where it is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", "evals") from None
    return pa, pq


@contextmanager
def _reading(path: Path) -> Generator[Any]:
    pa, pq = require_pyarrow()
    try:
        with pq.ParquetFile(path) as file:
            metadata: dict[bytes, bytes] = file.schema_arrow.metadata or {}
            version = metadata.get(_SCHEMA_KEY, b"").decode()
            if not version:
                raise StoreError(f"{path} is a Parquet file, but no table of rollouts")
            if version not in READ_SCHEMAS:
                raise StoreVersionError(
                    f"{path} is of schema {version}; this release reads {' and '.join(READ_SCHEMAS)}"
                )
            yield file
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error


@contextmanager
def _writing(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:  # pyarrow's own are of this class too
        raise StoreError(
            f"{path} cannot be written: {error.strerror or error}; the rollouts stay in the database beside it"
        ) from error


@contextmanager
def _cleared(unfinished: Path) -> Generator[None]:
    try:
        yield
    finally:
        unfinished.unlink(missing_ok=True)


def _with_arrays(row: Mapping[str, Any]) -> dict[str, Any]:
    return {column.name: _array(column, row.get(column.name)) for column in COLUMNS}


def _array(column: ColumnSpec, value: Any) -> Any:
    match column.type:
        case "floats":
            return np.array(value, np.float32)
        case "bytes":
            return np.array(value, np.uint8)
        case _:
            return value
