"""Cancelled rollouts: their requests end at the server, and what their threads still do lands nowhere."""

from __future__ import annotations

import asyncio
import gc
import math
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.chat.sampling import QUIET_SECONDS, SamplingPool, use_pool
from entcent_agents.effects import READ, WRITE
from entcent_agents.environments import DirectoryEnvironment, MemoryEnvironment, SqliteEnvironment, current_environment
from entcent_agents.errors import ConfigurationError, RolloutsFailedError
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.rollouts.cleanup import discard
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from tests.chat_server import ChatServer, Reply, Request, says

ASK = {"messages": [HumanMessage("go")]}
LATE = says("a b c d", delay_seconds=math.inf)
STALLED = says("a b c d", breaks_after=2, breaks_how="stall")

slowly = pytest.mark.parametrize("reply", [LATE, STALLED], ids=["silent", "streaming"])


@tool
def search() -> str:
    """Search the library."""
    return "nothing"


def ours(server: ChatServer, **settings) -> ChatLogprobs:
    return ChatLogprobs(model="scripted", base_url=server.base_url, **settings)


def alone(server: ChatServer) -> BaseChatModel:
    return ours(server, coalesce=False)


def foreign(server: ChatServer) -> BaseChatModel:
    return ChatOpenAI(model="scripted", base_url=server.base_url, api_key="none", logprobs=True, top_logprobs=5)


def foreign_streaming(server: ChatServer) -> BaseChatModel:
    return foreign(server).model_copy(update={"streaming": True})


async def come_to(server: ChatServer, state, seconds: float = 60.0) -> bool:
    """Whether it does; meanwhile the loop goes on, and generators that LangChain left open are collected and closed."""
    until = time.monotonic() + seconds
    while not await asyncio.to_thread(server.comes_to, state, 0.5):
        if time.monotonic() > until:
            return False
        gc.collect()
    return True


async def cancelled(task: asyncio.Task) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# Requests


@slowly
@pytest.mark.parametrize("model", [alone, foreign, foreign_streaming])
@pytest.mark.parametrize("tools", [[], [search]], ids=["no tools", "tools"])
async def test_cancelling_the_graph_ends_every_request(serve, reply, model, tools):
    server, saver = serve(lambda request: [reply]), InMemorySaver()
    agent = create_agent(model(server), tools)
    graph = entropy_centroid_graph(agent, n=4, effects={"search": READ} if tools else {}, rollout_checkpointer=saver)
    task = asyncio.create_task(graph.ainvoke(ASK))
    assert await come_to(server, lambda: len(server.answered) == 4)
    await cancelled(task)
    assert await come_to(server, lambda: server.hang_ups == 4)
    assert len(server.answered) == 4
    assert list(saver.storage) == []


async def test_a_cancellation_that_is_swallowed_comes_again(monkeypatch):
    """As `asyncio.wait_for` of Python 3.11 swallows one that comes with the next chunk of a stream."""
    monkeypatch.setattr("entcent_agents.rollouts.cleanup.CLEAN_UP_SECONDS", 0.1)
    asked, swallowed = asyncio.Event(), 0

    async def ask(state: MessagesState):
        nonlocal swallowed
        while swallowed < 2:
            asked.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
        await asyncio.Event().wait()

    agent = StateGraph(MessagesState).add_node(ask).add_edge(START, "ask").compile()
    task = asyncio.create_task(entropy_centroid_graph(agent, n=1).ainvoke(ASK))
    await asked.wait()
    await cancelled(task)
    assert swallowed == 2


@slowly
async def test_cancelling_the_graph_ends_the_request_that_all_rollouts_share(serve, reply):
    server = serve(lambda request: [reply] * request.n)
    task = asyncio.create_task(entropy_centroid_graph(create_agent(ours(server), []), n=4).ainvoke(ASK))
    assert await come_to(server, lambda: len(server.answered) == 1)
    await cancelled(task)
    assert await come_to(server, lambda: server.hang_ups == 1)
    assert [request.n for request in server.answered] == [4]


@slowly
async def test_cancelling_the_graph_ends_each_of_the_requests_that_a_group_was_split_into(serve, reply):
    server = serve(lambda request: [reply] * request.n, max_n=2)
    task = asyncio.create_task(entropy_centroid_graph(create_agent(ours(server), []), n=4).ainvoke(ASK))
    assert await come_to(server, lambda: [request.n for request in server.answered] == [4, 2])
    await cancelled(task)
    assert await come_to(server, lambda: server.hang_ups == 1)


