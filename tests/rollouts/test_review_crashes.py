"""What a crash between any two writes may take, and what it must not."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.effects import READ, WRITE
from entcent_agents.environments import SqliteEnvironment, current_environment
from entcent_agents.errors import EffectError
from entcent_agents.nodes import Retries
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.rollouts.store import RolloutStore
from entcent_agents.rollouts.writing import Writing
from entcent_agents.testing import ScriptedChat
from entcent_agents.trajectory import Rollout, Usage
from tests.rollouts.test_resumed import CONFIG, add, database, durable, rows
from tests.rollouts.worlds import ASK, World, turn

__all__ = ["database"]


class Late(AsyncSqliteSaver):
    """Writes the checkpoint that holds the records of rollouts when it is told to."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self.reached, self.released = asyncio.Event(), asyncio.Event()

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        if checkpoint["channel_values"].get("rollouts"):
            self.reached.set()
            await self.released.wait()
        return await super().aput(config, checkpoint, metadata, new_versions)


async def test_nothing_is_committed_before_what_it_stands_on_is_written(tmp_path: Path, database: Path):
    agent = create_agent(ScriptedChat(scripts=[[turn("", ("add", {"x": 1})), turn("done")]]), [add])
    async with durable(tmp_path) as settings, Late.from_conn_string(str(tmp_path / "late.db")) as saver:
        settings |= {"checkpointer": saver, "effects": {"add": WRITE}, "environments": [SqliteEnvironment(database)]}
        graph = entropy_centroid_graph(agent, n=2, **settings)
        run = asyncio.create_task(graph.ainvoke(ASK, CONFIG))
        await saver.reached.wait()
        await asyncio.sleep(0.5)
        assert rows(database) == []
        saver.released.set()
        await run
    assert rows(database) == [1]


async def test_a_graph_that_writes_nothing_before_its_end_may_read_and_no_more(tmp_path: Path, database: Path):
    agent = create_agent(ScriptedChat(scripts=[[turn("", ("add", {"x": 1})), turn("done")]]), [add])
    async with durable(tmp_path) as settings:
        settings |= {"effects": {"add": WRITE}, "environments": [SqliteEnvironment(database)]}
        with pytest.raises(EffectError, match="durability='exit'"):
            await entropy_centroid_graph(agent, n=2, **settings).ainvoke(ASK, CONFIG, durability="exit")
    agent = create_agent(ScriptedChat(scripts=[[turn("done")]]))
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "parent.db")) as saver:
        graph = entropy_centroid_graph(agent, n=2, checkpointer=saver)
        result = await graph.ainvoke(ASK, CONFIG, durability="exit")
    assert result["messages"][-1].text == "done"


async def dies_at_its_end(monkeypatch: pytest.MonkeyPatch, run: Coroutine[Any, Any, Any]) -> None:
    """Let a run be cut off just before its rollout writes down how it ended."""
    reached = asyncio.Event()

    async def end(self: Writing, rollout: Rollout) -> None:
        reached.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(Writing, "end", end)
        running = asyncio.create_task(run)
        await reached.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_an_answer_is_given_to_the_question_it_was_asked_for_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    @tool
    def delete(name: str) -> str:
        """Delete, after two questions."""
        return f"{interrupt('delete?')}, {interrupt('really?')}"

    agent = create_agent(ScriptedChat(scripts=[[turn("", ("delete", {"name": "x"})), turn("done")]]), [delete])
    async with durable(tmp_path) as settings:
        graph = entropy_centroid_graph(agent, n=1, effects={"delete": READ}, **settings)
        asked = await graph.ainvoke(ASK, CONFIG)
        assert [each.value for each in asked["__interrupt__"]] == ["delete?"]
        await dies_at_its_end(monkeypatch, graph.ainvoke(Command(resume="yes"), CONFIG))
        asked = await graph.ainvoke(None, CONFIG)
        assert [each.value for each in asked["__interrupt__"]] == ["really?"]
        result = await graph.ainvoke(Command(resume="no"), CONFIG)
    assert result["messages"][2].content == "yes, no"


