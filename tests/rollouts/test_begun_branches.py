"""What becomes of a branch while it is begun: beside calls that write, and where its parent or the round ends."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.config import get_store
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.store.memory import InMemoryStore

from entcent_agents.budget import Budget
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.effects import READ, WRITE
from entcent_agents.environments import SqliteEnvironment, SqliteFork, current_environment
from entcent_agents.errors import ConfigurationError
from entcent_agents.nodes import Branching, ParallelRollouts, RolloutsState
from entcent_agents.rollouts import rollout
from entcent_agents.rollouts.branching import Tree
from entcent_agents.rollouts.deadlines import Deadline
from entcent_agents.rollouts.packing import unpack
from entcent_agents.trajectory import Rollout
from tests.chat_server import ChatServer
from tests.rollouts.deciding_server import DecidingServer
from tests.rollouts.test_branching import ASK, EAGER, ONE_DECISION, add, agent_of
from tests.table import new_table, rows

Serve = Callable[..., ChatServer]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return new_table(tmp_path / "world.db")


class Forgetting(InMemorySaver):
    """Tells when the thread of the first branch is about to be written, and gives others the time to act."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = asyncio.Event()
        self.acted = asyncio.Event()

    async def adelete_thread(self, thread_id: str) -> None:
        if thread_id.endswith(":1") and not self.branches.is_set():
            self.branches.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.acted.wait(), 1.0)
        await super().adelete_thread(thread_id)


async def test_what_a_task_beside_the_model_writes_is_in_the_fork_of_the_branch_that_has_its_result(
    serve: Serve, database: Path
):
    saver = Forgetting()

    @tool
    async def note(x: int) -> str:
        """Add a row."""
        with closing(sqlite3.connect(current_environment().path)) as connection, connection:
            connection.execute("INSERT INTO t VALUES (?)", (x,))
        return f"noted {x}"

    async def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage((await model.ainvoke(state["messages"])).text)]}

    async def ask(state: MessagesState) -> dict[str, Any]:
        await saver.branches.wait()
        return {"messages": [AIMessage("", tool_calls=[{"name": "note", "args": {"x": 7}, "id": "call"}])]}

    async def told(state: MessagesState) -> dict[str, Any]:
        saver.acted.set()
        return {}

    server = serve(DecidingServer(ONE_DECISION))
    model = ChatLogprobs(model="scripted", base_url=server.base_url, tool_calling="text", top_logprobs=4)
    model = model.bind_tools([add])
    inner = StateGraph(MessagesState)
    inner.add_node("ask", ask)
    inner.add_node("tools", ToolNode([note]))
    inner.add_node("told", told)
    inner.add_edge(START, "ask")
    inner.add_edge("ask", "tools")
    inner.add_edge("tools", "told")
    builder = StateGraph(MessagesState)
    builder.add_node("think", think)
    builder.add_node("beside", inner.compile())
    builder.add_edge(START, "think")
    builder.add_edge(START, "beside")
    node = ParallelRollouts(
        builder.compile(),
        n=2,
        branching=Branching(EAGER, initial=1),
        effects={"note": WRITE},
        environments=[SqliteEnvironment(database)],
        rollout_checkpointer=saver,
    )
    rollouts = await ran(node)
    assert [rollout.branch is not None for rollout in rollouts] == [False, True]
    assert [rows(fork.path) for rollout in rollouts for fork in node.forks_of(rollout)] == [[7], [7]]
    await node.forget(rollouts)


