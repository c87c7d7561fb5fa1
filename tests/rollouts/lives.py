"""What runs in the processes that are killed: an agent that goes from request to request, and resumes."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command

from entcent_agents.chat.model import aclose_clients
from entcent_agents.environments import SqliteEnvironment
from entcent_agents.environments.sqlite import SqliteFork
from entcent_agents.ledger import LedgerSettings
from entcent_agents.prebuilt import entropy_centroid_graph
from tests.ledger.outside_world import QUESTION, open_ledger, touch
from tests.rollouts.agent import Tools, agent_of, done, slow
from tests.rollouts.script import EFFECTS, OUTSIDE
from tests.rollouts.steps import Steps

SETTINGS = LedgerSettings(lease_seconds=0.3, max_attempts=1000)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where everything is that outlives a process.

    Attributes:
        folder: Of the files.
        base_url: The model's server.
        world: Address of who owns the effects.
        database: Connection string of a PostgreSQL database; without one, threads and ledger are SQLite files.
        n: Rollouts of a request.
        external: Whether the agent's tools may reach outside.
        seconds: How long tools take at most.
        lag_seconds: How long the graph's own checkpointer takes at most, longer than it would: with LangGraph's default
            durability, nodes run on meanwhile.
    """

    folder: Path
    base_url: str
    world: str
    database: str | None = None
    n: int = 3
    external: bool = True
    seconds: float = 0.02
    lag_seconds: float = 0.0

    @property
    def app(self) -> Path:
        """The database that rollouts fork."""
        return self.folder / "app.db"

    @property
    def answers(self) -> Path:
        """What was answered to questions about calls in doubt, a line each."""
        return self.folder / "answers"

    @property
    def ledger(self) -> str:
        return self.database or str(self.folder / "ledger.db")

    @asynccontextmanager
    async def saver(self, name: str) -> AsyncIterator[BaseCheckpointSaver[Any]]:
        """The graph's own checkpointer ("threads"), or that of its rollouts."""
        if self.database:
            from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

            async with AsyncPostgresSaver.from_conn_string(self.database) as saver:
                yield saver
        else:
            async with AsyncSqliteSaver.from_conn_string(str(self.folder / f"{name}.db")) as saver:
                yield saver


def thread_of(number: int) -> str:
    """The thread of a request."""
    return f"request-{number}"


def live(place: Place, life: int, until: int, told: Any, steps: Steps) -> None:
    """Go from request to request until so many are done; `told` is how many are."""
    steps.count(SqliteEnvironment, ["fork", "reopen"])
    steps.count(SqliteFork, ["fork", "keep", "seal", "discard"])
    asyncio.run(_live(place, life, until, told, steps))


async def _live(place: Place, life: int, until: int, told: Any, steps: Steps) -> None:
    async with AsyncExitStack() as open_until_the_end:
        ledger = open_ledger(place.ledger)
        open_until_the_end.push_async_callback(ledger.aclose)
        threads = await open_until_the_end.enter_async_context(place.saver("threads"))
        rollouts = await open_until_the_end.enter_async_context(place.saver("rollouts"))
        _lagging(threads, place.lag_seconds)
        for saver in (threads, rollouts):
            steps.count(saver, ["aput", "aput_writes", "adelete_thread"])
        steps.count(ledger, ["transact", "forget"])
        tools = Tools(slow(place.seconds), lambda tool, mark, key: touch(place.world, f"{tool} {mark} {key}"))
        outside: dict[str, Any] = {"ledger": ledger, "ledger_settings": SETTINGS} if place.external else {}
        graph = entropy_centroid_graph(
            agent_of(place.base_url, tools, life),
            n=place.n,
            effects=EFFECTS if place.external else {name: "READ" for name in OUTSIDE} | _inside(),
            environments=[SqliteEnvironment(place.app)],
            checkpointer=threads,
            rollout_checkpointer=rollouts,
            **outside,
        )
        open_until_the_end.push_async_callback(aclose_clients)
        while told.value < until:
            await _serve(graph, place, told.value)
            told.value += 1


def _lagging(saver: Any, seconds: float) -> None:
    aput = saver.aput

    async def late(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(random.uniform(0.0, seconds))
        return await aput(*args, **kwargs)

    saver.aput = late


def _inside() -> dict[str, str]:
    return {name: effect for name, effect in EFFECTS.items() if name not in OUTSIDE}


async def _serve(graph: Any, place: Place, number: int) -> None:
    """One request, to its end, from wherever it is."""
    config: dict[str, Any] = {"configurable": {"thread_id": thread_of(number)}}
    before = await graph.aget_state(config)
    if before.values and not before.tasks:  # `next` leaves out tasks whose writes no step has taken up yet
        return
    given: Any = None if before.tasks else {"messages": [HumanMessage(f"request {number}")]}
    while True:
        came = await graph.ainvoke(given, config)
        if "__interrupt__" not in came:
            return
        given = Command(resume={asked.id: await _answers(place, asked.value) for asked in came["__interrupt__"]})


async def _answers(place: Place, asked: Any) -> list[dict[str, Any]]:
    return [await _answer(place, question) for question in asked["questions"]]


async def _answer(place: Place, question: Any) -> dict[str, Any]:
    """Look whether it happened, and say so."""
    tool, mark = question["tool"], question["arguments"]["mark"]
    happened = await touch(place.world, f"{QUESTION}{mark}") == "yes"
    with place.answers.open("a") as file:
        file.write(json.dumps({"doubt_id": question["doubt_id"], "tool": tool, "happened": happened}) + "\n")
    decision = {"decision": "happened", "result": done(tool, mark)} if happened else {"decision": "run"}
    return {"doubt_id": question["doubt_id"], "by": "who looked", **decision}
