"""The demonstration's agent, on a scripted model."""

from __future__ import annotations

from pathlib import Path

import pytest

from entcent_agents.environments import SqliteEnvironment, fork_all, use_environments
from entcent_agents.errors import ConfigurationError
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from evals.penguins import TASK, is_right, main
from graphs import analyst, guidance
from graphs.analyst import make_agent
from tools.penguins import build

RIGHT = (
    "CREATE TABLE female_mass AS SELECT species, AVG(body_mass_g) AS mean_mass_g FROM penguins "
    "WHERE sex = 'female' GROUP BY species"
)


def call(name: str, sql: str) -> ScriptedTurn:
    return ScriptedTurn(text="thinking", tool_calls=[(name, {"sql": sql})], entropy=[0.1])


def says(text: str) -> ScriptedTurn:
    return ScriptedTurn(text=text, entropy=[0.1])


# The agent's own first look is an AI message too: scripts begin at their second turn.
LOOK = says("never asked")


async def conversation(tmp_path: Path, *turns: ScriptedTurn) -> tuple[list[str], bool]:
    environment = SqliteEnvironment(build(tmp_path / "penguins.db"))
    forks = fork_all([environment])
    agent = make_agent(ScriptedChat(scripts=[[LOOK, *turns]]), ["database"])
    with use_environments(forks):
        state = await agent.ainvoke({"messages": [("user", TASK)]})
    right = is_right(forks["database"].path)
    forks["database"].discard()
    return [f"{message.name or message.type}: {message.text}" for message in state["messages"]], right


PLAN = call("query", "SELECT 1")


async def test_it_looks_plans_works_and_answers(tmp_path: Path):
    said, right = await conversation(
        tmp_path, PLAN, call("execute", RIGHT), call("query", "SELECT * FROM female_mass"), says("Gentoo.")
    )
    assert said[2].startswith("schema: table penguins (344 rows)")
    assert [line for line in said if line.startswith("guide")] == [f"guide: {guidance.PLAN}"]
    assert said[-1] == "ai: Gentoo." and right


async def test_an_answer_before_anything_is_stored_is_sent_back_once(tmp_path: Path):
    said, right = await conversation(tmp_path, PLAN, says("It is Adelie."), says("It is Adelie, I said."))
    assert said[-2:] == [f"guide: {guidance.STORE}", "ai: It is Adelie, I said."] and not right


async def test_an_answer_before_a_check_is_sent_back_once(tmp_path: Path):
    said, _ = await conversation(tmp_path, PLAN, call("execute", RIGHT), says("Done."), says("Gentoo."))
    assert said[-2:] == [f"guide: {guidance.CHECK}", "ai: Gentoo."]


async def test_a_model_that_never_stops_is_stopped(tmp_path: Path):
    said, _ = await conversation(tmp_path, *[call("query", "SELECT 1")] * 20)
    assert len([line for line in said if line.startswith("ai")]) == analyst.MAX_TURNS + 1
    assert said[-2] == f"guide: {guidance.ANSWER}"


async def test_a_second_question_of_a_conversation_is_looked_into_like_the_first(tmp_path: Path):
    environment = SqliteEnvironment(build(tmp_path / "penguins.db"))
    one = [LOOK, PLAN, call("execute", RIGHT), call("query", "SELECT * FROM female_mass"), says("Gentoo.")]
    two = [LOOK, PLAN, call("execute", RIGHT.replace("female_mass", "more")), says("Done."), says("Adelie.")]
    agent = make_agent(ScriptedChat(scripts=[[*one, *two]]), ["database"])
    forks = fork_all([environment])
    with use_environments(forks):
        first = await agent.ainvoke({"messages": [("user", TASK)]})
        state = await agent.ainvoke({"messages": [*first["messages"], ("user", "And of all?")]})
    forks["database"].discard()
    said = [
        f"{message.name or message.type}: {message.text}" for message in state["messages"][len(first["messages"]) :]
    ]
    assert [line for line in said if line.startswith("guide")] == [
        f"guide: {guidance.PLAN}",
        f"guide: {guidance.CHECK}",
    ]
    assert said[-1] == "ai: Adelie."
    ids = [call["id"] for message in state["messages"] for call in getattr(message, "tool_calls", ())]
    assert len(ids) == len({*ids})


def test_without_an_environment_there_is_no_agent():
    with pytest.raises(ConfigurationError, match="no tools"):
        make_agent(ScriptedChat(scripts=[]), [])


def test_the_checker_knows_right_from_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = build(tmp_path / "penguins.db")
    assert not is_right(path)
    assert main(["check", str(path)]) == 0 and "wrong" in capsys.readouterr().out
