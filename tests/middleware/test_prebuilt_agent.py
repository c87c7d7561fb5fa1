"""`create_entropy_centroid_agent`: model, tools, effects and environment in one call."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from langchain.agents.structured_output import ToolStrategy
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from pydantic import BaseModel

from entcent_agents.capture import with_logprobs
from entcent_agents.capture.settings import with_logprobs_unless_set
from entcent_agents.effects import READ, WRITE
from entcent_agents.environments import SqliteEnvironment, current_environment
from entcent_agents.errors import ConfigurationError, EffectError
from entcent_agents.ledger import SqliteLedger
from entcent_agents.prebuilt import create_entropy_centroid_agent
from entcent_agents.testing import ScriptedTurn
from tests.middleware.stepping import GO, WAYS, Chosen, ask, chat, looking, said, turns

BEST = 1


class Word(BaseModel):
    """A word."""

    word: str


def look_then_answer(index: int) -> Any:
    return turns(said("", ("look", {"at": f"place{index}"})), said("", ("Word", {"word": f"word{index}"})))


def look_then_say(index: int) -> Any:
    return turns(said("", ("look", {"at": f"place{index}"})), said(f"answer{index}"))


@WAYS
async def test_settings_of_the_agent_and_of_the_rollouts_go_where_they_belong(way: str):
    seen: list[str] = []
    agent = create_entropy_centroid_agent(
        chat(look_then_answer),
        [looking(seen)],
        effects={"look": READ},
        n=3,
        selector=Chosen(BEST),
        system_prompt="Be brief.",
        response_format=ToolStrategy(Word),
    )
    result = await ask(agent, way)
    assert result["structured_response"] == Word(word=f"word{BEST}")
    assert sorted(seen) == ["place0", "place1", "place2"]
    assert len(result["selection"]["candidates"]) == 3


async def test_what_the_selected_rollout_wrote_is_committed(tmp_path: Path):
    path = tmp_path / "notes.db"
    with sqlite3.connect(path) as database:
        database.execute("create table notes (text)")

    def write(text: str) -> str:
        """Write a note."""
        with sqlite3.connect(current_environment().path) as database:
            database.execute("insert into notes values (?)", (text,))
        return "written"

    agent = create_entropy_centroid_agent(
        chat(lambda index: turns(said("", ("write", {"text": f"note {index}"})), said(f"answer{index}"))),
        [write],
        effects={"write": WRITE},
        environments=[SqliteEnvironment(path)],
        selector=Chosen(BEST),
    )
    await agent.ainvoke(GO)
    with sqlite3.connect(path) as database:
        assert database.execute("select * from notes").fetchall() == [(f"note {BEST}",)]


async def test_a_tool_of_which_nothing_is_known_runs_once_for_the_selected_rollout():
    seen: list[str] = []
    agent = create_entropy_centroid_agent(chat(look_then_say), [looking(seen)], selector=Chosen(BEST), n=2)
    await agent.ainvoke(GO)
    assert seen == [f"place{BEST}"]


async def test_rollouts_are_kept_where_the_graph_is_if_that_outlives_the_process(tmp_path: Path):
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver:
        with pytest.raises(EffectError, match="ledger"):
            await ask(
                create_entropy_centroid_agent(chat(look_then_answer), [looking([])], checkpointer=saver),
                "async",
                thread="t",
            )
        seen: list[str] = []
        agent = create_entropy_centroid_agent(
            chat(look_then_say),
            [looking(seen)],
            selector=Chosen(BEST),
            n=2,
            checkpointer=saver,
            ledger=SqliteLedger(tmp_path / "effects.db"),
        )
        result = await ask(agent, "async", thread="t")
        assert (seen, result["messages"][-1].text) == ([f"place{BEST}"], f"answer{BEST}")
        assert {saved.config["configurable"]["thread_id"] async for saved in saver.alist(None)} == {"t"}


def test_with_a_synchronous_saver_the_rollouts_are_in_memory(tmp_path: Path):
    with SqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver:
        agent = create_entropy_centroid_agent(
            chat(look_then_say), [looking([])], effects={"look": READ}, selector=Chosen(BEST), n=2, checkpointer=saver
        )
        config: Any = {"configurable": {"thread_id": "t"}}
        assert agent.invoke(GO, config)["messages"][-1].text == f"answer{BEST}"
        assert agent.get_state(config).values["messages"][-1].text == f"answer{BEST}"
        with pytest.raises(EffectError, match="rollout_checkpointer"):  # and what memory would lose is refused
            create_entropy_centroid_agent(chat(look_then_say), [looking([])], checkpointer=saver).invoke(GO, config)


async def test_a_saver_of_another_loop_is_refused_before_any_model_call(tmp_path: Path):
    asked: list[int] = []

    def script(index: int) -> Any:
        return lambda messages: asked.append(index) or said(f"answer{index}")

    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver:
        agent = create_entropy_centroid_agent(chat(script), [], n=4, checkpointer=saver)
        with pytest.raises(ConfigurationError, match="use ainvoke"):
            await asyncio.to_thread(agent.invoke, GO, {"configurable": {"thread_id": "t"}})
        assert asked == []
        await ask(agent, "async", thread="t")
        assert sorted(asked) == [0, 1, 2, 3]


def test_a_model_is_asked_for_log_probabilities_unless_somebody_said_how():
    plain: Any = ChatOpenAI(model="gpt-4.1", api_key="none")  # type: ignore[arg-type]
    assert with_logprobs_unless_set(plain).top_logprobs == 10
    assert with_logprobs_unless_set(with_logprobs(plain, top=3)).top_logprobs == 3
    scripted = chat(lambda index: [ScriptedTurn(text="answer")])
    assert with_logprobs_unless_set(scripted) == scripted


def test_a_model_that_gives_none_is_refused_unless_that_is_wanted():
    reasoning: Any = ChatOpenAI(model="o3", api_key="none")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="reasons"):
        create_entropy_centroid_agent(reasoning, [])
    create_entropy_centroid_agent(reasoning, [], on_unscorable="fallback", checkpointer=InMemorySaver())


def test_a_setting_that_nobody_knows_is_refused():
    with pytest.raises(TypeError, match="rollouts_at_once"):
        create_entropy_centroid_agent(chat(look_then_answer), [], rollouts_at_once=3)
