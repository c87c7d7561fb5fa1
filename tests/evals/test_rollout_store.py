"""What is stored comes back, in both forms; what cannot be stored or read is said."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from entcent_agents.signals import signal_table
from entcent_agents.testing import scripted_logprobs
from entcent_agents.trajectory import Rollout, Trajectory, Turn, Usage
from evals.errors import RunSettingsError, StoreError, StoreVersionError
from evals.store import DATABASE, TABLE, RolloutStore, StoredRollout, compact, read_run

SETTINGS = {"model": "m", "temperature": 0.7}


def rollout(index: int, entropies: list[list[float]], task: str = "t") -> StoredRollout:
    turns = [
        Turn(message_id=str(i), generated_tokens=len(found) + 1, logprobs=scripted_logprobs(found))
        for i, found in enumerate(entropies)
    ]
    return StoredRollout(
        suite="s",
        category="c",
        task=task,
        rollout=Rollout(
            index=index,
            thread_id="",
            status="finished",
            trajectory=Trajectory(turns=tuple(turns)),
            usage=Usage(prompt_tokens=5, generated_tokens=7, model_calls=len(turns)),
            seconds=1.5,
            vote_key="k",
        ),
        reward=0.5,
        reason="half",
        derived={"turns": 1.0},
        replies=[{"text": "ä"}],
        seed=3,
    )


@pytest.fixture
def store(tmp_path: Path):
    with RolloutStore.create(tmp_path / DATABASE, SETTINGS) as opened:
        yield opened


def test_a_rollout_comes_back_from_both_forms_to_the_bit(store: RolloutStore, tmp_path: Path):
    pytest.importorskip("pyarrow")
    entropies = [np.random.default_rng(7).random(50).tolist(), [], [1 / 3, 0.0]]
    given = rollout(0, entropies)
    store.append(given)
    compact(store, tmp_path / TABLE)
    for path in (tmp_path / DATABASE, tmp_path / TABLE):
        run = read_run(path)
        (found,) = run.tasks["s", "t"]
        assert run.settings == SETTINGS
        assert {**found.to_row(), **_bytes(found)} == {**given.to_row(), **_bytes(given)}
        trajectories = [found.rollout.trajectory, given.rollout.trajectory]
        assert all(np.array_equal(*pair, equal_nan=True) for pair in signal_table(trajectories).values())
        assert found.rollout.trajectory.coverage == given.rollout.trajectory.coverage < 1


def _bytes(stored: StoredRollout) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in stored.to_row().items() if isinstance(value, np.ndarray)}


def test_a_stored_rollout_is_never_written_over(store: RolloutStore):
    assert store.append(rollout(0, [[1.0]]))
    assert not store.append(replace(rollout(0, [[2.0]]), reward=1.0))
    (kept,) = store.rollouts()
    assert kept.reward == 0.5
    assert store.stored() == {("s", "t"): {0}}


def test_other_settings_are_refused_and_named(store: RolloutStore):
    with pytest.raises(RunSettingsError, match=r"temperature 0\.7, now 1\.0"):
        RolloutStore.create(store.path, {**SETTINGS, "temperature": 1.0})
    with RolloutStore.create(store.path, SETTINGS) as again:
        assert again.settings == SETTINGS


@pytest.mark.parametrize("sql", ["DROP TABLE facts", "UPDATE facts SET value = '99' WHERE name = 'schema'"])
def test_another_database_or_schema_is_refused(store: RolloutStore, sql: str):
    store.close()
    with sqlite3.connect(store.path) as connection:
        connection.execute(sql)
    connection.close()
    with pytest.raises(StoreVersionError if "99" in sql else StoreError):
        read_run(store.path)
    with pytest.raises(StoreError):
        RolloutStore.create(store.path, SETTINGS)


def test_what_is_no_store_is_refused(tmp_path: Path):
    (tmp_path / DATABASE).write_bytes(b"no database at all, and long enough to be looked at as one" * 40)
    with pytest.raises(StoreError, match="not a database"):
        read_run(tmp_path)
    with pytest.raises(StoreError, match="no stored run"):
        read_run(tmp_path / "elsewhere")


def test_a_broken_table_is_refused_and_leaves_the_database(store: RolloutStore, tmp_path: Path):
    pytest.importorskip("pyarrow")
    store.append(rollout(0, [[1.0]]))
    compact(store, tmp_path / TABLE)
    whole = (tmp_path / TABLE).read_bytes()
    (tmp_path / TABLE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="cannot be read"):
        read_run(tmp_path / TABLE)
    assert len(read_run(tmp_path).tasks) == 1


def test_a_full_disk_says_so_and_keeps_what_is_stored(store: RolloutStore):
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages + 20}")
    kept = 0
    with pytest.raises(StoreError, match="full.*what is stored stays"):
        for i in range(100):
            kept += store.append(rollout(i, [[0.5] * 500]))
    assert 0 < kept < 100
    assert store.stored() == {("s", "t"): set(range(kept))}
    store._connection.execute("PRAGMA max_page_count = 1000000")
    assert store.append(rollout(kept, [[0.5] * 500]))


def test_half_a_surrogate_pair_is_stored_as_it_is_written(store: RolloutStore):
    store.append(replace(rollout(0, [[0.5]]), reason="half \ud83d"))
    assert next(store.rollouts()).reason == "half \\ud83d"
