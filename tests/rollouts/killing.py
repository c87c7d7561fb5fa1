"""Processes killed with SIGKILL wherever they are in a request, others that resume it, and what all of it came to."""

from __future__ import annotations

import asyncio
import json
import random
import re
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, convert_to_openai_messages

from tests.forks import FORKS
from tests.ledger.outside_world import World, child, open_ledger, world
from tests.rollouts.accounts import Account, Effect, audit_effects, audit_requests, audit_writes
from tests.rollouts.agent import make_database, rows_of
from tests.rollouts.lives import Place, live, thread_of
from tests.rollouts.script import PLANS, Call, Script, calls_of, model_server, read_log, without_outside
from tests.rollouts.steps import Steps

LONGEST_SECONDS = 120.0
"""A process that is at one request for longer hangs."""
MARK = re.compile(rb"m[0-9a-f]{12}")
TABLES = {
    "sqlite": {"checkpoints": "checkpoint", "writes": "value"},
    "postgres": {"checkpoints": "checkpoint::text::bytea", "checkpoint_writes": "blob", "checkpoint_blobs": "blob"},
}


@dataclass
class Killing:
    """A run under kills: who owns what, and what is known so far."""

    place: Place
    outside: World
    log: Path
    told: Any = field(default_factory=lambda: FORKS.Value("i", 0, lock=False))
    taken: Any = field(default_factory=lambda: FORKS.Value("i", 0, lock=False))
    life: int = 0
    durable: dict[int, set[str]] = field(default_factory=dict[int, set[str]])

    def start(self, until: int = sys.maxsize, last_step: int = 0) -> Any:
        """Another process that goes on."""
        self.life += 1
        self.taken.value = 0
        return child(live, self.place, self.life, until, self.told, Steps(self.taken, last_step))

    def finish(self, until: int) -> float:
        """Let a process go on undisturbed until so many requests are done; how long it took."""
        begun, process = time.monotonic(), self.start(until)
        process.join(LONGEST_SECONDS)
        assert process.exitcode == 0, f"request {self.told.value} did not end: exit code {process.exitcode}"
        return time.monotonic() - begun

    def kill(self, after_seconds: float) -> None:
        """Start a process and kill it."""
        process = self.start()
        time.sleep(after_seconds)
        process.kill()
        self._ended(process)

    def kill_after_step(self, step: int) -> None:
        """Start a process that is killed as soon as it has made so many things durable."""
        self._ended(self.start(last_step=step))

    def _ended(self, process: Any) -> None:
        process.join(LONGEST_SECONDS)
        number, code = self.told.value, process.exitcode
        assert code == -9, f"the agent ended by itself at request {number}, or hangs: exit code {code}"
        self.durable[self.life] = marks_on_record(self.place)


@contextmanager
def killing(seed: int, *, database: str | None = None, **settings: Any) -> Iterator[Killing]:
    """Everything that a run needs."""
    with tempfile.TemporaryDirectory(prefix="entcent-kills-") as name, world(seconds=0.005) as outside:
        folder = Path(name)
        make_database(folder / "app.db")
        plans = PLANS if settings.get("external", True) else without_outside()
        script = Script(seed=seed, log=folder / "log", plans=plans, delay_seconds=0.03)
        with model_server(script) as server:
            place = Place(folder=folder, base_url=server.base_url, world=outside.address, database=database, **settings)
            if database:
                asyncio.run(_set_up(place))
            yield Killing(place, outside, script.log)


async def _set_up(place: Place) -> None:
    async with place.saver("threads") as saver:
        await saver.setup()  # type: ignore[attr-defined]


