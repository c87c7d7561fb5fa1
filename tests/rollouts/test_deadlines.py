"""Deadlines of requests, rollouts and model calls: the best of what is done is taken, and the rest ends."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from entcent_agents.budget import Budget
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.effects import EXTERNAL, READ, WRITE
from entcent_agents.environments import DirectoryEnvironment, current_environment
from entcent_agents.errors import RolloutsFailedError
from entcent_agents.nodes import ParallelRollouts
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from tests.chat_server import ChatServer, says
from tests.rollouts.worlds import ASK

MOMENTS = 1.5
"""More than what was cut off may hold up an answer, on a busy machine too."""


class Recorded(MessagesState):
    rollouts: list[dict[str, Any]]


def answer(text: str, after: float = 0.0) -> ScriptedTurn:
    return ScriptedTurn(text=text, entropy=[0.1] * 5, delay_seconds=after)


def calling(*calls: str, after: float = 0.0) -> ScriptedTurn:
    return ScriptedTurn(tool_calls=[(name, {}) for name in calls], entropy=[0.1] * 3, delay_seconds=after)


def graph_of(scripts: Sequence[Any], tools: Sequence[Any] = (), *, budget: Budget, **settings: Any):
    settings = {"n": len(scripts), "on_unscorable": "fallback", **settings}
    agent = create_agent(ScriptedChat(scripts=scripts), list(tools))
    return entropy_centroid_graph(agent, budget=budget, **settings)


@contextmanager
def at_most(seconds: float):
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def directory(tmp_path: Path) -> DirectoryEnvironment:
    (tmp_path / "world" / "files").mkdir(parents=True)
    return DirectoryEnvironment(tmp_path / "world" / "files")


def beside(environment: DirectoryEnvironment) -> list[str]:
    return [path.name for path in environment.path.parent.iterdir() if path != environment.path]


async def records_of(node: ParallelRollouts) -> list[dict[str, Any]]:
    """What the node writes, without a selector."""
    node.has_selector = True
    graph = StateGraph(Recorded).add_node("rollouts", node).add_edge(START, "rollouts").compile()
    return (await graph.ainvoke(ASK))["rollouts"]


# Requests


async def test_at_the_deadline_the_best_of_what_is_done_is_taken_and_the_rest_is_cut_off():
    scripts = [[answer("late", 30)], [answer("in time", 0.05)], [answer("late too", 30)]]
    node = ParallelRollouts(create_agent(ScriptedChat(scripts=scripts), []), n=3, budget=Budget(max_seconds=0.4))
    with at_most(0.4 + MOMENTS):
        first, second, third = await records_of(node)
    assert second["status"] == "finished"
    assert {(cut["status"], cut["error"]) for cut in (first, third)} == {
        ("unfinished", "cut off: max_seconds=0.4 of the request were over")
    }
    result = await graph_of(scripts, budget=Budget(max_seconds=0.4)).ainvoke(ASK)
    assert result["messages"][-1].text == "in time"


async def test_where_nothing_is_done_at_the_deadline_the_error_names_the_limit():
    graph = graph_of([[answer("late", 30)]] * 2, budget=Budget(max_seconds=0.2))
    with (
        at_most(0.2 + MOMENTS),
        pytest.raises(RolloutsFailedError, match=r"0 of 2 .* cut off: max_seconds=0.2 of the request were over"),
    ):
        await graph.ainvoke(ASK)


async def test_a_quorum_that_the_deadline_leaves_unmet_is_an_error():
    scripts = [[answer("in time")], [answer("late", 30)]]
    with pytest.raises(RolloutsFailedError, match=r"1 of 2 rollouts finished, 2 needed.* max_seconds=0\.3"):
        await graph_of(scripts, budget=Budget(max_seconds=0.3), min_finished=2).ainvoke(ASK)


async def test_rollouts_that_wait_for_room_are_cut_off_too_and_never_ask_the_model():
    asked: list[int] = []

    def slowly(messages: Any) -> ScriptedTurn:
        asked.append(1)
        return answer("an answer", 0.3)

    node = ParallelRollouts(
        create_agent(ScriptedChat(scripts=[slowly]), []), n=4, max_concurrency=1, budget=Budget(max_seconds=0.5)
    )
    with at_most(0.5 + MOMENTS):
        statuses = [record["status"] for record in await records_of(node)]
    assert statuses == ["finished", "unfinished", "unfinished", "unfinished"]
    assert len(asked) == 2


async def test_time_that_is_enough_cuts_nothing_off():
    scripts = [[answer("one", 0.05)], [answer("two")]]
    budget = Budget(max_seconds=30, max_seconds_per_rollout=30, max_seconds_per_call=30)
    node = ParallelRollouts(create_agent(ScriptedChat(scripts=scripts), []), n=2, budget=budget)
    assert [record["status"] for record in await records_of(node)] == ["finished", "finished"]
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_what_was_cut_off_keeps_its_turns_and_its_usage():
    @tool
    async def wait() -> str:
        """Wait."""
        await asyncio.sleep(30)
        return "waited"

    agent = create_agent(ScriptedChat(scripts=[[calling("wait")]]), [wait])
    node = ParallelRollouts(agent, n=1, effects={"wait": READ}, budget=Budget(max_seconds=0.3), min_finished=1)
    node._require_quorum = _anything  # type: ignore[method-assign]
    (record,) = await records_of(node)
    assert len(record["turns"]) == 1
    assert record["usage"]["generated_tokens"] == 3


async def _anything(*_: Any) -> None:
    """No quorum."""


async def test_requests_of_rollouts_that_are_cut_off_end_at_the_server(serve):
    server: ChatServer = serve(lambda request: [says("late", delay_seconds=30)] * request.n)
    agent = create_agent(ChatLogprobs(model="scripted", base_url=server.base_url), [])
    with pytest.raises(RolloutsFailedError, match="max_seconds=0.5"):
        await entropy_centroid_graph(agent, n=4, budget=Budget(max_seconds=0.5)).ainvoke(ASK)
    assert await asyncio.to_thread(server.comes_to, lambda: server.hang_ups == 1, 2.0)
    assert [request.n for request in server.answered] == [4]


@pytest.mark.parametrize("after", [0.05, 0.2, 0.21, 0.3])
async def test_a_cancellation_by_the_user_stays_one_at_the_deadline_too(after):
    task = asyncio.create_task(graph_of([[answer("late", 30)]] * 2, budget=Budget(max_seconds=0.2)).ainvoke(ASK))
    await asyncio.sleep(after)
    stopped = task.cancel()
    with pytest.raises(asyncio.CancelledError if stopped else RolloutsFailedError):
        await task


async def test_a_timeout_of_the_users_own_ends_the_request_before_its_deadline():
    with at_most(0.2 + MOMENTS), pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await graph_of([[answer("late", 30)]] * 2, budget=Budget(max_seconds=20)).ainvoke(ASK)


# Rollouts


async def test_a_rollout_that_takes_longer_than_it_may_is_cut_off_and_the_others_go_on():
    scripts = [[answer("late", 30)], [calling("look", after=0.2), answer("done", 0.2)]]

    @tool
    async def look() -> str:
        """Look."""
        return "seen"

    agent = create_agent(ScriptedChat(scripts=scripts), [look])
    limit = Budget(max_seconds_per_rollout=1.0)
    node = ParallelRollouts(agent, n=2, effects={"look": READ}, budget=limit)
    with at_most(1.0 + MOMENTS):
        cut, done = await records_of(node)
    assert (cut["status"], cut["error"]) == ("unfinished", "cut off: max_seconds_per_rollout=1 were over")
    assert done["status"] == "finished"


async def test_the_time_of_a_rollout_begins_when_it_has_room():
    scripts = [[answer("one", 0.3)]] * 3
    agent = create_agent(ScriptedChat(scripts=scripts), [])
    node = ParallelRollouts(agent, n=3, max_concurrency=1, budget=Budget(max_seconds_per_rollout=0.8))
    assert [record["status"] for record in await records_of(node)] == ["finished"] * 3


# What is left behind


async def test_a_tool_that_takes_long_to_stop_does_not_hold_up_the_answer_and_its_fork_goes_when_it_has(tmp_path):
    environment, stopped = directory(tmp_path), asyncio.Event()

    @tool
    async def work() -> str:
        """Work, and take long to stop."""
        try:
            await asyncio.sleep(30)
        finally:
            with suppress_cancelled():
                await asyncio.sleep(1.5)
            (current_environment().path / "late.txt").write_text("late")
            stopped.set()
        return "worked"

    scripts = [[calling("work"), answer("worked")], [answer("in time")]]
    graph = graph_of(
        scripts, [work], budget=Budget(max_seconds=0.4), effects={"work": WRITE}, environments=[environment]
    )
    with at_most(0.4 + 1.0):
        result = await graph.ainvoke(ASK)
    assert result["messages"][-1].text == "in time"
    assert not stopped.is_set()
    await asyncio.wait_for(stopped.wait(), 10)
    await no_other_tasks()
    assert beside(environment) == []
    assert list(environment.path.iterdir()) == []


@contextmanager
def suppress_cancelled():
    try:
        yield
    except asyncio.CancelledError:
        pass


async def no_other_tasks(seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]:
            await asyncio.sleep(0.01)


async def test_the_thread_of_a_tool_does_not_hold_up_the_answer_and_what_it_writes_lands_nowhere(tmp_path):
    environment, let_go, done = directory(tmp_path), threading.Event(), threading.Event()

    @tool
    def work() -> str:
        """Work in a thread."""
        fork = current_environment()
        let_go.wait(20)
        try:
            fork.resolve("late.txt").write_text("late")
        finally:
            done.set()
        return "worked"

    scripts = [[calling("work"), answer("worked")], [answer("in time")]]
    graph = graph_of(
        scripts, [work], budget=Budget(max_seconds=0.4), effects={"work": WRITE}, environments=[environment]
    )
    with at_most(0.4 + MOMENTS):
        await graph.ainvoke(ASK)
    assert beside(environment) == []
    let_go.set()
    assert await asyncio.to_thread(done.wait, 10)
    assert beside(environment) == []
    assert list(environment.path.iterdir()) == []


async def test_model_calls_of_synchronous_nodes_end_at_the_deadline_and_no_further_ones_are_made(serve):
    server: ChatServer = serve(lambda request: [says("late", delay_seconds=30)] * request.n)
    model, ended = ChatLogprobs(model="scripted", base_url=server.base_url), threading.Semaphore(0)

    def ask(state: MessagesState) -> None:
        for _ in range(3):
            try:
                model.invoke(state["messages"])
            except asyncio.CancelledError:
                ended.release()

    agent = StateGraph(MessagesState).add_node(ask).add_edge(START, "ask").compile()
    with at_most(0.5 + MOMENTS), pytest.raises(RolloutsFailedError, match="max_seconds=0.5"):
        await entropy_centroid_graph(agent, n=2, budget=Budget(max_seconds=0.5)).ainvoke(ASK)
    for _ in range(2 * 3):
        assert await asyncio.to_thread(ended.acquire, timeout=10)
    assert await asyncio.to_thread(server.comes_to, lambda: server.hang_ups == len(server.answered), 2.0)
    assert sum(request.n for request in server.answered) == 2


# External calls


def paying(seconds: float, paid: list[str]):
    @tool
    async def pay() -> str:
        """Pay."""
        paid.append("begun")
        await asyncio.sleep(seconds)
        paid.append("done")
        return "paid"

    return pay


async def test_the_deadline_waits_for_an_external_call_that_is_being_made():
    paid: list[str] = []
    scripts = [[calling("pay"), answer("paid")]]
    graph = graph_of(scripts, [paying(1.5, paid)], n=2, budget=Budget(max_seconds=0.8), effects={"pay": EXTERNAL})
    graph.checkpointer = InMemorySaver()
    config: Any = {"configurable": {"thread_id": "1"}}
    with pytest.raises(RolloutsFailedError, match=r"max_seconds=0\.8 of the request") as failed:
        await graph.ainvoke(ASK, config)
    assert "pay was called, which stays on record" in str(failed.value)
    assert paid == ["begun", "done"]
    await no_other_tasks()


async def test_a_call_made_by_the_deadline_is_not_made_again_when_the_round_is_tried_again():
    paid: list[str] = []
    scripts = [[calling("pay"), answer("thanks")]]
    agent = create_agent(ScriptedChat(scripts=scripts), [paying(1.0, paid)])
    node = ParallelRollouts(agent, n=2, effects={"pay": EXTERNAL}, budget=Budget(max_seconds=0.6))
    graph = _around(node)
    config: Any = {"configurable": {"thread_id": "1"}}
    with pytest.raises(RolloutsFailedError, match=r"max_seconds=0\.6"):
        await graph.ainvoke(ASK, config)
    node.budget = Budget(max_seconds=20)
    result = await graph.ainvoke(None, config)
    assert result["messages"][-1].text == "thanks"
    assert paid == ["begun", "done"]


def _around(node: ParallelRollouts) -> Any:
    from langgraph.graph import END

    from entcent_agents.nodes import EntropyCentroidSelector, unfinished

    builder = StateGraph(MessagesState)
    builder.add_node("rollouts", node)
    builder.add_node("select", EntropyCentroidSelector(node, on_unscorable="fallback"))
    builder.add_edge(START, "rollouts").add_edge("rollouts", "select")
    builder.add_conditional_edges("select", unfinished, {True: "rollouts", False: END})
    return builder.compile(checkpointer=InMemorySaver())


# Rounds


@tool
def confirm() -> str:
    """Ask a person."""
    return f"the person says {interrupt('may I?')}"


async def test_rounds_share_the_time_of_a_request_and_people_may_take_theirs():
    scripts = [[calling("confirm", after=0.5), answer("confirmed", 0.5)]]
    config: Any = {"configurable": {"thread_id": "1"}}
    for seconds, enough in ((0.8, False), (3.0, True)):
        graph = graph_of(scripts, [confirm], n=2, effects={"confirm": READ}, budget=Budget(max_seconds=seconds))
        graph.checkpointer = InMemorySaver()
        asked = await graph.ainvoke(ASK, config)
        assert asked["__interrupt__"]
        await asyncio.sleep(seconds if not enough else 2.2)
        if enough:
            answered = await graph.ainvoke(Command(resume="yes"), config)
            assert answered["messages"][-1].text == "confirmed"
        else:
            with pytest.raises(RolloutsFailedError, match=r"max_seconds=0\.8 of the request"):
                await graph.ainvoke(Command(resume="yes"), config)


async def test_a_resumed_round_has_the_time_that_was_left_when_it_began(tmp_path):
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "rollouts.db")) as saver:
        scripts = [[answer("done", 0.6)]]
        graph = graph_of(scripts, n=2, budget=Budget(max_seconds=1.5), rollout_checkpointer=saver)
        graph.checkpointer = InMemorySaver()
        config: Any = {"configurable": {"thread_id": "1"}}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await graph.ainvoke(ASK, config)
        await asyncio.sleep(1.5)  # the process is down
        result = await graph.ainvoke(None, config)
        assert result["messages"][-1].text == "done"


async def test_a_durable_rollout_that_was_cut_off_leaves_nothing_behind(tmp_path):
    path = tmp_path / "rollouts.db"
    environment = directory(tmp_path)
    async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
        scripts = [[answer("late", 30)], [answer("in time", 0.1)], [answer("waiting", 30)]]
        graph = graph_of(
            scripts, budget=Budget(max_seconds=1.0), rollout_checkpointer=saver, environments=[environment],
            max_concurrency=2,
        )  # fmt: skip
        with at_most(1.0 + MOMENTS):
            assert (await graph.ainvoke(ASK))["messages"][-1].text == "in time"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT thread_id FROM checkpoints UNION SELECT thread_id FROM writes").fetchall() == []
    assert beside(environment) == []


async def test_the_plain_run_after_the_deadline_has_no_time_either():
    graph = graph_of([[answer("late", 30)]] * 2, budget=Budget(max_seconds=0.3), on_unavailable="single")
    with at_most(0.3 + MOMENTS), pytest.raises(RolloutsFailedError, match="max_seconds=0.3"):
        await graph.ainvoke(ASK)