@slowly
async def test_one_cancelled_rollout_of_several_leaves_the_shared_request_to_the_others(serve, reply):
    server = serve(lambda request: [reply] * request.n)
    agent = create_agent(ours(server), [])
    with use_pool(SamplingPool()):
        first, *others = (asyncio.create_task(agent.ainvoke(ASK)) for _ in range(3))
        assert await come_to(server, lambda: len(server.answered) == 1)
        await cancelled(first)
        assert not await come_to(server, lambda: server.hang_ups > 0, 0.5)
        for other in others:
            await cancelled(other)
    assert await come_to(server, lambda: server.hang_ups == 1)
    assert [request.n for request in server.answered] == [3]


async def test_the_others_get_their_answers_when_one_is_cancelled(serve):
    left = threading.Event()

    def script(request: Request) -> list[Reply]:
        return [says(f"answer {i}", after=left) for i in range(request.n)]

    server = serve(script)
    agent = create_agent(ours(server), [])
    with use_pool(SamplingPool()):
        first, *others = (asyncio.create_task(agent.ainvoke(ASK)) for _ in range(3))
        assert await come_to(server, lambda: len(server.answered) == 1)
        await cancelled(first)
        left.set()
        answers = [(await other)["messages"][-1].text for other in others]
    assert answers == ["answer 1", "answer 2"]
    assert server.hang_ups == 0


async def test_a_call_that_is_cancelled_in_the_moment_when_it_would_be_sent_is_not_sent():
    sent, failed, loop = [], [], asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failed.append(context))

    async def send(*call):
        sent.append(call)
        return []

    call = asyncio.create_task(SamplingPool().sample("caller", "prompt", send))
    await asyncio.sleep(0)
    loop.call_later(QUIET_SECONDS / 2, call.cancel)
    time.sleep(3 * QUIET_SECONDS)  # noqa: ASYNC251 (both are due now)
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.sleep(QUIET_SECONDS)
    assert (sent, failed) == ([], [])


@slowly
async def test_an_error_that_ends_all_rollouts_ends_their_requests(serve, reply):
    server = serve(lambda request: [reply])
    model, asked = alone(server), []

    async def ask(state: MessagesState):
        asked.append(len(asked))
        if len(asked) == 4:
            await come_to(server, lambda: len(server.answered) == 3)
            raise ConfigurationError("this agent cannot work")
        return {"messages": [await model.ainvoke(state["messages"])]}

    agent = StateGraph(MessagesState).add_node(ask).add_edge(START, "ask").compile()
    with pytest.raises(ConfigurationError, match="this agent cannot work"):
        await entropy_centroid_graph(agent, n=4).ainvoke(ASK)
    assert await come_to(server, lambda: server.hang_ups == 3)


@slowly
@pytest.mark.parametrize("coalesce", [True, False])
async def test_calls_from_synchronous_nodes_end_too_and_no_further_ones_are_made(serve, reply, coalesce):
    server = serve(lambda request: [reply] * request.n)
    model, ended = ours(server, coalesce=coalesce), threading.Semaphore(0)

    def ask(state: MessagesState):
        for _ in range(3):
            try:
                model.invoke(state["messages"])
            except asyncio.CancelledError:
                ended.release()

    agent = StateGraph(MessagesState).add_node(ask).add_edge(START, "ask").compile()
    task = asyncio.create_task(entropy_centroid_graph(agent, n=2).ainvoke(ASK))
    assert await come_to(server, lambda: sum(request.n for request in server.answered) == 2)
    requests = len(server.answered)
    await cancelled(task)
    assert await come_to(server, lambda: server.hang_ups == requests)
    for _ in range(2 * 3):
        assert await asyncio.to_thread(ended.acquire, timeout=60)
    assert len(server.answered) == requests


# Everywhere


def noting(environment, saver):
    @tool
    async def note() -> str:
        """Note something."""
        current_environment().value["noted"] = True
        return "noted"

    turns = [ScriptedTurn(text="t", tool_calls=[("note", {})]), ScriptedTurn(text="done")]
    return entropy_centroid_graph(
        create_agent(ScriptedChat(scripts=[turns]), [note]),
        n=2,
        effects={"note": WRITE},
        environments=[environment],
        rollout_checkpointer=saver,
        on_unscorable="fallback",
    )


