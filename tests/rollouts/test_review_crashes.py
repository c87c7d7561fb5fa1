"""What a crash between any two writes may take, and what it must not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from entcent_agents.effects import WRITE
from entcent_agents.environments import SqliteEnvironment
from entcent_agents.errors import EffectError
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.testing import ScriptedChat
from tests.rollouts.test_resumed import CONFIG, add, database, durable, rows
from tests.rollouts.worlds import ASK, turn

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
