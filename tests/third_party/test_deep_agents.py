"""Deep agents: sub-agents, files in the state and on disk, questions to a person, and the middleware."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from deepagents import create_deep_agent
from deepagents.backends import FilesystemBackend
from langchain.agents.middleware import TodoListMiddleware
from langchain_core.messages import BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command

from entcent_agents.errors import RolloutsFailedError
from entcent_agents.ledger import SqliteLedger
from entcent_agents.middleware import EntropyCentroidMiddleware
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.rollouts.isolation import tools_of
from entcent_agents.testing import ScriptedTurn
from tests.third_party.deep_agent.scripted import model
from tests.third_party.pairs import PAIRS
from tests.third_party.saying import BEST, ROLLOUTS, model_of, said_since_asked, says

PAIR = PAIRS["deep_agent"]
ASK = {"messages": [HumanMessage(PAIR.requests[0])]}
CONFIG: Any = {"configurable": {"thread_id": "one"}}
TURN = 120
"""Tokens of one turn."""


def deep_agent(**settings: Any) -> tuple[Any, dict[str, Any]]:
    """The agent of the script, set otherwise."""
    script = PAIR.run("plain")
    mailer = {**script["mailer"], **settings.pop("mailer", {})}
    agent = create_deep_agent(
        model, [script["search"]], subagents=[mailer], middleware=[TodoListMiddleware()], **settings
    )
    return agent, script


def test_tools_of_its_sub_agents_are_seen():
    agent, _ = deep_agent()
    assert {"task", "write_file", "write_todos", "search", "send_mail"} <= {tool.name for tool in tools_of(agent)}


def test_files_and_todos_are_those_of_the_winner_alone():
    script = PAIR.run()
    result = script["app"].invoke(ASK)
    assert {path: file["content"] for path, file in result["files"].items()} == {"/notes.md": f"fact {BEST}"}
    assert [todo["content"] for todo in result["todos"]] == [f"note, then mail {BEST}"]


async def test_what_sub_agents_generate_is_counted_and_what_they_say_is_not_scored():
    script = PAIR.run()
    stream = script["app"].astream(ASK, stream_mode="custom")
    rounds = [event for event in [event async for event in stream] if event["type"] == "entcent.selection"]
    # Until the mail: three turns of the agent and two of the sub-agent; then one of each.
    assert [event["usage"]["generated_tokens"] for event in rounds] == [
        ROLLOUTS * 5 * TURN,
        ROLLOUTS * 7 * TURN,
    ]
    assert [event["held"] for event in rounds] == [["send_mail"], []]
    assert rounds[-1]["usage"]["rounds"] == 2 and script["sent"] == [f"ann{BEST}"]
    # Three bursts in the agent's first turn of four.
    assert rounds[-1]["candidates"][BEST]["value"] == pytest.approx(12.5 / (4 * TURN))


async def test_a_person_is_asked_once_about_what_the_sub_agent_of_the_winner_wants_to_send():
    agent, script = deep_agent(interrupt_on={"send_mail": True})
    graph = entropy_centroid_graph(agent, n=ROLLOUTS, effects=PAIR.effects, checkpointer=InMemorySaver())
    asked = (await graph.ainvoke(ASK, CONFIG))["__interrupt__"]
    assert [request["args"]["to"] for each in asked for request in each.value["action_requests"]] == [f"ann{BEST}"]
    assert script["sent"] == []
    result = await graph.ainvoke(Command(resume={"decisions": [{"type": "approve"}]}), CONFIG)
    assert "__interrupt__" not in result and script["sent"] == [f"ann{BEST}"]


async def test_another_process_goes_on_inside_the_sub_agent(tmp_path: Path):
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver:
        sent: list[str] = []
        for step in (ASK, Command(resume={"decisions": [{"type": "approve"}]})):
            agent, script = deep_agent(interrupt_on={"send_mail": True})
            graph = entropy_centroid_graph(
                agent,
                n=ROLLOUTS,
                effects=PAIR.effects,
                checkpointer=saver,
                rollout_checkpointer=saver,
                ledger=SqliteLedger(tmp_path / "ledger.db"),
            )
            result = await graph.ainvoke(step, CONFIG)
            sent += script["sent"]
        assert "__interrupt__" not in result and sent == [f"ann{BEST}"]
        assert result["messages"][-1].text == f"Fact {BEST} is on its way."


async def test_what_a_person_rejects_is_not_sent():
    agent, script = deep_agent(interrupt_on={"send_mail": True})
    graph = entropy_centroid_graph(agent, n=ROLLOUTS, effects=PAIR.effects, checkpointer=InMemorySaver())
    await graph.ainvoke(ASK, CONFIG)
    result = await graph.ainvoke(Command(resume={"decisions": [{"type": "reject"}]}), CONFIG)
    assert "__interrupt__" not in result and script["sent"] == []


@pytest.mark.parametrize("effects", [PAIR.effects, {}], ids=["task-reads", "nothing-declared"])
async def test_the_mail_is_sent_once(effects: dict[str, str]):
    agent, script = deep_agent()
    result = await entropy_centroid_graph(agent, n=ROLLOUTS, effects=effects).ainvoke(ASK)
    assert len(script["sent"]) == 1 and result["messages"][-2].text == f"Mailed to {script['sent'][0]}."


async def test_two_errands_at_once_are_held_twice_each_and_every_mail_is_sent_once():
    def turn(index: int, messages: Sequence[BaseMessage]) -> ScriptedTurn:
        asked = next(message.text for message in reversed(messages) if message.type == "human")
        errands = [("task", {"description": f"mail {who}", "subagent_type": "mailer"}) for who in ("ann", "bob")]
        said = [says(index, "Two errands.", *errands, first=True), says(index, "done")]
        if asked.startswith("mail"):
            mails = [
                ("send_mail", {"to": f"{asked} {which} {index}", "text": "hello"}) for which in ("first", "second")
            ]
            said = [*(says(index, "", mail) for mail in mails), says(index, f"did {asked}")]
        return said[said_since_asked(messages)]

    script = PAIR.run("plain")
    agent = create_deep_agent(model_of(turn), [], subagents=[script["mailer"]])
    result = await entropy_centroid_graph(agent, n=ROLLOUTS, effects={"task": "READ"}).ainvoke(ASK)
    assert [message.text for message in result["messages"][2:4]] == ["did mail ann", "did mail bob"]
    assert sorted(script["sent"]) == [
        f"mail {who} {which} {BEST}" for who in ("ann", "bob") for which in ("first", "second")
    ]


async def test_files_on_a_real_disk_are_written_for_the_winner_where_they_are_not_declared(tmp_path: Path):
    agent, script = deep_agent(backend=FilesystemBackend(root_dir=tmp_path, virtual_mode=True))
    effects = dict.fromkeys(["search", "read_file", "task"], "READ")
    await entropy_centroid_graph(agent, n=ROLLOUTS, effects=effects).ainvoke(ASK)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.md"]
    assert (tmp_path / "notes.md").read_text() == f"fact {BEST}"
    assert script["sent"] == [f"ann{BEST}"]


async def test_an_agent_that_takes_more_steps_than_a_rollout_may_says_what_to_set():
    agent, script = deep_agent()
    graph = entropy_centroid_graph(agent, n=ROLLOUTS, effects=PAIR.effects, recursion_limit=6)
    with pytest.raises(RolloutsFailedError, match="limit of 6 reached.* Pass recursion_limit=… to ParallelRollouts or"):
        await graph.ainvoke(ASK)
    assert script["sent"] == []


def assert_selected_turn_by_turn(result: dict[str, Any], sent: list[str]) -> None:
    texts = [message.text for message in result["messages"] if message.type == "ai"]
    assert texts == [
        f"A plan of {BEST}.",
        f"A note of {BEST}.",
        f"An errand of {BEST}.",
        f"Fact {BEST} is on its way.",
    ]
    assert result["files"]["/notes.md"]["content"] == f"fact {BEST}"
    assert [todo["content"] for todo in result["todos"]] == [f"note, then mail {BEST}"]
    assert sent == ["ann0"]  # the sub-agent has no such middleware: it runs once, as it does alone


def test_with_the_middleware_each_turn_is_selected_and_the_sub_agent_runs_once():
    script = PAIR.run("with_middleware")
    assert_selected_turn_by_turn(script["app"].invoke(ASK), script["sent"])


async def test_the_same_asynchronously_and_no_stream_shows_a_loser():
    script = PAIR.run("with_middleware")
    agent, saver = script["app"], InMemorySaver()
    agent = agent.copy({"checkpointer": saver})
    modes = ["values", "updates", "messages", "custom"]
    events = [event async for event in agent.astream(ASK, CONFIG, stream_mode=modes, subgraphs=True)]
    assert_selected_turn_by_turn((await agent.aget_state(CONFIG)).values, script["sent"])
    kept = [saved async for saved in saver.alist(None)]
    for place in (repr(events), repr(kept)):
        assert f"A note of {BEST}" in place
        for loser in (1, 3):  # the sub-agent speaks as 0
            assert [mark for mark in PAIR.marks_of(loser) if mark in place] == []
        assert "A plan of 0" not in place and "fact 0" not in place


def test_the_sub_agent_may_have_the_middleware_too():
    agent, script = deep_agent(mailer={"middleware": [EntropyCentroidMiddleware(n=ROLLOUTS)]})
    result = agent.invoke(ASK)
    assert len(script["sent"]) == 1 and result["messages"][-2].text == f"Mailed to {script['sent'][0]}."