async def test_wherever_a_request_is_cancelled_nothing_of_it_is_left():
    cancelled_at, done = 0, False
    while not done:
        environment, saver = MemoryEnvironment({}), InMemorySaver()
        request = asyncio.create_task(noting(environment, saver).ainvoke(ASK))
        for _ in range(cancelled_at):
            await asyncio.sleep(0)
        done = request.done()
        request.cancel()
        await asyncio.wait([request])
        assert done or request.cancelled() or environment.value == {"noted": True}
        assert (environment.forks, [*saver.storage]) == ({}, []), f"after {cancelled_at} steps of the loop"
        cancelled_at += 3
    assert cancelled_at > 60


async def test_who_stops_listening_between_rollouts_and_selection_leaves_nothing():
    environment, saver = MemoryEnvironment({}), InMemorySaver()
    stream = noting(environment, saver).astream(ASK, stream_mode="updates")
    async for update in stream:
        assert [*update] == ["rollouts"]
        break
    await stream.aclose()
    assert (environment.value, environment.forks, [*saver.storage]) == ({}, {}, [])


async def test_rollouts_stay_where_a_checkpointer_lets_the_request_go_on():
    environment, saver = MemoryEnvironment({}), InMemorySaver()
    graph = noting(environment, saver)
    graph.checkpointer = InMemorySaver()
    config: Any = {"configurable": {"thread_id": "1"}}
    await graph.ainvoke(ASK, config, interrupt_before=["select"])
    assert len(environment.forks) == 2
    result = await graph.ainvoke(None, config)
    assert result["messages"][-1].text == "done"
    assert (environment.value, environment.forks) == ({"noted": True}, {})


# Threads


class Held:
    """A sync tool that a test holds in the middle of its work; `late` is what it does when it is let go."""

    def __init__(self, environment, late) -> None:
        self.environment, self.late = environment, late
        self.at_work, self.let_go, self.done = threading.Event(), threading.Event(), threading.Event()

    def graph(self, n: int = 1, *, beside=()):
        @tool
        def change() -> str:
            """Change the world."""
            fork = current_environment()
            self.at_work.set()
            self.let_go.wait(60)
            try:
                self.late(fork)
            finally:
                self.done.set()
            return "changed"

        calls = [("change", {}), *((other.name, {}) for other in beside)]
        model = ScriptedChat(scripts=[[ScriptedTurn(tool_calls=calls), ScriptedTurn(text="done")]])
        agent = create_agent(model, [change, *beside])
        effects = {"change": WRITE, **{other.name: READ for other in beside}}
        return entropy_centroid_graph(agent, n=n, effects=effects, environments=[self.environment])

    async def cancelled_at_work(self, *, lets_go_first: bool = False) -> None:
        task = asyncio.create_task(self.graph().ainvoke(ASK))
        assert await asyncio.to_thread(self.at_work.wait, 60)
        if lets_go_first:
            self.let_go.set()
        await cancelled(task)

    async def ends(self) -> None:
        self.let_go.set()
        assert await asyncio.to_thread(self.done.wait, 60)


def write_at_path(fork) -> None:
    folder = fork.path / "new"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "late.txt").write_text("late")


def write_resolved(fork) -> None:
    fork.resolve("late.txt").write_text("late")


def insert(fork) -> None:
    with fork.connect() as connection:
        connection.execute("INSERT INTO notes VALUES ('late')")


def insert_at_path(fork) -> None:
    with closing(sqlite3.connect(fork.path)) as connection:
        connection.execute("INSERT INTO notes VALUES ('late')")
        connection.commit()


def directory(tmp_path: Path) -> DirectoryEnvironment:
    (tmp_path / "world" / "files").mkdir(parents=True)
    (tmp_path / "world" / "files" / "a.txt").write_text("a")
    return DirectoryEnvironment(tmp_path / "world" / "files")


def database(tmp_path: Path) -> SqliteEnvironment:
    (tmp_path / "world").mkdir()
    with closing(sqlite3.connect(tmp_path / "world" / "notes.db")) as connection:
        connection.execute("CREATE TABLE notes (note TEXT)")
        connection.commit()
    return SqliteEnvironment(tmp_path / "world" / "notes.db")


