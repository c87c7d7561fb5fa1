"""A process that is killed while its rollouts branch, and another one that goes on with what is on record."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph

from entcent_agents.branching import BranchPolicy
from entcent_agents.budget import Budget
from entcent_agents.chat.model import ChatLogprobs, aclose_clients
from entcent_agents.effects import READ, WRITE
from entcent_agents.environments import SqliteEnvironment
from entcent_agents.errors import EnvironmentUnusableError
from entcent_agents.nodes import Branching, ParallelRollouts, RolloutsState
from entcent_agents.rollouts.branching import Tree
from entcent_agents.rollouts.heritage import Heritage, Origin
from entcent_agents.rollouts.places import Places
from entcent_agents.rollouts.store import RolloutStore
from entcent_agents.rollouts.writing import heritage_of, recorded_branches
from entcent_agents.trajectory import Rollout
from tests.branching.turns import call as logprobs_of
from tests.chat_server import ChatServer
from tests.forks import FORKS
from tests.rollouts.deciding_server import DecidingServer, call
from tests.rollouts.steps import Steps
from tests.rollouts.test_branching import ASK, EAGER, add, agent_of, turns
from tests.table import new_table, rows

CONFIG: Any = {"configurable": {"thread_id": "request"}}
MESSAGE = re.compile(rb"(?:lc_run-|run)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?:-\d+)?")
SCRIPT = turns(call(["add"], ["1", "2"]), call(["add"], ["3", "4"]), call(["add"], ["5"]))


class _Server:
    """What `agent_of` needs of a server in another process."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url


def live(folder: Path, base_url: str, steps: Steps) -> None:
    """The process that is killed."""
    asyncio.run(_serve(folder, base_url, steps))


async def _serve(folder: Path, base_url: str, steps: Steps) -> list[tuple[Rollout, list[int]]]:
    """One request from wherever it is, to its rollouts and what each one's fork holds."""
    async with AsyncExitStack() as stack:
        threads, saver = [
            await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(str(folder / f"{name}.db")))
            for name in ("threads", "rollouts")
        ]
        steps.count(saver, ["aput", "aput_writes"])
        stack.push_async_callback(aclose_clients)
        node = ParallelRollouts(
            agent_of(_Server(base_url)),  # type: ignore[arg-type]
            n=6,
            branching=Branching(EAGER, initial=1),
            effects={"add": WRITE, "look": READ},
            environments=[SqliteEnvironment(folder / "world.db")],
            rollout_checkpointer=saver,
        )
        node.has_selector = True
        builder = StateGraph(RolloutsState)
        builder.add_node("rollouts", node)
        builder.add_edge(START, "rollouts")
        graph = builder.compile(checkpointer=threads)
        before = await graph.aget_state(CONFIG)
        state = await graph.ainvoke(None if before.tasks else ASK, CONFIG, durability="sync")
        rollouts = [Rollout.from_dict(record) for record in state["rollouts"]]
        found = [(rollout, rows(node.forks_of(rollout)[0].path)) for rollout in rollouts]
        await node.forget(rollouts)
        return found


