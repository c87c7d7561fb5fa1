"""Replays on real things that refuse, fail, are changed meanwhile, and lose their process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from entcent_agents.environments import DirectoryEnvironment, JournalEnvironment, JournalFork, commit, discard_all
from entcent_agents.environments.protocol import Fork
from entcent_agents.errors import EnvironmentConflictError, EnvironmentFault, EnvironmentUnusableError
from tests.environments.shelves import PlainShelf, Shelf

ROOT = Path(__file__).resolve().parents[2]
WRITES = [("a", 1), ("b", [2]), ("a", 3), ("c", {"d": None})]
KINDS = pytest.mark.parametrize("kind", [Shelf, PlainShelf])


class Lost(ConnectionError):
    """The real thing did not answer."""


def opened(folder: Path, kind: type[Shelf] = Shelf) -> JournalEnvironment:
    path = folder / "shelf.db"
    return JournalEnvironment(kind(path) if path.exists() else kind.make(path), folder / "shelf")


def shelf(environment: JournalEnvironment) -> Shelf:
    assert isinstance(environment.target, Shelf)
    return environment.target


def written(environment: JournalEnvironment) -> JournalFork:
    fork = environment.fork()
    for key, value in WRITES:
        fork.write(key, value)
    return fork


def failing(error: Exception, at: int) -> Callable[[str, Any], None]:
    """Raise at the write of this number, the first time that it comes to it."""
    seen: list[str] = []

    def hook(key: str, _value: Any) -> None:
        seen.append(key)
        if len(seen) == at:
            raise error

    return hook


def files(folder: Path) -> DirectoryEnvironment:
    (folder / "files").mkdir(exist_ok=True)
    return DirectoryEnvironment(folder / "files")


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.glob(".entcent-*")]


def test_writes_are_seen_by_the_fork_alone_until_they_are_replayed_in_order(tmp_path: Path) -> None:
    environment = opened(tmp_path)
    fork = written(environment)
    assert [fork.read(key) for key in "abcd"] == [3, [2], {"d": None}, None]
    assert shelf(environment).log() == []
    commit([fork])
    assert shelf(environment).log() == WRITES
    assert not leftovers(tmp_path)


def test_a_rollout_sees_a_key_as_it_was_at_its_first_look(tmp_path: Path) -> None:
    environment = opened(tmp_path)
    shelf(environment).put("a", "old")
    fork = environment.fork()
    assert fork.read("a") == "old"
    shelf(environment).put("a", "new")
    assert fork.read("a") == fork.fork().read("a") == "old"
    assert environment.fork().read("a") == "new"


def test_what_was_only_read_is_compared_too(tmp_path: Path) -> None:
    environment = opened(tmp_path)
    fork = environment.fork()
    fork.write("copy", fork.read("source"))
    fork.write("more", 1)
    shelf(environment).put("source", "theirs")
    with pytest.raises(EnvironmentConflictError, match="nothing was committed"):
        commit([fork])
    assert shelf(environment).log() == [("source", "theirs")]


def test_differences_are_by_key_and_ask_nobody(tmp_path: Path) -> None:
    environment = opened(tmp_path)
    shelf(environment).put("gone", {"x": 1})
    shelf(environment).put("same", 1)
    fork = environment.fork()
    fork.write("gone", None)
    fork.write("made", ["é"])
    fork.write("same", 2)
    fork.write("same", 1)
    shelf(environment).path.unlink()
    changes = [(change.subject, change.what, change.kind) for change in fork.diff()]
    assert changes == [("gone", "deleted", "entry"), ("made", "created", "entry")]
    assert fork.diff()[1].text == '@@ -0,0 +1,3 @@\n+[\n+ "é"\n+]'


def test_differences_are_valid_text_whatever_keys_and_values_are(tmp_path: Path) -> None:
    fork = opened(tmp_path).fork()
    fork.write("two\nlines", "half a sign: \ud800")
    (change,) = fork.diff()
    assert change.subject == "two\\nlines"
    assert change.text.encode().decode().endswith('+"half a sign: \\ud800"')
    commit([fork])


def test_writes_that_come_to_nothing_are_not_replayed(tmp_path: Path) -> None:
    environment = opened(tmp_path)
    fork = environment.fork()
    fork.write("a", 1)
    fork.write("a", None)
    commit([fork])
    assert shelf(environment).log() == []


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}])
def test_what_is_not_json_is_refused_when_it_is_written(tmp_path: Path, value: object) -> None:
    fork = opened(tmp_path).fork()
    with pytest.raises((TypeError, ValueError)):
        fork.write("a", value)
    assert fork.diff() == ()


def test_a_place_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnusableError, match="no does not exist: create it"):
        JournalEnvironment(Shelf.make(tmp_path / "shelf.db"), tmp_path / "no" / "shelf")


@KINDS
def test_a_first_write_that_fails_leaves_all_as_it_was(tmp_path: Path, kind: type[Shelf]) -> None:
    environment, directory = opened(tmp_path, kind), files(tmp_path)
    forks: list[Fork] = [written(environment), changed := directory.fork()]
    changed.resolve("new").touch()
    shelf(environment).before_write = failing(Lost("no route"), 1)
    with pytest.raises(Lost):
        commit(forks)
    assert shelf(environment).log() == []
    assert not (tmp_path / "files" / "new").exists()
    assert not list(tmp_path.glob(".entcent-*/*.json"))
    commit(forks)
    assert shelf(environment).log() == WRITES
    assert (tmp_path / "files" / "new").exists()


@KINDS
@pytest.mark.parametrize("number", range(1, len(WRITES) + 1))
def test_an_answer_that_was_lost_is_found_out_and_no_write_is_made_twice(
    tmp_path: Path, kind: type[Shelf], number: int
) -> None:
    environment, directory = opened(tmp_path, kind), files(tmp_path)
    forks: list[Fork] = [written(environment), changed := directory.fork()]
    changed.resolve("new").touch()
    shelf(environment).after_write = failing(Lost("answer lost"), number)
    with pytest.raises(Lost):
        commit(forks)
    assert shelf(environment).log() == WRITES[:number]
    discard_all({str(i): fork for i, fork in enumerate(forks)})  # as the selector does after an error
    opened(tmp_path, kind)
    assert shelf(environment).log() == WRITES
    assert (tmp_path / "files" / "new").exists()
    files(tmp_path)
    assert not leftovers(tmp_path)


def test_the_next_fork_finishes_a_commit_that_broke_off(tmp_path: Path) -> None:
    environment = opened(tmp_path)
    shelf(environment).before_write = failing(Lost("no route"), 3)
    with pytest.raises(Lost):
        commit([written(environment)])
    assert environment.fork().read("a") == 3
    assert shelf(environment).log() == WRITES


def test_a_directory_is_finished_without_the_journal_which_waits_for_its_own_opening(tmp_path: Path) -> None:
    environment, directory = opened(tmp_path), files(tmp_path)
    forks: list[Fork] = [written(environment), changed := directory.fork()]
    changed.resolve("new").touch()
    shelf(environment).before_write = failing(Lost("no route"), 2)
    with pytest.raises(Lost):
        commit(forks)
    assert not (tmp_path / "files" / "new").exists()
    again = files(tmp_path)  # as a process would that has nothing to do with the shelf
    assert (tmp_path / "files" / "new").exists()
    assert shelf(environment).log() == WRITES[:1]
    later = again.fork()
    later.resolve("later").touch()
    commit([later])
    opened(tmp_path)
    assert shelf(environment).log() == WRITES
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == ["later", "new"]
    assert not leftovers(tmp_path)


@KINDS
def test_somebody_who_comes_before_the_first_write_is_a_conflict_and_nothing_happened(
    tmp_path: Path, kind: type[Shelf]
) -> None:
    environment, directory = opened(tmp_path, kind), files(tmp_path)
    forks: list[Fork] = [written(environment), changed := directory.fork()]
    changed.resolve("new").touch()

    def observe(step: str) -> None:
        if step == "published":
            shelf(environment).put("a", "theirs")

    with pytest.raises(EnvironmentConflictError, match="'a' was changed by somebody else"):
        commit(forks, observe=observe)
    assert shelf(environment).log() == [("a", "theirs")]
    assert not (tmp_path / "files" / "new").exists()
    with pytest.raises(EnvironmentConflictError, match="nothing was committed"):
        commit(forks)
    discard_all({str(i): fork for i, fork in enumerate(forks)})
    assert not leftovers(tmp_path)


def test_somebody_who_comes_between_a_look_and_a_write_is_seen_where_writes_have_conditions(tmp_path: Path) -> None:
    environment = opened(tmp_path)
    seen: list[str] = []

    def come_between(key: str, _value: Any) -> None:
        seen.append(key)
        if len(seen) == 1:
            shelf(environment).put(key, "theirs")

    shelf(environment).before_write = come_between
    with pytest.raises(EnvironmentConflictError, match="is not at version"):
        commit([written(environment)])
    assert shelf(environment).log() == [("a", "theirs")]


def test_what_somebody_else_wrote_is_not_taken_for_ours_after_a_refusal(tmp_path: Path) -> None:
    environment = opened(tmp_path)
    fork = written(environment)
    fork.write("z", 0)
    shelf(environment).before_write = lambda _key, _value: (shelf(environment).put("a", 1), None)[1]
    for _ in range(2):
        with pytest.raises(EnvironmentConflictError):
            commit([fork])
    assert shelf(environment).log() == [("a", 1)]


def test_a_refusal_after_another_journal_was_replayed_does_not_say_that_nothing_happened(tmp_path: Path) -> None:
    (tmp_path / "z").mkdir()  # the last in the order is replayed first
    outer, inner = opened(tmp_path), opened(tmp_path / "z")
    shelf(inner).after_write = lambda _key, _value: (shelf(outer).put("a", "theirs"), None)[1]
    with pytest.raises(EnvironmentFault, match="other parts of this commit are done") as caught:
        commit([written(outer), written(inner)])
    assert not isinstance(caught.value, EnvironmentConflictError)
    assert shelf(inner).log() == WRITES
    with pytest.raises(EnvironmentConflictError, match="or remove .* to leave it"):
        opened(tmp_path)
    assert opened(tmp_path / "z").fork().read("c") == {"d": None}


@KINDS
def test_somebody_who_comes_between_two_writes_is_put_to_a_person(tmp_path: Path, kind: type[Shelf]) -> None:
    environment = opened(tmp_path, kind)
    real = shelf(environment)
    real.after_write = lambda key, _value: real.put("b", "theirs") if key == "a" else None
    with pytest.raises(EnvironmentFault, match="'b' was changed .* after 1 of 4 writes") as caught:
        commit([written(environment)])
    assert not isinstance(caught.value, EnvironmentConflictError)  # which would say that nothing happened
    for _ in range(2):
        with pytest.raises(EnvironmentConflictError, match=r"put it back .* or remove .*commit-.*json to leave it"):
            opened(tmp_path, kind)
    assert real.log() == [("a", 1), ("b", "theirs")]


def test_a_person_may_leave_it_as_it_is(tmp_path: Path) -> None:
    environment = opened(tmp_path)
    real = shelf(environment)
    real.after_write = lambda key, _value: real.put("b", "theirs") if key == "a" else None
    with pytest.raises(EnvironmentFault):
        commit([written(environment)])
    next(tmp_path.glob(".entcent-*/commit-*.json")).unlink()
    assert opened(tmp_path).fork().read("b") == "theirs"
    assert real.log() == [("a", 1), ("b", "theirs")]


def test_a_person_may_put_a_plain_key_back_and_have_the_rest_replayed(tmp_path: Path) -> None:
    environment = opened(tmp_path, PlainShelf)
    real = shelf(environment)
    real.after_write = lambda key, _value: real.put("b", "theirs") if key == "a" else None
    with pytest.raises(EnvironmentFault):
        commit([written(environment)])
    real.put("b", None)
    opened(tmp_path, PlainShelf)
    assert real.log() == [("a", 1), ("b", "theirs"), ("b", None), *WRITES[1:]]


def killed_while_committing(folder: Path, kind: str, when: str, number: int) -> None:
    """A process that forks, writes and commits, and is killed before or after a write reaches the shelf."""
    command = [sys.executable, "-m", "tests.environments.test_journal", str(folder), kind, when, str(number)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL


@KINDS
@pytest.mark.parametrize("when", ["before_write", "after_write"])
@pytest.mark.parametrize("number", range(1, len(WRITES) + 1))
def test_a_kill_around_any_write_is_made_good_by_the_next_opening_and_nothing_is_written_twice(
    tmp_path: Path, kind: type[Shelf], when: str, number: int
) -> None:
    environment = opened(tmp_path, kind)
    killed_while_committing(tmp_path, kind.__name__, when, number)
    assert shelf(environment).log() == WRITES[: number - (when == "before_write")]
    again = opened(tmp_path, kind)
    assert shelf(environment).log() == WRITES
    assert again.committed((tmp_path / "reference").read_text())
    assert not list(tmp_path.glob(".entcent-*/forks/*"))


def commit_and_be_killed(folder: Path, kind: str, when: str, number: int) -> None:
    environment = opened(folder, {"Shelf": Shelf, "PlainShelf": PlainShelf}[kind])
    fork = written(environment)
    fork.keep()
    (folder / "reference").write_text(fork.reference)
    calls: list[str] = []

    def hook(key: str, _value: Any) -> None:
        calls.append(key)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(shelf(environment), when, hook)
    commit([fork])


if __name__ == "__main__":
    commit_and_be_killed(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
