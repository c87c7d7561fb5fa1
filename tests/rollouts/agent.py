"""The agent under fire: tools of every effect, whose fate at each call is decided by whoever runs it."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from langchain.agents import create_agent
from langchain_core.tools import BaseTool, StructuredTool

from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.environments import current_environment
from entcent_agents.ledger import current_idempotency_key
from tests.rollouts.script import SUCCEEDED


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What becomes of one call: how long it takes, and how it goes wrong.

    Attributes:
        before_seconds: Passed before it does anything.
        error_before: Raised then.
        says: The result, in place of doing anything.
        after_seconds: Passed between what it does and its result.
        error_after: Raised then.
    """

    before_seconds: float = 0.0
    error_before: Exception | None = None
    says: str | None = None
    after_seconds: float = 0.0
    error_after: Exception | None = None


HALF: Final = "half of a file\n"

FateOf = Callable[[str, str], Fate]
"""The fate of the call of a tool (first) with a mark (second)."""
Act = Callable[[str, str, str], Awaitable[object]]
"""Does what cannot be undone: for a tool, a mark and an idempotency key or a dash."""


@dataclass(frozen=True)
class Tools:
    """The tools, some of them synchronous."""

    fate_of: FateOf
    act: Act

    def all(self) -> list[BaseTool]:
        make = StructuredTool.from_function
        return [
            make(coroutine=self.ask, name="ask"),
            make(self.look, name="look"),
            make(self.note, name="note"),
            make(self.find, name="find"),
            make(self.save, name="save"),
            make(coroutine=self.pay, name="pay"),
            make(coroutine=self.book, name="book"),
        ]

    async def ask(self, request: int) -> str:
        """Something outside that is only read; asked alike by every rollout."""
        return await self._outside("ask", f"request-{request}", None)

    def look(self, request: int, mark: str) -> str:
        """The marks of the rows of this request."""
        fate = self.fate_of("look", mark)
        time.sleep(fate.before_seconds)
        if fate.error_before:
            raise fate.error_before
        with current_environment("database").connect(read_only=True) as connection:
            rows = connection.execute("SELECT mark FROM notes WHERE request = ? ORDER BY rowid", (request,)).fetchall()
        return fate.says or json.dumps([mark for (mark,) in rows])

    def note(self, request: int, mark: str) -> str:
        """Insert a row, slowly: two statements in one transaction."""
        fate = self.fate_of("note", mark)
        if fate.says:
            return fate.says
        with current_environment("database").connect() as connection:
            connection.execute("INSERT INTO notes (request, mark, whole) VALUES (?, ?, 0)", (request, mark))
            time.sleep(fate.before_seconds)
            if fate.error_before:
                raise fate.error_before
            connection.execute("UPDATE notes SET whole = 1 WHERE mark = ?", (mark,))
        time.sleep(fate.after_seconds)
        return f"{SUCCEEDED['note']} {mark}"

    def find(self, request: int, mark: str) -> str:
        """The marks of the files."""
        fate = self.fate_of("find", mark)
        time.sleep(fate.before_seconds)
        if fate.error_before:
            raise fate.error_before
        files = current_environment("workspace").resolve(".").iterdir()
        return fate.says or json.dumps(sorted(file.name for file in files))

    def save(self, request: int, mark: str) -> str:
        """Write a file, slowly: first a half of it."""
        fate = self.fate_of("save", mark)
        if fate.says:
            return fate.says
        file = current_environment("workspace").resolve(mark)
        file.write_text(HALF)
        time.sleep(fate.before_seconds)
        if fate.error_before:
            raise fate.error_before
        with file.open("a") as half:
            half.write(HALF)
        time.sleep(fate.after_seconds)
        return f"{SUCCEEDED['save']} {mark}"

    async def pay(self, request: int, mark: str) -> str:
        """An external call that may not be repeated."""
        return await self._outside("pay", mark, "-")

    async def book(self, request: int, mark: str) -> str:
        """An external call that may be repeated with its key."""
        return await self._outside("book", mark, current_idempotency_key())

    async def _outside(self, tool: str, mark: str, key: str | None) -> str:
        fate = self.fate_of(tool, mark)
        await asyncio.sleep(fate.before_seconds)
        if fate.error_before:
            raise fate.error_before
        if fate.says:
            return fate.says
        if key is not None:
            await self.act(tool, mark, key)
        await asyncio.sleep(fate.after_seconds)
        if fate.error_after:
            raise fate.error_after
        return done(tool, mark)


def done(tool: str, mark: str) -> str:
    """The result of a call that did what it is for."""
    return f"{SUCCEEDED[tool]} {mark}"


def slow(seconds: float) -> FateOf:
    """Nothing goes wrong; everything takes a while, by chance."""
    dice = random.Random()
    return lambda tool, mark: Fate(before_seconds=dice.uniform(0, seconds), after_seconds=dice.uniform(0, seconds))


def agent_of(base_url: str, tools: Tools, life: int = 0, **settings: Any) -> Any:
    """The agent; the server is told which life of the process asks."""
    model = ChatLogprobs(model="scripted", base_url=base_url, extra_body={"life": life}, **settings)
    return create_agent(model, tools.all())


def make_database(path: Path) -> None:
    """The world that rollouts fork: no constraint would hide that a row came twice."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE notes (request INTEGER, mark TEXT, whole INTEGER)")


def files_of(folder: Path) -> list[tuple[str, int]]:
    """Marks of the real files, and whether they are whole."""
    return [(file.name, file.read_text() == HALF * 2) for file in folder.iterdir()]


def rows_of(path: Path) -> list[tuple[str, int]]:
    """Marks of the real rows, and whether they are whole; seen without this library."""
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.execute("SELECT mark, whole FROM notes"))
