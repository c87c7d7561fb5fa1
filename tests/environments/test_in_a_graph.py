"""Objects in memory and journals as the environments of real graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from entcent_agents.effects import WRITE
from entcent_agents.environments import JournalEnvironment, MemoryEnvironment, current_environment
from entcent_agents.errors import ConfigurationError
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from tests.environments.shelves import Shelf

GO = {"messages": [("user", "Add what you know.")]}
THREAD: Any = {"configurable": {"thread_id": "1"}}


@tool
def add(word: str) -> str:
    """Add a word to the notes."""
    memory: Any = current_environment("notes")
    memory.value["words"].append(word)
    return "added"


@tool
def put(word: str) -> str:
    """Put a word on the shelf."""
    shelf: Any = current_environment("shelf")
    shelf.write("word", word)
    return f"the shelf has {shelf.read('word')}"


def agent(name: str, calls: list[str]) -> Any:
    """Two rollouts that call a tool with their own word; the second is the surer."""

    def turns(word: str, entropy: float) -> Any:
        def turn(messages: Any) -> ScriptedTurn:
            calls.append(word)
            if messages[-1].type == "human":
                return ScriptedTurn(text="I do it.", tool_calls=[(name, {"word": word})], entropy=[entropy] * 30)
            return ScriptedTurn(text="Done.", entropy=[entropy] * 30)

        return turn

    return create_agent(ScriptedChat(scripts=[turns("unsure", 1.2), turns("sure", 0.2)]), [add, put])


async def test_the_winners_changes_alone_reach_the_object(tmp_path: Path) -> None:
    notes = MemoryEnvironment({"words": []}, "notes")
    graph = entropy_centroid_graph(agent("add", []), n=2, effects={"add": WRITE, "put": WRITE}, environments=[notes])
    result = await graph.ainvoke(GO)
    assert notes.value == {"words": ["sure"]}
    assert not notes.forks
    assert [change["subject"] for change in result["selection"]["changes"]] == ["words"]


async def test_durable_rollouts_refuse_memory_before_any_model_call(tmp_path: Path) -> None:
    calls: list[str] = []
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "rollouts.db")) as saver:
        graph = entropy_centroid_graph(
            agent("add", calls),
            n=2,
            effects={"add": WRITE, "put": WRITE},
            environments=[MemoryEnvironment({"words": []}, "notes")],
            rollout_checkpointer=saver,
            checkpointer=InMemorySaver(),
        )
        with pytest.raises(ConfigurationError, match="'notes' lies in memory.*leave out the durable"):
            await graph.ainvoke(GO, THREAD)
    assert not calls


async def test_durable_rollouts_write_to_their_journals_and_the_winners_alone_is_replayed(tmp_path: Path) -> None:
    shelf = Shelf.make(tmp_path / "shelf.db")
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "rollouts.db")) as saver:
        graph = entropy_centroid_graph(
            agent("put", []),
            n=2,
            effects={"add": WRITE, "put": WRITE},
            environments=[JournalEnvironment(shelf, tmp_path / "shelf", "shelf")],
            rollout_checkpointer=saver,
            checkpointer=InMemorySaver(),
        )
        result = await graph.ainvoke(GO, THREAD)
    assert shelf.log() == [("word", "sure")]
    assert [message.content for message in result["messages"] if message.type == "tool"] == ["the shelf has sure"]
    assert [change["subject"] for change in result["selection"]["changes"]] == ["word"]
    assert not list(tmp_path.glob(".entcent-*/forks/*"))
