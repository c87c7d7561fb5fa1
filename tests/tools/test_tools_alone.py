"""The tool sets in a plain agent: no rollouts, no forks of anybody's making."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from langchain.agents import create_agent
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool

from entcent_agents.environments import DirectoryEnvironment, SqliteEnvironment
from entcent_agents.errors import EffectError
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from tools import commands
from tools.commands import command_tools
from tools.documents import build as build_library
from tools.documents import document_tools
from tools.penguins import build as build_penguins
from tools.sql import sql_tools
from tools.workspace import workspace_tools

Call = tuple[str, dict[str, object]]


def agent(tools: list[BaseTool], *turns: list[Call]):
    script = [ScriptedTurn(text="…", tool_calls=calls, entropy=[0.1] * 30) for calls in [*turns, []]]
    return create_agent(ScriptedChat(scripts=[script]), tools)


def answers(state: dict[str, object]) -> list[str]:
    return [message.text for message in state["messages"] if isinstance(message, ToolMessage)]  # type: ignore[attr-defined]


async def run(tools: list[BaseTool], *turns: list[Call]) -> list[str]:
    return answers(await agent(tools, *turns).ainvoke({"messages": [("user", "Go.")]}))


async def test_sql_tools_change_the_database_itself(tmp_path: Path):
    path = build_penguins(tmp_path / "penguins.db")
    said = await run(
        sql_tools(SqliteEnvironment(path)),
        [("execute", {"sql": "DELETE FROM penguins WHERE island = 'Dream'"})],
        [("query", {"sql": "SELECT count(*) FROM penguins"})],
        [("execute", {"sql": "DELETE FROM elsewhere"})],
    )
    assert said[:2] == ["Done: 124 rows changed. penguins now has 220 rows.", "count(*)\n220"]
    assert said[2].startswith("Error: no such table: elsewhere")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM penguins").fetchone() == (220,)
    assert [entry.name for entry in tmp_path.iterdir()] == ["penguins.db"]  # no fork is left


async def test_writes_side_by_side_all_arrive(tmp_path: Path):
    (tmp_path / "work").mkdir()
    calls: list[Call] = [("write_file", {"path": f"{i}.txt", "content": str(i)}) for i in range(6)]
    said = await run(workspace_tools(DirectoryEnvironment(tmp_path / "work")), calls, [("list_files", {})])
    assert said[-1].splitlines() == [f"{i}.txt (1 bytes)" for i in range(6)]


def test_document_tools_work_in_a_synchronous_agent(tmp_path: Path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.md").write_text("Whales sing.")
    build_library(tmp_path / "library.db", tmp_path / "texts")
    tools = document_tools(SqliteEnvironment(tmp_path / "library.db", "documents"))
    added: Call = ("add_document", {"document": "note", "text": "A whale sang."})
    state = agent(tools, [added], [("search", {"query": "whales"})]).invoke({"messages": [("user", "Go.")]})
    assert "[note, part 1]" in answers(state)[1] and "[a.md, part 1]" in answers(state)[1]


async def test_a_command_sees_the_files_and_what_it_writes_is_gone(tmp_path: Path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "a.txt").write_text("hello")
    tools = command_tools(DirectoryEnvironment(tmp_path / "work"))
    said = await run(tools, [("run_command", {"command": "cat a.txt; echo > b.txt; exit 3"})])
    assert said == ["hello\n[exit code 3]"]
    assert [entry.name for entry in (tmp_path / "work").iterdir()] == ["a.txt"]


async def test_a_command_ends_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "work").mkdir()
    tools = command_tools(DirectoryEnvironment(tmp_path / "work"))
    left = tmp_path / "left"
    said = await run(tools, [("run_command", {"command": f"(sleep 60; touch {left}) & echo $!"})])
    pid, _, rest = said[0].partition("\n")
    assert rest == "[exit code 0]" and not Path("/proc", pid, "exe").exists()
    monkeypatch.setattr(commands, "COMMAND_SECONDS", 0.5)
    assert await run(tools, [("run_command", {"command": "echo begun; sleep 60"})]) == [
        "begun\n[stopped after 0.5 seconds]"
    ]


async def test_of_a_long_output_the_end_is_shown(tmp_path: Path):
    (tmp_path / "work").mkdir()
    tools = command_tools(DirectoryEnvironment(tmp_path / "work"))
    (said,) = await run(tools, [("run_command", {"command": "yes | head -c 30000; echo end"})])
    assert said.startswith("… 20,004 bytes before\n") and said.endswith("y\nend\n[exit code 0]")


async def test_a_command_that_prints_without_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(commands, "WRITTEN_BYTES", 1_000_000)
    tools = command_tools(DirectoryEnvironment(tmp_path / "work"))
    (said,) = await run(tools, [("run_command", {"command": "yes"})])
    assert said.endswith("y\n[stopped: it printed more than 1 MB]") and len(said) < 20_000


async def test_the_same_tools_run_on_forks_in_rollouts(tmp_path: Path):
    (tmp_path / "work").mkdir()
    environment = DirectoryEnvironment(tmp_path / "work")
    tools = workspace_tools(environment)

    def script(content: str, entropy: float) -> list[ScriptedTurn]:
        written: Call = ("write_file", {"path": "a.txt", "content": content})
        return [ScriptedTurn(text="…", tool_calls=calls, entropy=[entropy] * 30) for calls in ([written], [])]

    model = ScriptedChat(scripts=[script("unsure", 1.2), script("sure", 0.2)])
    graph = entropy_centroid_graph(create_agent(model, tools), n=2, environments=[environment])
    await asyncio.wait_for(graph.ainvoke({"messages": [("user", "Go.")]}), 60)
    assert (tmp_path / "work" / "a.txt").read_text() == "sure"
    with pytest.raises(EffectError, match="there is none of that name"):  # never on the real thing from a rollout
        entropy_centroid_graph(create_agent(model, tools), n=2)
