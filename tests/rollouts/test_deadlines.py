"""Deadlines of requests, rollouts and model calls: the best of what is done is taken, and the rest ends."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.errors import GraphBubbleUp
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from entcent_agents.budget import Budget
from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.chat.sampling import known_calls, own_calls
from entcent_agents.effects import EXTERNAL, READ, WRITE
from entcent_agents.environments import DirectoryEnvironment, current_environment
from entcent_agents.errors import ModelServerError, RolloutsFailedError
from entcent_agents.ledger import MemoryLedger
from entcent_agents.ledger.record import State
from entcent_agents.nodes import EntropyCentroidSelector, ParallelRollouts, Retries, guarded, unfinished
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.rollouts.deadlines import CallLimit
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from tests.chat_server import ChatServer, Reply, Request, says
from tests.passing_time import Clock
from tests.rollouts.worlds import ASK

LIMIT_SECONDS = 100
"""What is to be done in time, also on a busy machine. Nobody waits for it: the clock is put forward."""

MOMENTS = 100
"""More than what was cut off may hold up an answer, on a busy machine too."""

LATE = 36_000.0
"""Later than any limit."""


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


def forks(environment: DirectoryEnvironment) -> list[Path]:
    return [*environment.path.parent.glob(".entcent-*/forks/*")]


async def records_of(node: ParallelRollouts) -> list[dict[str, Any]]:
    """What the node writes, without a selector."""
    node.has_selector = True
    graph = StateGraph(Recorded).add_node("rollouts", node).add_edge(START, "rollouts").compile()
    return (await graph.ainvoke(ASK))["rollouts"]


# Requests


async def test_at_the_deadline_the_best_of_what_is_done_is_taken_and_the_rest_is_cut_off(flying):
    scripts = [[answer("late", LATE)], [answer("in time", 1)], [answer("late too", LATE)]]
    budget = Budget(max_seconds=LIMIT_SECONDS)
    node = ParallelRollouts(create_agent(ScriptedChat(scripts=scripts), []), n=3, budget=budget)
    with at_most(LIMIT_SECONDS + MOMENTS):
        first, second, third = await records_of(node)
    assert second["status"] == "finished"
    assert {(cut["status"], cut["error"]) for cut in (first, third)} == {
        ("unfinished", "cut off: max_seconds=100 of the request were over")
    }
    result = await graph_of(scripts, budget=budget).ainvoke(ASK)
    assert result["messages"][-1].text == "in time"


async def test_where_nothing_is_done_at_the_deadline_the_error_names_the_limit(flying):
    graph = graph_of([[answer("late", LATE)]] * 2, budget=Budget(max_seconds=LIMIT_SECONDS))
    with (
        at_most(LIMIT_SECONDS + MOMENTS),
        pytest.raises(RolloutsFailedError, match=r"0 of 2 .* cut off: max_seconds=100 of the request were over"),
    ):
        await graph.ainvoke(ASK)


async def test_a_quorum_that_the_deadline_leaves_unmet_is_an_error(flying):
    scripts = [[answer("in time")], [answer("late", LATE)]]
    with pytest.raises(RolloutsFailedError, match=r"1 of 2 rollouts finished, 2 needed.* max_seconds=100"):
        await graph_of(scripts, budget=Budget(max_seconds=LIMIT_SECONDS), min_finished=2).ainvoke(ASK)


async def test_rollouts_that_wait_for_room_are_cut_off_too_and_never_ask_the_model(flying):
    asked: list[int] = []

    def slowly(messages: Any) -> ScriptedTurn:
        asked.append(1)
        return answer("an answer", 0.6 * LIMIT_SECONDS)

    budget = Budget(max_seconds=LIMIT_SECONDS)
    node = ParallelRollouts(create_agent(ScriptedChat(scripts=[slowly]), []), n=4, max_concurrency=1, budget=budget)
    with at_most(LIMIT_SECONDS + MOMENTS):
        statuses = [record["status"] for record in await records_of(node)]
    assert statuses == ["finished", "unfinished", "unfinished", "unfinished"]
    assert len(asked) == 2


async def test_time_that_is_enough_cuts_nothing_off():
    scripts = [[answer("one", 0.05)], [answer("two")]]
    budget = Budget(max_seconds=LATE, max_seconds_per_rollout=LATE, max_seconds_per_call=LATE)
    node = ParallelRollouts(create_agent(ScriptedChat(scripts=scripts), []), n=2, budget=budget)
    assert [record["status"] for record in await records_of(node)] == ["finished", "finished"]
    assert other_tasks() == []


async def test_what_was_cut_off_keeps_its_turns_and_its_usage(flying):
    @tool
    async def wait() -> str:
        """Wait."""
        await asyncio.sleep(LATE)
        return "waited"

    agent = create_agent(ScriptedChat(scripts=[[calling("wait")]]), [wait])
    budget = Budget(max_seconds=LIMIT_SECONDS)
    node = ParallelRollouts(agent, n=1, effects={"wait": READ}, budget=budget, min_finished=1)
    node._require_quorum = _anything  # type: ignore[method-assign]
    (record,) = await records_of(node)
    assert len(record["turns"]) == 1
    assert record["usage"]["generated_tokens"] == 3


async def _anything(*_: Any) -> None:
    """No quorum."""


async def test_requests_of_rollouts_that_are_cut_off_end_at_the_server(serve, clock):
    server: ChatServer = serve(lambda request: [says("late", delay_seconds=LATE)] * request.n)
    graph = entropy_centroid_graph(create_agent(ours(server), []), n=4, budget=Budget(max_seconds=LIMIT_SECONDS))
    with pytest.raises(RolloutsFailedError, match="max_seconds=100"):
        await out_of_time(graph, server, clock, choices=4)
    assert await asyncio.to_thread(server.comes_to, lambda: server.hang_ups == 1)
    assert [request.n for request in server.answered] == [4]


@pytest.mark.parametrize("after", [0.05, 0.2, 0.21, 0.3])
async def test_a_cancellation_by_the_user_stays_one_at_the_deadline_too(after):
    task = asyncio.create_task(graph_of([[answer("late", 30)]] * 2, budget=Budget(max_seconds=0.2)).ainvoke(ASK))
    await asyncio.sleep(after)
    stopped = task.cancel()
    with pytest.raises(asyncio.CancelledError if stopped else RolloutsFailedError):
        await task


async def test_a_timeout_of_the_users_own_ends_the_request_before_its_deadline(flying):
    with at_most(LIMIT_SECONDS + MOMENTS), pytest.raises(TimeoutError):
        async with asyncio.timeout(LIMIT_SECONDS):
            await graph_of([[answer("late", LATE)]] * 2, budget=Budget(max_seconds=LATE / 2)).ainvoke(ASK)


# Rollouts


async def test_a_rollout_that_takes_longer_than_it_may_is_cut_off_and_the_others_go_on(flying):
    scripts = [[answer("late", LATE)], [calling("look", after=1), answer("done", 1)]]

    @tool
    async def look() -> str:
        """Look."""
        return "seen"

    agent = create_agent(ScriptedChat(scripts=scripts), [look])
    limit = Budget(max_seconds_per_rollout=LIMIT_SECONDS)
    node = ParallelRollouts(agent, n=2, effects={"look": READ}, budget=limit)
    with at_most(LIMIT_SECONDS + MOMENTS):
        cut, done = await records_of(node)
    assert (cut["status"], cut["error"]) == ("unfinished", "cut off: max_seconds_per_rollout=100 were over")
    assert done["status"] == "finished"


async def test_the_time_of_a_rollout_begins_when_it_has_room(flying):
    scripts = [[answer("one", 0.6 * LIMIT_SECONDS)]] * 3
    agent = create_agent(ScriptedChat(scripts=scripts), [])
    node = ParallelRollouts(agent, n=3, max_concurrency=1, budget=Budget(max_seconds_per_rollout=LIMIT_SECONDS))
    assert [record["status"] for record in await records_of(node)] == ["finished"] * 3


# What is left behind


async def test_a_tool_that_takes_long_to_stop_does_not_hold_up_the_answer_and_its_fork_goes_when_it_has(
    flying, tmp_path
):
    environment, stopped = directory(tmp_path), asyncio.Event()

    @tool
    async def work() -> str:
        """Work, and take long to stop."""
        try:
            await asyncio.sleep(LATE)
        finally:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(2 * MOMENTS)
            (current_environment().path / "late.txt").write_text("late")
            stopped.set()
        return "worked"

    scripts = [[calling("work"), answer("worked")], [answer("in time")]]
    budget = Budget(max_seconds=LIMIT_SECONDS)
    graph = graph_of(scripts, [work], budget=budget, effects={"work": WRITE}, environments=[environment])
    with at_most(LIMIT_SECONDS + MOMENTS):
        result = await graph.ainvoke(ASK)
    assert result["messages"][-1].text == "in time"
    assert not stopped.is_set()
    await stopped.wait()
    await all_to_end()
    assert forks(environment) == []
    assert list(environment.path.iterdir()) == []


def other_tasks() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


def finished(event: dict[str, Any], rollout: int) -> bool:
    """Whether an event of a stream says that this rollout has."""
    return (event.get("rollout"), event.get("state")) == (rollout, "finished")


async def out_of_time(graph: Any, server: ChatServer, clock: Clock, *, choices: int) -> Any:
    """What becomes of a request whose time is over as soon as the server was asked for so many choices."""
    running = asyncio.create_task(graph.ainvoke(ASK))
    assert await asyncio.to_thread(server.comes_to, lambda: sum(asked.n for asked in server.answered) == choices)
    clock.forward(LIMIT_SECONDS)
    return await running


async def all_to_end() -> None:
    """Wait for the tasks that are left, and for those that they leave in turn."""
    async with asyncio.timeout(LATE):
        while left := other_tasks():
            await asyncio.wait(left)


async def test_the_thread_of_a_tool_does_not_hold_up_the_answer_and_what_it_writes_lands_nowhere(clock, tmp_path):
    environment, let_go, done = directory(tmp_path), threading.Event(), threading.Event()
    entered = threading.Event()

    @tool
    def work() -> str:
        """Work in a thread."""
        fork = current_environment()
        entered.set()
        let_go.wait(60)
        try:
            fork.resolve("late.txt").write_text("late")
        finally:
            done.set()
        return "worked"

    scripts = [[calling("work"), answer("worked")], [answer("in time")]]
    budget = Budget(max_seconds=LIMIT_SECONDS)
    graph = graph_of(scripts, [work], budget=budget, effects={"work": WRITE}, environments=[environment])
    async for event in graph.astream(ASK, stream_mode="custom"):
        if finished(event, 1):
            assert await asyncio.to_thread(entered.wait, 60)
            clock.forward(LIMIT_SECONDS)
    assert not done.is_set()
    await all_to_end()
    assert forks(environment) == []
    let_go.set()
    assert await asyncio.to_thread(done.wait, 60)
    assert forks(environment) == []
    assert list(environment.path.iterdir()) == []


async def test_model_calls_of_synchronous_nodes_end_at_the_deadline_and_no_further_ones_are_made(serve, clock):
    server: ChatServer = serve(lambda request: [says("late", delay_seconds=LATE)] * request.n)
    model, ended = ours(server), threading.Semaphore(0)

    def ask(state: MessagesState) -> None:
        for _ in range(3):
            try:
                model.invoke(state["messages"])
            except asyncio.CancelledError:
                ended.release()

    agent = StateGraph(MessagesState).add_node(ask).add_edge(START, "ask").compile()
    graph = entropy_centroid_graph(agent, n=2, budget=Budget(max_seconds=LIMIT_SECONDS))
    with pytest.raises(RolloutsFailedError, match="max_seconds=100"):
        await out_of_time(graph, server, clock, choices=2)
    for _ in range(2 * 3):
        assert await asyncio.to_thread(ended.acquire, timeout=60)
    assert await asyncio.to_thread(server.comes_to, lambda: server.hang_ups == len(server.answered))
    assert sum(request.n for request in server.answered) == 2


# External calls


@pytest.fixture
def patience(monkeypatch):
    """As long as an external call takes here."""
    for module in ("cleanup", "deadlines"):
        monkeypatch.setattr(f"entcent_agents.rollouts.{module}.CLEAN_UP_SECONDS", 10 * LIMIT_SECONDS)


def paying(seconds: float, paid: list[str]):
    @tool
    async def pay() -> str:
        """Pay."""
        paid.append("begun")
        await asyncio.sleep(seconds)
        paid.append("done")
        return "paid"

    return pay


async def test_the_deadline_waits_for_an_external_call_that_is_being_made(flying, patience):
    paid: list[str] = []
    scripts = [[calling("pay"), answer("paid")]]
    tools, budget = [paying(5 * LIMIT_SECONDS, paid)], Budget(max_seconds=LIMIT_SECONDS)
    graph = graph_of(scripts, tools, n=2, budget=budget, effects={"pay": EXTERNAL})
    graph.checkpointer = InMemorySaver()
    config: Any = {"configurable": {"thread_id": "1"}}
    with pytest.raises(RolloutsFailedError, match="max_seconds=100 of the request") as failed:
        await graph.ainvoke(ASK, config)
    assert "pay was called, which stays on record" in str(failed.value)
    assert paid == ["begun", "done"]
    await all_to_end()


async def test_an_external_call_that_takes_too_long_even_then_is_in_doubt(flying):
    paid, ledger = list[str](), MemoryLedger()
    scripts = [[calling("pay"), answer("paid")]]
    tools, budget = [paying(LATE, paid)], Budget(max_seconds=LIMIT_SECONDS)
    graph = graph_of(scripts, tools, n=2, budget=budget, effects={"pay": EXTERNAL}, ledger=ledger)
    with (
        at_most(LIMIT_SECONDS + MOMENTS),
        pytest.raises(RolloutsFailedError, match="but pay was called, which stays on record"),
    ):
        await graph.ainvoke(ASK)
    assert paid == ["begun"]
    assert [record.state for record in await ledger.unsettled()] == [State.IN_DOUBT]


async def test_a_call_made_by_the_deadline_is_not_made_again_when_the_round_is_tried_again(flying, patience):
    paid: list[str] = []
    scripts = [[calling("pay"), answer("thanks")]]
    agent = create_agent(ScriptedChat(scripts=scripts), [paying(5 * LIMIT_SECONDS, paid)])
    node = ParallelRollouts(agent, n=2, effects={"pay": EXTERNAL}, budget=Budget(max_seconds=LIMIT_SECONDS))
    graph = _around(node)
    config: Any = {"configurable": {"thread_id": "1"}}
    with pytest.raises(RolloutsFailedError, match="max_seconds=100"):
        await graph.ainvoke(ASK, config)
    node.budget = Budget(max_seconds=LATE)
    result = await graph.ainvoke(None, config)
    assert result["messages"][-1].text == "thanks"
    assert paid == ["begun", "done"]


async def test_a_round_that_is_tried_again_waits_for_what_the_deadline_left_to_end(flying):
    tries, stopped = list[int](), asyncio.Event()

    @tool
    async def work() -> str:
        """Work; the first time for long, and take long to stop."""
        tries.append(len(tries))
        if tries[-1] == 0:
            try:
                await asyncio.sleep(LATE)
            finally:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(LIMIT_SECONDS)
                stopped.set()
        assert stopped.is_set()
        return "worked"

    agent = create_agent(ScriptedChat(scripts=[[calling("work"), answer("at last", after=2 * LIMIT_SECONDS)]]), [work])
    node = ParallelRollouts(agent, n=1, effects={"work": READ}, budget=Budget(max_seconds=LIMIT_SECONDS))
    graph, config = _around(node), {"configurable": {"thread_id": "1"}}
    with pytest.raises(RolloutsFailedError, match="max_seconds=100"):
        await graph.ainvoke(ASK, config)
    node.budget = Budget(max_seconds=LATE)
    result = await graph.ainvoke(None, config)
    assert result["messages"][-1].text == "at last"


def _around(node: ParallelRollouts) -> Any:
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


async def test_rounds_share_the_time_of_a_request_and_people_may_take_theirs(flying):
    scripts = [[calling("confirm", after=60), answer("confirmed", 60)]]
    config: Any = {"configurable": {"thread_id": "1"}}
    for seconds, enough in ((100, False), (300, True)):
        graph = graph_of(scripts, [confirm], n=2, effects={"confirm": READ}, budget=Budget(max_seconds=seconds))
        graph.checkpointer = InMemorySaver()
        asked = await graph.ainvoke(ASK, config)
        assert asked["__interrupt__"]
        await asyncio.sleep(seconds)
        if enough:
            answered = await graph.ainvoke(Command(resume="yes"), config)
            assert answered["messages"][-1].text == "confirmed"
        else:
            with pytest.raises(RolloutsFailedError, match="max_seconds=100 of the request"):
                await graph.ainvoke(Command(resume="yes"), config)


async def test_a_resumed_round_has_the_time_that_was_left_when_it_began(clock, tmp_path):
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "rollouts.db")) as saver:
        script, asked = slow_first(2, "done")
        graph = graph_of([script], n=2, budget=Budget(max_seconds=LIMIT_SECONDS), rollout_checkpointer=saver)
        graph.checkpointer = InMemorySaver()
        config: Any = {"configurable": {"thread_id": "1"}}
        running = asyncio.create_task(graph.ainvoke(ASK, config))
        while len(asked) < 2:  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        clock.forward(2 * LIMIT_SECONDS)  # the process is down
        result = await graph.ainvoke(None, config)
        assert result["messages"][-1].text == "done"


async def test_a_durable_rollout_that_was_cut_off_leaves_nothing_behind(clock, tmp_path):
    path = tmp_path / "rollouts.db"
    environment = directory(tmp_path)
    async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
        scripts = [[answer("late", LATE)], [answer("in time")], [answer("waiting", LATE)]]
        graph = graph_of(
            scripts, budget=Budget(max_seconds=LIMIT_SECONDS), rollout_checkpointer=saver, environments=[environment],
            max_concurrency=2,
        )  # fmt: skip
        said = []
        async for kind, event in graph.astream(ASK, stream_mode=["custom", "values"]):
            if kind == "custom" and finished(event, 1):
                clock.forward(LIMIT_SECONDS)
            elif kind == "values":
                said = event["messages"]
        assert said[-1].text == "in time"
        await all_to_end()
    with closing(sqlite3.connect(path)) as connection:
        threads = connection.execute("SELECT thread_id FROM checkpoints UNION SELECT thread_id FROM writes")
        assert threads.fetchall() == []
    assert forks(environment) == []


async def test_the_plain_run_after_the_deadline_has_no_time_either(flying):
    budget = Budget(max_seconds=LIMIT_SECONDS)
    graph = graph_of([[answer("late", LATE)]] * 2, budget=budget, on_unavailable="single")
    with at_most(LIMIT_SECONDS + MOMENTS), pytest.raises(RolloutsFailedError, match="max_seconds=100"):
        await graph.ainvoke(ASK)


# Model calls

QUICKLY = Retries(attempts=3, first_seconds=0.05, max_seconds=0.1)
EACH_CALL = Budget(max_seconds_per_call=LIMIT_SECONDS)


def slow_first(slow: int, text: str = "an answer"):
    """A model whose first calls take too long."""
    asked: list[int] = []

    def script(messages: Any) -> ScriptedTurn:
        asked.append(1)
        return answer(text, LATE if len(asked) <= slow else 0)

    return script, asked


async def test_a_call_that_takes_too_long_is_made_again(flying):
    script, asked = slow_first(2)
    graph = graph_of([script], budget=EACH_CALL, retries=QUICKLY)
    with at_most(2 * LIMIT_SECONDS + MOMENTS):
        assert (await graph.ainvoke(ASK))["messages"][-1].text == "an answer"
    assert len(asked) == 3


async def test_calls_that_always_take_too_long_fail_the_rollout_and_the_error_names_the_limit(flying):
    graph = graph_of([[answer("late", LATE)]], budget=EACH_CALL, retries=QUICKLY)
    with pytest.raises(RolloutsFailedError, match="no answer within max_seconds_per_call=100"):
        await graph.ainvoke(ASK)


async def test_turns_before_the_slow_call_are_not_sampled_again(flying):
    seen: list[int] = []

    def script(messages: Any) -> ScriptedTurn:
        seen.append(len(messages))
        if len(messages) == 1:
            return calling("look")
        return answer("seen", LATE if len(seen) == 2 else 0)

    @tool
    async def look() -> str:
        """Look."""
        return "a tree"

    graph = graph_of([script], [look], effects={"look": READ}, budget=EACH_CALL, retries=QUICKLY)
    assert (await graph.ainvoke(ASK))["messages"][-1].text == "seen"
    assert seen == [1, 3, 3]


@pytest.mark.parametrize(("effect", "retried"), [(READ, True), (WRITE, False)])
async def test_a_tool_that_asks_a_model_is_called_again_only_where_it_may_be(flying, tmp_path, effect, retried):
    inner, asked = slow_first(1, "inner")
    model = ScriptedChat(scripts=[inner])

    @tool
    async def consult() -> str:
        """Ask another model."""
        return (await model.ainvoke("what now?")).text

    graph = graph_of(
        [[calling("consult"), answer("done")]], [consult], effects={"consult": effect},
        environments=[directory(tmp_path)], budget=EACH_CALL, retries=QUICKLY,
    )  # fmt: skip
    if retried:
        assert (await graph.ainvoke(ASK))["messages"][-1].text == "done"
    else:
        with pytest.raises(RolloutsFailedError, match="max_seconds_per_call"):
            await graph.ainvoke(ASK)
    assert len(asked) == (2 if retried else 1)


def ours(server: ChatServer) -> BaseChatModel:
    return ChatLogprobs(model="scripted", base_url=server.base_url, timeout_seconds=LATE)


def foreign(server: ChatServer) -> BaseChatModel:
    return ChatOpenAI(
        model="scripted", base_url=server.base_url, api_key="none", logprobs=True, top_logprobs=5, timeout=LATE
    )


class SlowAtFirst:
    """A server whose first answers take hours."""

    def __init__(self, choices: int) -> None:
        self.slow = choices

    def __call__(self, request: Request) -> list[Reply]:
        slow, self.slow = self.slow > 0, self.slow - request.n
        return [says("a b c", delay_seconds=LATE if slow else 0)] * request.n


async def test_rollouts_whose_shared_call_took_too_long_share_the_next_one_too(serve, clock):
    server: ChatServer = serve(SlowAtFirst(4))
    graph = entropy_centroid_graph(create_agent(ours(server), []), n=4, budget=EACH_CALL, retries=QUICKLY)
    assert (await out_of_time(graph, server, clock, choices=4))["messages"][-1].text == "a b c"
    assert await asyncio.to_thread(server.comes_to, lambda: server.hang_ups == 1)
    first, *later = [request.n for request in server.answered]
    assert first == sum(later) == 4
    assert len(later) < 4  # one, where the machine has nothing else to do


@pytest.mark.parametrize("model", [ours, foreign])
async def test_a_slow_call_of_any_chat_model_ends_at_the_server(serve, clock, model):
    server: ChatServer = serve(SlowAtFirst(1))
    graph = entropy_centroid_graph(create_agent(model(server), []), n=1, budget=EACH_CALL, retries=QUICKLY)
    assert (await out_of_time(graph, server, clock, choices=1))["messages"][-1].text == "a b c"
    assert await asyncio.to_thread(server.comes_to, lambda: server.hang_ups == 1)
    assert len(server.answered) == 2


async def test_a_slow_call_of_a_synchronous_node_ends_at_the_server_and_its_thread_asks_no_more(serve, clock):
    server: ChatServer = serve(SlowAtFirst(1))
    model, ended, tries = ours(server), threading.Event(), []

    def ask(state: MessagesState) -> dict[str, Any]:
        tries.append(1)
        if len(tries) > 1:
            return {"messages": [model.invoke(state["messages"])]}
        try:
            model.invoke(state["messages"])
        finally:
            try:
                model.invoke(state["messages"])
            except asyncio.CancelledError:
                ended.set()
        raise AssertionError("the first call should not have come back")

    agent = StateGraph(MessagesState).add_node(ask).add_edge(START, "ask").compile()
    graph = entropy_centroid_graph(agent, n=1, budget=EACH_CALL, retries=QUICKLY)
    assert (await out_of_time(graph, server, clock, choices=1))["messages"][-1].text == "a b c"
    assert await asyncio.to_thread(ended.wait, 60)
    assert await asyncio.to_thread(server.comes_to, lambda: server.hang_ups == 1)
    assert len(server.answered) == 2


async def test_the_thread_of_an_attempt_that_was_cut_off_calls_no_tool_beside_the_next_attempt(clock, tmp_path):
    environment, let_go, refused = directory(tmp_path), threading.Event(), threading.Event()
    tries, left = [], []
    slow, _ = slow_first(1, "text")

    def script(messages: Any) -> ScriptedTurn:
        if len(tries) == 1:
            asyncio.get_running_loop().call_soon(clock.forward, LIMIT_SECONDS)
        return slow(messages)

    model = ScriptedChat(scripts=[script])

    @tool
    def note(line: str) -> str:
        """Write a line."""
        with (current_environment().path / "notes.txt").open("a") as file:
            file.write(f"{line}\n")
        return "noted"

    safe = guarded(note)

    async def work(state: MessagesState) -> dict[str, Any]:
        tries.append(1)
        number = len(tries)
        behind = asyncio.create_task(asyncio.to_thread(in_a_thread, number))
        if number == 1:
            left.append(behind)
        said = await model.ainvoke(state["messages"])
        await behind
        let_go.set()
        assert await asyncio.to_thread(refused.wait, 60)
        return {"messages": [said]}

    def in_a_thread(number: int) -> None:
        if number > 1:
            safe.invoke({"line": "second"})
            return
        let_go.wait(60)
        try:
            safe.invoke({"line": "first"})
        except GraphBubbleUp:
            refused.set()

    agent = StateGraph(MessagesState).add_node(work).add_edge(START, "work").compile()
    graph = entropy_centroid_graph(
        agent, n=1, effects={"note": WRITE}, environments=[environment], on_unscorable="fallback",
        budget=EACH_CALL, retries=QUICKLY,
    )  # fmt: skip
    assert (await graph.ainvoke(ASK))["messages"][-1].text == "text"
    assert (environment.path / "notes.txt").read_text() == "second\n"


async def test_the_deadline_of_the_request_ends_the_pause_before_a_retry(flying):
    patience = Retries(attempts=9, first_seconds=LATE, max_seconds=LATE)
    budget = Budget(max_seconds=LIMIT_SECONDS, max_seconds_per_call=LIMIT_SECONDS / 5)
    graph = graph_of([[answer("late", LATE)]], budget=budget, retries=patience)
    with at_most(LIMIT_SECONDS + MOMENTS), pytest.raises(RolloutsFailedError, match="max_seconds=100"):
        await graph.ainvoke(ASK)


async def test_calls_of_candidates_within_an_attempt_are_to_be_in_time_too():
    limit = CallLimit(0.01, TurnRecorder(), RuntimeError("late"))
    with pytest.raises(ModelServerError, match="max_seconds_per_call"), own_calls():
        async with limit.heeded():
            with own_calls():
                limit.begin(uuid4())
                await asyncio.sleep(5)


async def test_what_ends_the_calls_of_a_rollout_ends_those_of_its_candidates_and_refuses_later_ones():
    async def ask() -> None:
        with known_calls():
            await asyncio.sleep(5)

    with own_calls() as outer, own_calls():
        under_way = asyncio.create_task(ask())
        await asyncio.sleep(0)
        outer.close()
        for call in (under_way, asyncio.create_task(ask())):
            with pytest.raises(asyncio.CancelledError):
                await call
