"""Requests that are cancelled while their winner is made real: it stays so, once, and the graph hears of it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver

from entcent_agents.environments import SqliteEnvironment
from entcent_agents.errors import EnvironmentConflictError, RolloutError
from entcent_agents.nodes import EntropyCentroidSelector
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.selection import First, Selector
from entcent_agents.testing import ScriptedChat
from tests.rollouts.worlds import ASK, turn
from tests.table import new_table, rows
from tools.sql import sql_tools

CONFIG: Any = {"configurable": {"thread_id": "a request"}}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return new_table(tmp_path / "world.db")


def graph_of(database: Path, selector: Selector | None = None) -> Any:
    scripts = [[turn("", ("execute", {"sql": f"INSERT INTO t VALUES ({i})"})), turn(f"done {i}")] for i in range(3)]
    return entropy_centroid_graph(
        create_agent(ScriptedChat(scripts=scripts), sql_tools()),
        n=3,
        selector=selector or First(),
        environments=[SqliteEnvironment(database)],
        checkpointer=InMemorySaver(),
    )


async def cancelled_in(step: str, graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until a step of the commit, and cancel there, more than once."""
    real, there = getattr(EntropyCentroidSelector, step), asyncio.Event()

    async def slowly(self: Any, *args: Any) -> Any:
        there.set()
        await asyncio.sleep(0.05)
        return await real(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(EntropyCentroidSelector, step, slowly)
        run = asyncio.create_task(graph.ainvoke(ASK, CONFIG))
        await there.wait()
        run.cancel()
        await asyncio.sleep(0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run


@pytest.mark.parametrize("step", ["_commit", "_clean_up"])
async def test_what_was_committed_is_known_when_the_request_goes_on_and_is_not_committed_again(
    database: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    graph = graph_of(database)
    await cancelled_in(step, graph, monkeypatch)
    assert rows(database) == [0]
    state = await graph.ainvoke(None, CONFIG)
    assert rows(database) == [0]
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
    assert [change["subject"] for change in state["selection"]["changes"]] == ["t"]
    assert [path.name for path in database.parent.iterdir()] == ["world.db"]


async def test_nothing_is_kept_for_a_graph_that_cannot_go_on(database: Path, monkeypatch: pytest.MonkeyPatch):
    graph = graph_of(database)
    graph.checkpointer = None
    await cancelled_in("_clean_up", graph, monkeypatch)
    assert rows(database) == [0]
    assert len(graph.nodes["select"].bound.untold) == 0


async def test_a_commit_that_fails_while_it_is_cancelled_leaves_the_world_untouched(
    database: Path, monkeypatch: pytest.MonkeyPatch
):
    async def fails(self: Any, *args: Any) -> Any:
        raise OSError("the disk is full")

    monkeypatch.setattr(EntropyCentroidSelector, "_commit", fails)
    graph = graph_of(database)
    await cancelled_in("_commit", graph, monkeypatch)
    assert rows(database) == []
    assert [path.name for path in database.parent.iterdir()] == ["world.db"]


async def test_a_commit_that_failed_is_not_tried_again_on_forks_that_are_gone(database: Path):
    class Meddling(First):
        def select(self, candidates: Any) -> Any:
            with closing(sqlite3.connect(database)) as stranger, stranger:
                stranger.execute("INSERT INTO t VALUES (99)")
            return super().select(candidates)

    graph = graph_of(database, selector=Meddling())
    with pytest.raises(EnvironmentConflictError):
        await graph.ainvoke(ASK, CONFIG)
    with pytest.raises(RolloutError, match=r"what rollout 0 changed is not there any more .* send the request again"):
        await graph.ainvoke(None, CONFIG)
    assert {*rows(database)} == {99}
