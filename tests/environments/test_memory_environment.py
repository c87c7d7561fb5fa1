from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entcent_agents.environments import (
    DirectoryEnvironment,
    MemoryEnvironment,
    SqliteEnvironment,
    commit,
    pages,
)
from entcent_agents.environments.protocol import Fork
from entcent_agents.errors import ConfigurationError, EnvironmentConflictError, EnvironmentUnusableError


class Opaque:
    """Has no equality of its own."""


def changed(tmp_path: Path, value: dict[str, Any] | None = None) -> tuple[MemoryEnvironment, Path, list[Fork]]:
    """A memory, a directory and a database, each with a fork that was changed."""
    (tmp_path / "files").mkdir()
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute("CREATE TABLE t (a)")
    memory = MemoryEnvironment({"x": 1} if value is None else value)
    directory = DirectoryEnvironment(tmp_path / "files")
    first, second, third = memory.fork(), directory.fork(), SqliteEnvironment(tmp_path / "app.db").fork()
    first.value["x"] = 2
    second.resolve("new").touch()
    with third.connect() as connection:
        connection.execute("INSERT INTO t VALUES (1)")
    return memory, tmp_path / "files" / "new", [first, second, third]


def test_a_difference_names_the_keys_of_a_mapping() -> None:
    fork = MemoryEnvironment({"a": [1], "b": 2, "same": "s"}, "state").fork()
    fork.value["a"].append(3)
    del fork.value["b"]
    fork.value["c"] = None
    changes = {change.subject: change for change in fork.diff()}
    assert [(key, changes[key].what, changes[key].kind) for key in changes] == [
        ("a", "changed", "entry"),
        ("b", "deleted", "entry"),
        ("c", "created", "entry"),
    ]
    assert changes["a"].text == "@@ -1 +1 @@\n-[1]\n+[1, 3]"
    assert changes["c"].text.endswith("+None")


def test_differences_are_valid_text_whatever_keys_and_values_are() -> None:
    fork = MemoryEnvironment({}, "state").fork()
    fork.value["two\nlines"] = "half a sign: \ud800"
    (change,) = fork.diff()
    assert change.subject == "two\\nlines"
    assert change.text.encode().decode().endswith("+'half a sign: \\ud800'")


def test_what_is_no_mapping_is_replaced_as_a_whole() -> None:
    environment = MemoryEnvironment((1, 2), "pair")
    fork = environment.fork()
    fork.value = (1, 3)
    assert [change.subject for change in fork.diff()] == ["pair"]
    commit([fork])
    assert environment.value == (1, 3)


def test_the_real_object_shares_nothing_with_a_fork_that_was_committed() -> None:
    environment = MemoryEnvironment({"words": ["a"]})
    fork = environment.fork()
    value = fork.value
    value["words"].append("b")
    commit([fork])
    value["words"].append("a thread that was not stopped")
    assert environment.value == {"words": ["a", "b"]}


def test_readers_see_the_old_object_or_the_new_one() -> None:
    environment = MemoryEnvironment({"words": []})
    before = environment.value
    fork = environment.fork()
    fork.value["words"].append("b")
    commit([fork])
    assert (before, environment.value) == ({"words": []}, {"words": ["b"]})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Opaque(), "does not equal its own copy"),
        ({"array": np.zeros(2)}, r"cannot be compared \(.*wrap it"),
        ({"lock": threading.Lock()}, r"cannot be copied \(TypeError.*leave out"),
    ],
)
def test_what_cannot_be_forked_is_refused_at_once(value: object, message: str) -> None:
    with pytest.raises(EnvironmentUnusableError, match=message):
        MemoryEnvironment(value)


def test_the_fork_of_another_process_is_not_found() -> None:
    environment = MemoryEnvironment({})
    with pytest.raises(EnvironmentUnusableError, match="or ended with its process"):
        environment.reopen("memory:memory:0123456789abcdef")


def test_memory_is_committed_together_with_files(tmp_path: Path) -> None:
    memory, file, forks = changed(tmp_path)
    commit(forks)
    assert memory.value == {"x": 2}
    assert file.exists()


def test_a_conflict_in_memory_holds_back_files_and_the_other_way_round(tmp_path: Path) -> None:
    memory, file, forks = changed(tmp_path)
    memory.value["x"] = 0
    with pytest.raises(EnvironmentConflictError, match="memory changed since it was forked: nothing was committed"):
        commit(forks)
    assert not file.exists()
    memory.value["x"] = 1
    file.with_name("theirs").touch()
    with pytest.raises(EnvironmentConflictError, match="files changed"):
        commit(forks)
    assert memory.value == {"x": 1}


def test_a_commit_that_broke_off_after_its_decision_holds_for_memory_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, file, forks = changed(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def broken(sealed: Any, then: Any) -> None:
        then()
        full()

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(pages, "replace", broken)
        commit(forks)
    assert file.exists()
    assert memory.value == {"x": 2}
    SqliteEnvironment(tmp_path / "app.db")
    with SqliteEnvironment(tmp_path / "app.db").fork().connect() as connection:
        assert connection.execute("SELECT a FROM t").fetchall() == [(1,)]


def test_a_fork_of_no_known_kind_is_not_committed() -> None:
    class Strange:
        environment = reference = None

    with pytest.raises(ConfigurationError, match="extend StagedFork or MemoryFork alone"):
        commit([Strange()])  # type: ignore[list-item]


def test_many_threads_fork_commit_and_discard_at_once() -> None:
    environment = MemoryEnvironment({"count": 0})
    other = MemoryEnvironment({"count": 0}, "other")
    won = [0] * 4

    def work(number: int) -> None:
        both = [environment, other] if number % 2 else [other, environment]
        for _ in range(50):
            forks = [place.fork() for place in both]
            for fork in forks:
                fork.value["count"] += 1
            try:
                commit(forks)
                won[number] += 1
            except EnvironmentConflictError:
                for fork in forks:
                    fork.discard()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert environment.value["count"] == other.value["count"] == sum(won) > 0
    assert not environment.forks