def threads_on_record(folder: Path) -> dict[str, set[str]]:
    """The messages of the model on each rollout's thread, read out of the tables as they are."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    with closing(sqlite3.connect(folder / "rollouts.db")) as connection:
        for table, column in {"checkpoints": "checkpoint", "writes": "value"}.items():
            for thread, namespace, blob in connection.execute(
                f"SELECT thread_id, checkpoint_ns, {column} FROM {table}"
            ):
                if not namespace.startswith("entcent"):
                    found[thread] |= {message.decode() for message in MESSAGE.findall(bytes(blob or b""))}
    return found


async def branches_on_record(folder: Path, threads: list[str]) -> dict[int, tuple[int, int, int]]:
    """Of each branch that was begun whole, its forks kept too: its parent, turn and token."""
    found: dict[int, tuple[int, int, int]] = {}
    world = SqliteEnvironment(folder / "world.db")
    async with AsyncSqliteSaver.from_conn_string(str(folder / "rollouts.db")) as saver:
        store = RolloutStore(saver)
        for thread in threads:
            journal = await store.read(thread)
            heritage = heritage_of(journal) if journal else None
            if journal and heritage and (journal.entries or are_there(journal.start["forks"].values(), world)):
                origin = heritage.origin
                found[int(thread.rpartition(":")[2])] = (origin.parent, origin.turn, origin.point.token)
    return found


def are_there(references: Iterable[str], world: SqliteEnvironment) -> bool:
    try:
        return all(world.reopen(reference) for reference in references)
    except EnvironmentUnusableError:
        return False


@pytest.mark.timeout(300)
@pytest.mark.parametrize("step", [9, 16, 30, 55])
async def test_every_recorded_branch_survives_and_no_recorded_turn_is_sampled_again(
    serve: Callable[..., ChatServer], tmp_path: Path, step: int
):
    new_table(tmp_path / "world.db")
    server = serve(DecidingServer(SCRIPT))
    taken = FORKS.Value("i", 0, lock=False)
    process = FORKS.Process(target=live, args=(tmp_path, server.base_url, Steps(taken, step)))
    process.start()
    await asyncio.to_thread(process.join)
    assert process.exitcode == -9
    turns_then = threads_on_record(tmp_path)
    branches_then = await branches_on_record(tmp_path, [*turns_then])
    found = await _serve(tmp_path, server.base_url, Steps(taken))
    by_index = {rollout.index: rollout for rollout, _ in found}
    for index, place in branches_then.items():
        branch = by_index[index].branch
        assert branch is not None
        assert (branch.parent, branch.turn, branch.token) == place
    for thread, messages in turns_then.items():
        index = int(thread.rpartition(":")[2])
        if not index or index in branches_then:  # else it was not begun, and another branch may have its index
            assert messages <= {turn.message_id for turn in by_index[index].trajectory.turns}
    outcomes = [held for _, held in found]
    assert [held for held in outcomes if held not in ([1, 3, 5], [1, 4, 5], [2, 3, 5], [2, 4, 5])] == []
    assert len({*map(tuple, outcomes)}) == len(outcomes) >= 2  # a branch that was not begun yet may be lost
    assert list(tmp_path.glob(".entcent-*/forks/*")) == []
    assert threads_on_record(tmp_path) == {}


async def test_a_branch_on_record_is_not_made_a_second_time_by_a_rollout_that_says_the_same():
    async def begin(index: int, heritage: Heritage) -> None: ...

    said = logprobs_of({5: 2.0})
    ((_, point),) = Tree(Branching(EAGER), Places([2]), begin).points(0, 0, said, reused=0, prompt="asked")
    recorded = Origin(parent=0, turn=0, prompt="asked", point=point, said=said)
    resumed = Tree(Branching(EAGER), Places([3]), begin, [recorded])
    assert resumed.points(1, 0, said, reused=0, prompt="asked") == []
    assert resumed.points(1, 0, said, reused=0, prompt="something else") == [(3, point)]


class _Contested(Places):
    """Of two places that there seemed to be, somebody else is lent one."""

    room = 2

    def take(self, wanted: int) -> list[int]:
        return super().take(min(wanted, 1))


async def test_a_point_for_which_there_was_no_place_after_all_may_branch_later():
    async def begin(index: int, heritage: Heritage) -> None: ...

    said = logprobs_of({5: 2.0, 6: 1.5})
    tree = Tree(Branching(BranchPolicy(threshold=0.1, max_per_turn=2)), _Contested([2, 3]), begin)
    first, second = (tree.points(0, 0, said, reused=0, prompt="asked") for _ in range(2))
    assert [index for index, _ in [*first, *second]] == [2, 3]
    assert first[0][1].token != second[0][1].token


@pytest.mark.parametrize("streams", [False, True])
async def test_an_answer_that_was_recorded_and_not_put_on_its_thread_is_neither_asked_for_nor_counted_again(
    serve: Callable[..., ChatServer], tmp_path: Path, streams: bool
):
    async def think(state: MessagesState) -> dict[str, Any]:
        if streams:
            said, *rest = [chunk async for chunk in model.astream(state["messages"])]
            said = sum(rest, said)
        else:
            said = await model.ainvoke(state["messages"])
        return {"messages": [AIMessage(said.text, id=said.id)]}  # without its calls: nobody makes them

    async def request(saver: Any, threads: Any) -> list[Rollout]:
        node = ParallelRollouts(
            builder.compile(),
            n=2,
            branching=Branching(EAGER, initial=1),
            budget=Budget(max_tokens=20_000),
            effects={"add": READ},
            rollout_checkpointer=saver,
        )
        return await recorded(node, threads)

    script = DecidingServer(SCRIPT)
    server = serve(script)
    model = ChatLogprobs(
        model="scripted", base_url=server.base_url, tool_calling="text", top_logprobs=4, max_tokens=64
    ).bind_tools([add])
    builder = StateGraph(MessagesState).add_node("think", think).add_edge(START, "think")
    async with savers(tmp_path) as (threads, saver):
        await killed_after("turns", saver, lambda: request(saver, threads))
        assert len(script.sampled) == 1
        parent, _ = await request(saver, threads)
    assert len(script.sampled) == 1
    assert (parent.usage.model_calls, parent.usage.generated_tokens) == (1, parent.trajectory.generated_tokens)
    assert parent.usage.charged_tokens == parent.usage.prompt_tokens + parent.usage.generated_tokens


async def test_rollouts_that_had_ended_count_for_the_percentile_of_those_that_go_on(
    serve: Callable[..., ChatServer], tmp_path: Path
):
    @tool
    async def see(x: int) -> str:
        """See it."""
        return f"seen {x}"

    async def request(saver: Any, threads: Any) -> list[Rollout]:
        node = ParallelRollouts(
            create_agent(model, [see]),
            n=3,
            max_concurrency=1,
            # A rollout has four decisions; those of two are enough.
            branching=Branching(BranchPolicy(threshold=0.1, percentile=50.0, min_seen=5), initial=2),
            effects={"see": READ},
            rollout_checkpointer=saver,
        )
        return await recorded(node, threads)

    server = serve(DecidingServer(turns(call(["see"], ["1", "2"]))))
    model = ChatLogprobs(model="scripted", base_url=server.base_url, tool_calling="text", top_logprobs=4)
    async with savers(tmp_path) as (threads, saver):
        await killed_after("ended", saver, lambda: request(saver, threads))
        rollouts = await request(saver, threads)
    assert [rollout.branch and rollout.branch.parent for rollout in rollouts] == [None, None, 1]


async def test_a_thread_that_was_claimed_for_a_branch_that_never_began_is_forgotten(tmp_path: Path):
    async with savers(tmp_path) as (_, saver):
        store = RolloutStore(saver)
        await store.claim("request:1")
        await store.begin("request:2", {"forks": {}})
        assert await recorded_branches(store, {1: "request:1", 2: "request:2", 3: "request:3"}, []) == {2: None}
        left = {found.config["configurable"]["thread_id"] async for found in saver.alist(None)}
        assert left == {"request:2"}


@asynccontextmanager
async def savers(folder: Path) -> AsyncIterator[list[AsyncSqliteSaver]]:
    """Of the graph, and of the rollouts."""
    async with AsyncExitStack() as stack:
        names = [str(folder / f"{name}.db") for name in ("threads", "rollouts")]
        yield [await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(name)) for name in names]


async def recorded(node: ParallelRollouts, threads: Any) -> list[Rollout]:
    """The rollouts of a request, from wherever it is."""
    node.has_selector = True
    graph = StateGraph(RolloutsState).add_node("rollouts", node).add_edge(START, "rollouts").compile(threads)
    given = None if (await graph.aget_state(CONFIG)).tasks else ASK
    state = await graph.ainvoke(given, CONFIG, durability="sync")
    return [Rollout.from_dict(record) for record in state["rollouts"]]


async def killed_after(kind: str, saver: Any, run: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Run what writes, until the first rollout's journal has an entry of this kind; nothing is written after it."""
    put_writes, dead = saver.aput_writes, asyncio.Event()

    async def dies(config: Any, writes: Any, *arguments: Any) -> None:
        if not dead.is_set():
            await put_writes(config, writes, *arguments)
        if writes[0][0] == kind and config["configurable"]["thread_id"].endswith(":0"):
            dead.set()
            running.cancel()
        if dead.is_set():
            raise OSError("nothing more is written")

    saver.aput_writes = dies
    running = asyncio.create_task(run())
    with pytest.raises(asyncio.CancelledError):
        await running
    saver.aput_writes = put_writes