async def test_a_breakpoint_is_not_passed_because_a_process_died_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World
):
    scripts = [[turn("", ("look", {"x": 1})), turn("done")]]
    for when in ("interrupt_before", "interrupt_after"):
        agent = create_agent(ScriptedChat(scripts=scripts), world.tools[1:2], **{when: ["tools"]})
        config: Any = {"configurable": {"thread_id": when}}
        async with durable(tmp_path) as settings:
            graph = entropy_centroid_graph(agent, n=1, effects={"look": READ}, **settings)
            await dies_at_its_end(monkeypatch, graph.ainvoke(ASK, config))
            asked = await graph.ainvoke(None, config)
            assert [each.value["kind"] for each in asked["__interrupt__"]] == ["breakpoint"]
            await dies_at_its_end(monkeypatch, graph.ainvoke(Command(resume=True), config))
            result = await graph.ainvoke(None, config)
            assert result["messages"][-1].text == "done"


async def test_an_answer_survives_a_failure_beside_the_question(tmp_path: Path, world: World):
    class Flaky(ScriptedChat):
        failed: bool = False

        async def _play(self, messages: Any, run_manager: Any) -> Any:
            if not self.failed:
                self.failed = True
                raise ConnectionResetError("once")
            return await super()._play(messages, run_manager)

    inner = Flaky(scripts=[[turn("inner")]])

    @tool
    async def confirm(question: str) -> str:
        """Ask a person, slowly."""
        answer = interrupt(question)
        await asyncio.sleep(0.2)
        return f"the person says {answer}"

    @tool
    async def late(task: str) -> str:
        """Ask a person, then a model."""
        answer = interrupt("late?")
        return f"{answer} {(await inner.ainvoke(task)).text}"

    calls = [("confirm", {"question": "sure?"}), ("late", {"task": "t"})]
    agent = create_agent(ScriptedChat(scripts=[[turn("", *calls), turn("done")]]), [confirm, late])
    async with durable(tmp_path) as settings:
        graph = entropy_centroid_graph(
            agent, n=1, effects={"confirm": READ, "late": READ}, retries=Retries(first_seconds=0.01), **settings
        )
        asked = await graph.ainvoke(ASK, CONFIG)
        assert [each.value for each in asked["__interrupt__"]] == ["sure?"]
        asked = await graph.ainvoke(Command(resume="a"), CONFIG)
        assert [each.value for each in asked["__interrupt__"]] == ["late?"]
        result = await graph.ainvoke(Command(resume="b"), CONFIG)
    assert [message.content for message in result["messages"][2:4]] == ["the person says a", "b inner"]
    assert "__interrupt__" not in result


async def test_a_flush_waits_for_one_that_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "rollouts.db")) as saver:
        store, recorder = RolloutStore(saver), TurnRecorder()
        writing = Writing(store=store, thread_id="t", recorder=recorder, overlay=None)
        await writing.begin(None)
        recorder.usage = Usage(model_calls=1)
        may, append = asyncio.Event(), store.append

        async def late(*entry: Any) -> None:
            await may.wait()
            await append(*entry)

        monkeypatch.setattr(store, "append", late)
        flushes = [asyncio.create_task(writing.flush()) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert [flush.done() for flush in flushes] == [False, False]
        may.set()
        await asyncio.gather(*flushes)
        journal = await store.read("t")
    assert journal is not None
    assert [entry.kind for entry in journal.entries] == ["turns"]


async def test_sync_nodes_leave_threads_for_the_copies_of_forks(tmp_path: Path, database: Path):
    @tool
    def put(x: int) -> str:
        """Add a row, synchronously."""
        with sqlite3.connect(current_environment().path) as connection:
            connection.execute("INSERT INTO t VALUES (?)", (x,))
        connection.close()
        return f"added {x}"

    inner = create_agent(ScriptedChat(scripts=[[turn("", ("put", {"x": 1})), turn("inner")]]), [put])

    def act(state: MessagesState) -> Any:
        return inner.invoke({"messages": state["messages"]})

    builder = StateGraph(MessagesState)
    builder.add_node("act", act)
    builder.add_edge(START, "act")
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
    async with durable(tmp_path) as settings:
        settings |= {"effects": {"put": WRITE}, "environments": [SqliteEnvironment(database)]}
        graph = entropy_centroid_graph(builder.compile(), n=4, **settings)
        await asyncio.wait_for(graph.ainvoke(ASK, CONFIG), 60)
    assert rows(database) == [1]