def content(environment) -> list[tuple]:
    if isinstance(environment, SqliteEnvironment):
        with closing(sqlite3.connect(environment.path)) as connection:
            return connection.execute("SELECT * FROM notes").fetchall()
    return sorted((str(path.relative_to(environment.path)), path.read_text()) for path in environment.path.iterdir())


def left_of(environment) -> list[str]:
    """What stands beside the real thing once somebody opens it anew."""
    type(environment)(environment.path)
    return [path.name for path in environment.path.parent.iterdir() if path != environment.path]


def forks_of(environment) -> list[Path]:
    return [*environment.path.parent.glob(".entcent-*/forks/*")]


async def come_true(condition, seconds: float = 60.0) -> bool:
    """Whether it does, and stays so for a moment."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await asyncio.sleep(0.3)
        if condition():
            return True
    return False


LATE_WRITES = [
    pytest.param(directory, write_resolved, id="directory, resolved"),
    pytest.param(directory, write_at_path, id="directory, by path"),
    pytest.param(database, insert, id="database, connected"),
    pytest.param(database, insert_at_path, id="database, by path"),
]


@pytest.mark.parametrize(("world", "late"), LATE_WRITES)
async def test_what_the_thread_of_a_cancelled_rollout_writes_lands_nowhere(tmp_path, world, late):
    environment = world(tmp_path)
    before = content(environment)
    held = Held(environment, late)
    await held.cancelled_at_work()
    assert not held.done.is_set()
    await held.ends()
    assert content(environment) == before
    assert left_of(environment) == []


@pytest.mark.parametrize(("world", "late"), LATE_WRITES)
async def test_a_fork_that_a_late_thread_writes_anew_goes_when_the_thread_has_ended(tmp_path, world, late):
    environment = world(tmp_path)
    held = Held(environment, late)
    await held.cancelled_at_work()
    assert forks_of(environment) == []
    await held.ends()
    assert await come_true(lambda: forks_of(environment) == [])


async def test_a_rollout_that_failed_beside_a_thread_leaves_no_fork_either(tmp_path):
    environment = directory(tmp_path)
    held = Held(environment, write_at_path)

    @tool
    async def fail() -> str:
        """Fail."""
        await asyncio.to_thread(held.at_work.wait, 60)
        raise RuntimeError("out of order")

    graph = held.graph(beside=[fail])
    with pytest.raises(RolloutsFailedError, match="RuntimeError"):
        await graph.ainvoke(ASK)
    await held.ends()
    assert await come_true(lambda: forks_of(environment) == [])


async def test_a_thread_that_goes_on_writing_does_not_keep_a_cancellation_from_ending(tmp_path):
    environment = directory(tmp_path)
    stop = threading.Event()

    def write_on(fork) -> None:
        number = 0
        while not stop.is_set():
            folder = fork.path / f"{number % 50}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.txt").write_text("late")
            number += 1

    held = Held(environment, write_on)
    threading.Timer(1.0, stop.set).start()
    await held.cancelled_at_work(lets_go_first=True)
    await held.ends()
    assert left_of(environment) == []
    assert content(environment) == [("a.txt", "a")]


async def test_a_fork_that_is_written_to_for_too_long_is_left_to_the_sweep(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("entcent_agents.rollouts.cleanup.CLEAN_UP_SECONDS", 0.3)
    fork = Written(directory(tmp_path).fork())
    await discard([fork])
    assert fork.tries > 1
    assert "is still written to and was not removed" in caplog.text


class Written:
    """A fork that cannot be removed for a while."""

    def __init__(self, fork) -> None:
        self.fork, self.reference, self.tries, self.free = fork, fork.reference, 0, threading.Event()

    def discard(self) -> None:
        self.tries += 1
        if not self.free.is_set():
            raise OSError(39, "Directory not empty")
        self.fork.discard()


async def test_a_fork_that_could_not_be_removed_in_time_is_removed_later(tmp_path, monkeypatch):
    monkeypatch.setattr("entcent_agents.rollouts.cleanup.CLEAN_UP_SECONDS", 0.3)
    environment = directory(tmp_path)
    fork = Written(environment.fork())
    await discard([fork])
    assert len(forks_of(environment)) == 1
    fork.free.set()
    assert await come_true(lambda: forks_of(environment) == [])