class Listing(InMemorySaver):
    """Tells when the thread of the first rollout is about to be copied, and waits until a task beside is done."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = asyncio.Event()
        self._done = asyncio.Event()

    async def alist(self, config: Any, **criteria: Any) -> AsyncIterator[CheckpointTuple]:
        if config["configurable"]["thread_id"].endswith(":0") and not self.listed.is_set():
            self.listed.set()
            await asyncio.wait_for(self._done.wait(), 15.0)
        async for found in super().alist(config, **criteria):
            yield found

    async def aput_writes(self, config: Any, writes: Sequence[tuple[str, Any]], *arguments: Any) -> None:
        await super().aput_writes(config, writes, *arguments)
        if self.listed.is_set() and "messages" in dict(writes):
            self._done.set()


async def test_what_a_task_beside_the_model_said_and_stored_is_known_to_the_branch_that_has_its_result(serve: Serve):
    saver = Listing()

    async def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage((await model.bind_tools([add]).ainvoke(state["messages"])).text)]}

    async def beside(state: MessagesState) -> dict[str, Any]:
        await saver.listed.wait()
        await get_store().aput(("notes",), "beside", {"x": 7})
        return {"messages": [await model.ainvoke(state["messages"])]}

    server = serve(DecidingServer(ONE_DECISION))
    model = ChatLogprobs(model="scripted", base_url=server.base_url, tool_calling="text", top_logprobs=4)
    builder = StateGraph(MessagesState).add_node("think", think).add_node("beside", beside)
    builder.add_edge(START, "think").add_edge(START, "beside")
    agent = builder.compile(store=InMemoryStore())
    node = ParallelRollouts(
        agent, n=2, branching=Branching(EAGER, initial=1), effects={"add": READ}, rollout_checkpointer=saver
    )
    parent, branch = await ran(node)
    said = [turn.message_id for turn in parent.trajectory.turns if turn.generated_tokens == 8]
    assert [turn.message_id for turn in branch.trajectory.turns if turn.reused_tokens == 8] == said
    stored = [unpack(rollout.output or "")["store"] for rollout in (parent, branch)]
    assert [[key for _, key, *_ in writes] for writes in stored] == [["beside"], ["beside"]]


async def ran(node: ParallelRollouts, checkpointer: Any = None) -> list[Rollout]:
    node.has_selector = True  # this one selects nothing
    builder = StateGraph(RolloutsState)
    builder.add_node("rollouts", node)
    builder.add_edge(START, "rollouts")
    graph = builder.compile(checkpointer=checkpointer)
    config: Any = {"configurable": {"thread_id": "request"}}
    state = await graph.ainvoke(ASK, config, **({"durability": "sync"} if checkpointer else {}))
    return [Rollout.from_dict(record) for record in state["rollouts"]]


@asynccontextmanager
async def durable(
    folder: Path, branch: str, while_begun: Callable[[], Awaitable[None]]
) -> AsyncIterator[Sequence[Any]]:
    """Two savers, and what is done while the first branch is written down."""
    async with AsyncExitStack() as stack:
        threads, saver = [
            await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(str(folder / f"{name}.db")))
            for name in ("threads", "rollouts")
        ]
        put, begun = saver.aput, asyncio.Event()

        async def aput(config: Any, *arguments: Any) -> Any:
            if config["configurable"]["thread_id"].endswith(branch) and not begun.is_set():
                begun.set()
                await while_begun()
            return await put(config, *arguments)

        saver.aput = aput  # type: ignore[method-assign]
        yield threads, saver, begun


def node_of(agent: Any, database: Path, saver: Any, **settings: Any) -> ParallelRollouts:
    return ParallelRollouts(
        agent,
        effects={"add": WRITE, "look": READ},
        environments=[SqliteEnvironment(database)],
        rollout_checkpointer=saver,
        **{"n": 4, **settings},
    )


async def left(saver: Any, folder: Path) -> list[Any]:
    """Threads and forks that nobody forgot."""
    threads = {found.config["configurable"]["thread_id"] async for found in saver.alist(None)}
    return [*threads, *folder.glob(".entcent-*/forks/*")]


async def test_a_branch_is_no_more_than_its_round_where_an_error_ends_that_while_it_is_begun(
    serve: Serve, database: Path, tmp_path: Path
):
    failing = asyncio.Event()

    async def until_the_other_fails() -> None:
        failing.set()
        await asyncio.sleep(0.3)

    async def fail(state: MessagesState) -> None:
        if "0" in asked:
            await failing.wait()
            raise ConfigurationError("nobody can go on")
        asked.append("0")

    asked: list[str] = []
    server = serve(DecidingServer(ONE_DECISION))
    builder = StateGraph(MessagesState)
    builder.add_node("fail", fail)
    builder.add_node("agent", agent_of(server))
    builder.add_edge(START, "fail")
    builder.add_edge("fail", "agent")
    async with durable(tmp_path, ":2", until_the_other_fails) as (threads, saver, _):
        # Branches have the numbers after the two that are begun.
        node = node_of(builder.compile(), database, saver, branching=Branching(EAGER, initial=2))
        with pytest.raises(ConfigurationError, match="nobody can go on"):
            await ran(node, threads)
        assert await left(saver, tmp_path) == []


async def test_an_answer_outlives_a_journal_that_cannot_be_written_while_it_branches(
    serve: Serve, database: Path, tmp_path: Path
):
    async def nothing() -> None: ...

    server = serve(DecidingServer(ONE_DECISION))
    async with durable(tmp_path, ":2", nothing) as (threads, saver, _):
        failed, put_writes = list[str](), saver.aput_writes

        async def aput_writes(config: Any, writes: Any, *arguments: Any) -> None:
            if writes[0][0] == "released" and not failed:
                failed.append(config["configurable"]["thread_id"])
                raise OSError("the disk is full")
            await put_writes(config, writes, *arguments)

        saver.aput_writes = aput_writes
        node = node_of(agent_of(server), database, saver, n=3, branching=Branching(EAGER, initial=2))
        rollouts = await ran(node, threads)
        assert len(failed) == 1
        assert [rollout.status for rollout in rollouts] == ["finished"] * 3
        # The other one said the same, and branches there in its place.
        assert [rollout.branch and rollout.branch.parent for rollout in rollouts][:2] == [None, None]
        assert rollouts[2].branch and rollouts[2].branch.parent == 1 - int(failed[0][-1])
        await node.forget(rollouts)


async def test_a_branch_of_a_rollout_that_was_cut_off_before_it_begins_leaves_its_place_to_another(
    serve: Serve, database: Path, monkeypatch: pytest.MonkeyPatch
):
    given_back, fork, give_back = threading.Event(), SqliteFork.fork, Tree.give_back
    cut_off: list[Deadline] = []

    def of_the_first(request: Any) -> Deadline | None:
        if cut_off:
            return None
        cut_off.append(Deadline(at=time.monotonic() + 4.0, limit="four seconds"))
        return cut_off[0]

    def slow(parent: SqliteFork) -> SqliteFork:
        if not given_back.is_set():
            time.sleep(cut_off[0].left_seconds + 0.2)
        return fork(parent)

    def told(tree: Tree, *arguments: Any) -> None:
        give_back(tree, *arguments)
        given_back.set()

    monkeypatch.setattr(SqliteFork, "fork", slow)
    monkeypatch.setattr(Tree, "give_back", told)
    monkeypatch.setattr(rollout, "deadline_of", of_the_first)
    script = DecidingServer(ONE_DECISION, hold=lambda asked: None if not asked else bool(given_back.wait(10)))
    node = node_of(
        agent_of(serve(script)),
        database,
        None,
        n=3,
        max_concurrency=1,
        branching=Branching(EAGER, initial=2),
    )
    rollouts = await ran(node)
    assert [rollout.status for rollout in rollouts] == ["unfinished", "finished", "finished"]
    assert [rollout.branch and rollout.branch.parent for rollout in rollouts] == [None, None, 1]
    await node.forget(rollouts)


async def test_making_forks_for_branches_is_not_the_time_of_a_model_call(
    serve: Serve, database: Path, monkeypatch: pytest.MonkeyPatch
):
    fork, limit = SqliteFork.fork, 3.0

    def slow(parent: SqliteFork) -> SqliteFork:
        time.sleep(limit + 0.5)
        return fork(parent)

    monkeypatch.setattr(SqliteFork, "fork", slow)
    script = DecidingServer(ONE_DECISION)
    budget = Budget(max_seconds_per_call=limit)
    rollouts = await ran(
        node_of(agent_of(serve(script)), database, None, n=2, budget=budget, branching=Branching(EAGER, initial=1))
    )
    assert [rollout.branch and rollout.branch.method for rollout in rollouts] == [None, "continued"]
    assert [rollout.usage.cut_calls for rollout in rollouts] == [0, 0]