def kill_at_random(run: Killing, kills: int, seed: int, *, at_steps: int = 0) -> Account:
    """Kill processes at random moments, and others at random steps, and settle up.

    Args:
        run: What is killed.
        kills: How many at moments, drawn evenly from the time that a whole request takes.
        seed: Of what is drawn.
        at_steps: How many right after a step that made something durable, drawn evenly from those of a request.
    """
    dice = random.Random(seed)
    run.finish(1)  # the first process waits for modules to be loaded
    seconds, steps = min((run.finish(run.told.value + 1), run.taken.value) for _ in range(3))
    # One from each part, so that few kills spread too.
    moments = [partial(run.kill, (part + dice.random()) / kills * seconds) for part in range(kills)]
    after = [1 + int((part + dice.random()) / at_steps * steps) for part in range(at_steps)]
    ends = [*moments, *(partial(run.kill_after_step, step) for step in after)]
    for kill in dice.sample(ends, len(ends)):
        kill()
    run.finish(run.told.value + 1)
    account = settled(run)
    account.counts.update({"kills at moments": kills, "kills after steps": at_steps, "steps of a request": steps})
    account.counts["requests"] = run.told.value
    return account


def settled(run: Killing) -> Account:
    """What all requests came to, next to what was committed."""
    committed, half = asyncio.run(_committed(run))
    account = Account(violations=half)
    account += audit_effects(committed, [Effect.from_line(line) for line in run.outside.effects])
    account += audit_writes(committed, "note", rows_of(run.place.app))
    account += audit_requests(read_log(run.log), run.place.n, run.durable)
    account.counts.update(answered(run.place))
    account.violations.extend(asyncio.run(_leftovers(run.place)))
    account.violations.extend(f"failed call: {call}" for call in committed if not call.succeeded)
    return account


async def _committed(run: Killing) -> tuple[list[Call], list[str]]:
    """The calls of the conversations that were committed, and which of these do not end with an answer."""
    calls, half = list[Call](), list[str]()
    async with run.place.saver("threads") as saver:
        for number in range(run.told.value):
            state = await saver.aget_tuple({"configurable": {"thread_id": thread_of(number)}})
            assert state is not None
            values = state.checkpoint["channel_values"]
            messages = values["messages"]
            last = messages[-1]
            if values.get("rollouts") or not isinstance(last, AIMessage) or last.tool_calls:
                half.append(f"half committed: request {number} ends with {last!r}")
            calls += calls_of(convert_to_openai_messages(messages))
    return calls, half


def answered(place: Place) -> Counter[str]:
    """How calls in doubt were answered; one answer a doubt, however often it was given."""
    lines = place.answers.read_text().splitlines() if place.answers.exists() else []
    answers = {answer["doubt_id"]: answer for answer in map(json.loads, lines)}
    return Counter(
        f"{answer['tool']}: in doubt, {'had happened' if answer['happened'] else 'had not happened'}"
        for answer in answers.values()
    )


async def _leftovers(place: Place) -> list[str]:
    """Threads of rollouts, forks, and calls that wait for somebody, after the last request was committed."""
    found = [f"leftover thread: {thread}" for thread in sorted(rollout_threads(place))]
    found += [f"leftover fork: {fork.name}" for fork in place.folder.glob(".entcent-*/forks/*")]
    ledger = open_ledger(place.ledger)
    found += [f"leftover call: {record.position}, {record.state}" for record in await ledger.unsettled()]
    await ledger.aclose()
    return found


def rollout_threads(place: Place) -> set[str]:
    """The threads that rollouts have, in whatever table."""
    tables = TABLES["postgres" if place.database else "sqlite"]
    found = {thread for table in tables for (thread,) in _rows(place, f"SELECT DISTINCT thread_id FROM {table}")}
    return {thread for thread in found if not re.fullmatch(r"request-\d+", thread)}


def marks_on_record(place: Place) -> set[str]:
    """The turns whose message is on a rollout's thread, read out of the tables as they are."""
    tables = TABLES["postgres" if place.database else "sqlite"]
    return {
        mark.decode()
        for table, column in tables.items()
        for thread, namespace, blob in _rows(place, f"SELECT thread_id, checkpoint_ns, {column} FROM {table}")
        if not namespace.startswith("entcent") and not re.fullmatch(r"request-\d+", thread)
        for mark in MARK.findall(bytes(blob or b""))
    }


def _rows(place: Place, query: str) -> list[Any]:
    if place.database:
        import psycopg

        with psycopg.connect(place.database) as connection:
            return connection.execute(query).fetchall()  # type: ignore[arg-type]
    if not (file := place.folder / "rollouts.db").exists():
        return []
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        try:
            return connection.execute(query).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []  # killed before it made them
            raise
