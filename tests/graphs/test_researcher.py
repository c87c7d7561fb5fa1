"""The researcher alone, on a scripted model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from entcent_agents.environments import SqliteEnvironment, use_environments
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from graphs.researcher import ANSWER, make_agent
from tools.documents import build


@pytest.fixture(autouse=True)
def library(tmp_path: Path) -> Iterator[None]:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "whales.md").write_text("Whales sing in winter.")
    build(tmp_path / "library.db", tmp_path / "texts")
    fork = SqliteEnvironment(tmp_path / "library.db", "documents").fork()
    with use_environments({"documents": fork}):
        yield
    fork.discard()


def says(text: str) -> ScriptedTurn:
    return ScriptedTurn(text=text, entropy=[0.1])


async def conversation(*turns: ScriptedTurn, steps: int = 2) -> list[str]:
    agent = make_agent(ScriptedChat(scripts=[turns]), steps=steps)
    state = await agent.ainvoke({"messages": [("user", "When do whales sing?")]})
    return [message.text for message in state["messages"]]


async def test_each_step_of_the_plan_is_worked_on_and_then_the_answer():
    search = ScriptedTurn(text="I search.", tool_calls=[("search", {"query": "sing"})], entropy=[0.1])
    said = await conversation(
        says("I plan.\n1. First?\n2) Second?\n3. Third?"), says("a"), search, says("b"), says("c")
    )
    assert said[2:5] == ["First?", "a", "Second?"]
    assert said[6] == "[whales.md, part 1]\nWhales sing in winter."
    assert said[7:] == ["b", f"{ANSWER}\n\nWhen do whales sing?", "c"]  # no third step: two are the most


async def test_a_plan_without_steps_leads_to_the_answer():
    assert (await conversation(says("I know it."), says("In winter.")))[2:] == [
        f"{ANSWER}\n\nWhen do whales sing?",
        "In winter.",
    ]


def test_it_works_in_synchronous_code():
    agent = make_agent(ScriptedChat(scripts=[[says("1. When?"), says("In winter."), says("Winter.")]]))
    state = agent.invoke({"messages": [("user", "When do whales sing?")]})
    assert state["messages"][-1].text == "Winter."


async def test_a_second_question_of_a_conversation_is_the_one_that_is_answered():
    turns = [
        says("1. When?"),
        says("In winter."),
        says("Winter."),
        says("1. How?"),
        says("With songs."),
        says("Songs."),
    ]
    agent = make_agent(ScriptedChat(scripts=[turns]), steps=1)
    first = await agent.ainvoke({"messages": [("user", "When do whales sing?")]})
    state = await agent.ainvoke({"messages": [*first["messages"], ("user", "How do they sing?")]})
    assert [message.text for message in state["messages"]][-2:] == [f"{ANSWER}\n\nHow do they sing?", "Songs."]
