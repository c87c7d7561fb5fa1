"""Our own environments under the suite that users run on theirs."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any, ClassVar

import pytest

from entcent_agents.environments import (
    DirectoryEnvironment,
    DirectoryFork,
    JournalEnvironment,
    JournalFork,
    MemoryEnvironment,
    MemoryFork,
    SqliteEnvironment,
    SqliteFork,
)
from entcent_agents.testing.conformance import EnvironmentConformance
from tests.environments.own_environment import TextEnvironment, TextFork
from tests.environments.shelves import PlainShelf, Shelf

pytestmark = pytest.mark.timeout(600)  # two hundred races flush the disk a few thousand times


class TestSqlite(EnvironmentConformance):
    mode = "DELETE"

    def make(self, folder: Path) -> None:
        with contextlib.closing(sqlite3.connect(folder / "app.db")) as connection:
            connection.execute(f"PRAGMA journal_mode = {self.mode}")
            connection.execute("CREATE TABLE words (word TEXT)")

    def open(self, folder: Path) -> SqliteEnvironment:
        return SqliteEnvironment(folder / "app.db")

    def add(self, fork: SqliteFork, word: str) -> None:
        with fork.connect() as connection:
            connection.execute("INSERT INTO words VALUES (?)", (word,))

    def words(self, fork: SqliteFork) -> list[str]:
        with fork.connect(read_only=True) as connection:
            return [word for (word,) in connection.execute("SELECT word FROM words ORDER BY rowid")]

    def add_for_real(self, environment: SqliteEnvironment, word: str) -> None:
        with contextlib.closing(sqlite3.connect(environment.path)) as connection, connection:
            connection.execute("INSERT INTO words VALUES (?)", (word,))

    def real_words(self, environment: SqliteEnvironment) -> list[str]:
        with contextlib.closing(sqlite3.connect(environment.path)) as connection:
            return [word for (word,) in connection.execute("SELECT word FROM words ORDER BY rowid")]


class TestSqliteWithWriteAheadLog(TestSqlite):
    mode = "WAL"
    races = 50


class TestDirectory(EnvironmentConformance):
    def make(self, folder: Path) -> None:
        (folder / "files").mkdir()
        (folder / "files" / "words").touch()

    def open(self, folder: Path) -> DirectoryEnvironment:
        return DirectoryEnvironment(folder / "files")

    def add(self, fork: DirectoryFork, word: str) -> None:
        with fork.resolve("words").open("a") as file:
            file.write(f"{word}\n")

    def words(self, fork: DirectoryFork) -> list[str]:
        return fork.resolve("words").read_text().split()

    def add_for_real(self, environment: DirectoryEnvironment, word: str) -> None:
        with (environment.path / "words").open("a") as file:
            file.write(f"{word}\n")

    def real_words(self, environment: DirectoryEnvironment) -> list[str]:
        return (environment.path / "words").read_text().split()


class TestMemory(EnvironmentConformance):
    durable = False
    opened: ClassVar[dict[Path, MemoryEnvironment]] = {}

    def make(self, folder: Path) -> None:
        self.opened[folder] = MemoryEnvironment({"words": []})

    def open(self, folder: Path) -> MemoryEnvironment:
        return self.opened[folder]

    def add(self, fork: MemoryFork, word: str) -> None:
        fork.value["words"].append(word)

    def words(self, fork: MemoryFork) -> list[str]:
        return list(fork.value["words"])

    def add_for_real(self, environment: MemoryEnvironment, word: str) -> None:
        environment.value["words"].append(word)

    def real_words(self, environment: Any) -> list[str]:
        return list(environment.value["words"])

    def leftovers(self, environment: Any) -> list[str]:
        return list(environment.forks)


class TestJournal(EnvironmentConformance):
    shelf: type[Shelf] = Shelf

    def make(self, folder: Path) -> None:
        self.shelf.make(folder / "shelf.db")

    def open(self, folder: Path) -> JournalEnvironment:
        return JournalEnvironment(self.shelf(folder / "shelf.db"), folder / "shelf.journal")

    def add(self, fork: JournalFork, word: str) -> None:
        fork.write("words", [*self.words(fork), word])

    def words(self, fork: JournalFork) -> list[str]:
        return fork.read("words") or []

    def add_for_real(self, environment: Any, word: str) -> None:
        environment.target.put("words", [*self.real_words(environment), word])

    def real_words(self, environment: Any) -> list[str]:
        return environment.target.get("words") or []


class TestJournalOfWhatCountsNoVersions(TestJournal):
    shelf = PlainShelf
    races = 50


class TestAnEnvironmentOfOnesOwn(EnvironmentConformance):
    races = 50

    def make(self, folder: Path) -> None:
        (folder / "words.txt").touch()

    def open(self, folder: Path) -> TextEnvironment:
        return TextEnvironment(folder / "words.txt")

    def add(self, fork: TextFork, word: str) -> None:
        with fork.path.open("a") as file:
            file.write(f"{word}\n")

    def words(self, fork: TextFork) -> list[str]:
        return fork.path.read_text().split()

    def add_for_real(self, environment: Any, word: str) -> None:
        with environment.path.open("a") as file:
            file.write(f"{word}\n")

    def real_words(self, environment: Any) -> list[str]:
        return environment.path.read_text().split()
