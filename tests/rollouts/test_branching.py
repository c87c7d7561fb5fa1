"""Rollouts that branch where they hesitate: what a branch begins with, what it costs, and where it ends."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph

from entcent_agents.branching import BranchPolicy
from entcent_agents.budget import Budget
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.effects import READ, WRITE
from entcent_agents.environments import SqliteEnvironment, current_environment
from entcent_agents.errors import ConfigurationError, RolloutsFailedError
from entcent_agents.nodes import Branching, ParallelRollouts, Retries, RolloutsState
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from entcent_agents.trajectory import Rollout
from tests.chat_server import ChatServer
from tests.rollouts.deciding_server import DecidingServer, Slot, answer, call
from tests.rollouts.leaks import Holdings
from tests.table import new_table, rows

ASK = {"messages": [HumanMessage("go")]}
EAGER = BranchPolicy(threshold=0.1, max_per_turn=8, max_per_rollout=64)
"""Branches at every decision that has two sides."""
Serve = Callable[..., ChatServer]


@tool
async def add(x: int) -> str:
    """Add a row."""
    with sqlite3.connect(current_environment().path) as connection:
        connection.execute("INSERT INTO t VALUES (?)", (x,))
    connection.close()
    return f"added {x}"


@tool
async def look(x: int) -> str:
    """Look at the rows."""
    return f"rows {rows(current_environment().path)}"


def turns(*calls: Sequence[Slot]) -> Callable[[int], Sequence[Slot]]:
    """These turns, and an answer after them."""
    return lambda turn: calls[turn] if turn < len(calls) else answer("all is done")


ONE_DECISION = turns(call(["add"], ["1", "2"]))
TWO_DECISIONS = turns(call(["add"], ["1", "2"]), call(["add"], ["3", "4"]))


def agent_of(server: ChatServer, **settings: Any) -> Any:
    model = ChatLogprobs(model="scripted", base_url=server.base_url, tool_calling="text", top_logprobs=4, **settings)
    return create_agent(model, [add, look])


class Ran:
    """Rollouts, the events that told of them, and their forks."""

    def __init__(self, node: ParallelRollouts) -> None:
        self.node = node
        self.rollouts: list[Rollout] = []
        self.events: list[dict[str, Any]] = []

    async def run(self, config: Any = None) -> list[Rollout]:
        self.node.has_selector = True  # this one selects nothing
        builder = StateGraph(RolloutsState)
        builder.add_node("rollouts", self.node)
        builder.add_edge(START, "rollouts")
        async for mode, chunk in builder.compile().astream(ASK, config, stream_mode=["custom", "updates"]):
            if mode == "custom":
                self.events.append(chunk)
            else:
                self.rollouts = [Rollout.from_dict(record) for record in chunk["rollouts"]["rollouts"]]
        return self.rollouts

    def rows(self, index: int) -> list[int]:
        """What a rollout's fork of the database holds."""
        (fork,) = self.node.forks_of(self.rollouts[index])
        return rows(fork.path)

    async def forget(self) -> None:
        await self.node.forget(self.rollouts)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return new_table(tmp_path / "world.db")


@pytest.fixture
def ran(database: Path) -> Callable[..., Ran]:
    def make(agent: Any, n: int, *, initial: int = 1, policy: BranchPolicy = EAGER, **settings: Any) -> Ran:
        return Ran(
            ParallelRollouts(
                agent,
                n=n,
                branching=Branching(policy, initial=initial),
                effects={"add": WRITE, "look": READ},
                environments=[SqliteEnvironment(database)],
                **settings,
            )
        )

    return make


async def test_a_branch_takes_the_alternative_and_shares_what_was_before(serve: Serve, ran: Callable[..., Ran]):
    script = DecidingServer(ONE_DECISION)
    case = ran(agent_of(serve(script)), 4)
    parent, child = await case.run()
    assert (case.rows(0), case.rows(1)) == ([1], [2])
    assert child.branch is not None and parent.branch is None
    assert (child.branch.parent, child.branch.turn, child.branch.decision) == (0, 0, "argument")
    assert child.branch.method == "continued"
    await case.forget()


async def test_inherited_log_probabilities_are_the_parents_bit_for_bit(serve: Serve, ran: Callable[..., Ran]):
    case = ran(agent_of(serve(DecidingServer(TWO_DECISIONS))), 2, policy=BranchPolicy(threshold=0.1, max_per_turn=1))
    parent, child = await case.run()
    assert child.branch is not None
    turn, token = child.branch.turn, child.branch.token
    old, new = parent.trajectory.turns[turn].logprobs, child.trajectory.turns[turn].logprobs
    assert old is not None and new is not None and token > 0
    for column in ("logprob", "entropy", "residual", "confidence"):
        assert getattr(new, column)[:token].tobytes() == getattr(old, column)[:token].tobytes()
    assert new.entropy[token] == old.entropy[token]
    await case.forget()


async def test_no_token_of_the_prefix_is_counted_as_generated(serve: Serve, ran: Callable[..., Ran]):
    script = DecidingServer(TWO_DECISIONS)
    case = ran(agent_of(serve(script)), 8)
    rollouts = await case.run()
    assert len(rollouts) == 4
    assert sum(rollout.usage.generated_tokens for rollout in rollouts) == script.generated
    for rollout in rollouts:
        usage, trajectory = rollout.usage, rollout.trajectory
        assert usage.generated_tokens + usage.reused_tokens == trajectory.generated_tokens
        assert (usage.reused_tokens > 0) is (rollout.branch is not None)
    await case.forget()


async def test_a_branch_branches(serve: Serve, ran: Callable[..., Ran]):
    case = ran(agent_of(serve(DecidingServer(TWO_DECISIONS))), 8)
    rollouts = await case.run()
    assert sorted(case.rows(rollout.index) for rollout in rollouts) == [[1, 3], [1, 4], [2, 3], [2, 4]]
    parents = {rollout.index: rollout.branch.parent for rollout in rollouts if rollout.branch}
    assert any(parent in parents for parent in parents.values())
    await case.forget()


async def test_what_one_writes_later_the_other_does_not_see(serve: Serve, ran: Callable[..., Ran]):
    script = turns(call(["add"], ["1"]), call(["add"], ["3", "4"]), call(["add"], ["5"]), call(["look"], ["0"]))
    case = ran(agent_of(serve(DecidingServer(script))), 2)
    await case.run()
    assert (case.rows(0), case.rows(1)) == ([1, 3, 5], [1, 4, 5])
    await case.forget()


async def test_events_tell_where_a_rollout_branched_and_how_it_went_on(serve: Serve, ran: Callable[..., Ran]):
    case = ran(agent_of(serve(DecidingServer(ONE_DECISION))), 4)
    _, child = await case.run()
    told = [event for event in case.events if event["type"] == "entcent.branch"]
    assert child.branch is not None
    expected = {"type": "entcent.branch", "rollout": 1, "round": 1, **child.branch.to_dict()}
    assert told == [expected | {"method": None}, expected]
    await case.forget()


async def test_an_easy_request_ends_with_the_rollouts_that_it_began_with(serve: Serve, ran: Callable[..., Ran]):
    case = ran(agent_of(serve(DecidingServer(turns(call(["add"], ["1"]))))), 8, initial=2)
    assert [rollout.branch for rollout in await case.run()] == [None, None]
    await case.forget()


@pytest.mark.parametrize(("n", "max_rollouts"), [(6, None), (16, 5)])
async def test_a_storm_of_branches_ends_within_its_bounds(
    serve: Serve, ran: Callable[..., Ran], n: int, max_rollouts: int | None
):
    digits = [str(digit) for digit in range(8)]
    script = turns(*[call(["add", "look"], digits) for _ in range(6)])
    case = ran(agent_of(serve(DecidingServer(script))), n, budget=Budget(max_rollouts=max_rollouts))
    rollouts = await case.run()
    assert len(rollouts) == min(n, max_rollouts or n)
    assert {rollout.status for rollout in rollouts} == {"finished"}
    await case.forget()


async def test_a_storm_of_branches_stays_below_a_budget_of_tokens(serve: Serve, ran: Callable[..., Ran]):
    script = turns(*[call(["add", "look"], ["1", "2", "3"]) for _ in range(6)])
    case = ran(agent_of(serve(DecidingServer(script)), max_tokens=64), 32, budget=Budget(max_tokens=20_000))
    try:
        spent = sum(rollout.usage.charged_tokens for rollout in await case.run())
    except RolloutsFailedError as failed:  # all grew, and none came to its end
        spent = max(int(tokens) for tokens in re.findall(r"(\d+) are spent", str(failed)))
    assert 0 < spent <= 20_000


@pytest.mark.parametrize(("continues", "misreads"), [(False, 0), (True, 1)])
async def test_under_a_budget_the_next_way_is_asked_without_a_retry_and_what_failed_is_charged(
    serve: Serve, ran: Callable[..., Ran], continues: bool, misreads: int
):
    script = DecidingServer(ONE_DECISION, continues=continues, misreads=misreads)
    agent = agent_of(serve(script), max_tokens=64)
    case = ran(agent, 4, budget=Budget(max_tokens=20_000), retries=Retries(attempts=1))
    _, child = await case.run()
    assert child.branch is not None
    assert (child.status, child.branch.method) == ("finished", "resampled")
    counted = child.usage.prompt_tokens + child.usage.generated_tokens
    assert (child.usage.cut_calls, child.usage.charged_tokens > counted) == (misreads, bool(misreads))
    await case.forget()


async def test_a_branch_in_a_subgraph_goes_on_in_the_subgraph(serve: Serve, ran: Callable[..., Ran]):
    async def before(state: MessagesState):
        asked.append(1)
        return {"messages": []}

    asked: list[int] = []
    builder = StateGraph(MessagesState)
    builder.add_node("before", before)
    builder.add_node("inner", agent_of(serve(DecidingServer(TWO_DECISIONS))))
    builder.add_edge(START, "before")
    builder.add_edge("before", "inner")
    case = ran(builder.compile(), 8)
    rollouts = await case.run()
    assert sorted(case.rows(rollout.index) for rollout in rollouts) == [[1, 3], [1, 4], [2, 3], [2, 4]]
    assert asked == [1]  # what was done when they branched is not done again
    await case.forget()


async def test_synchronous_nodes_branch_too(serve: Serve, ran: Callable[..., Ran]):
    def think(state: MessagesState):
        return {"messages": [AIMessage(model.invoke(state["messages"]).text)]}

    server = serve(DecidingServer(ONE_DECISION))
    model = ChatLogprobs(model="scripted", base_url=server.base_url, tool_calling="text", top_logprobs=4)
    model = model.bind_tools([add])
    builder = StateGraph(MessagesState)
    builder.add_node("think", think)
    builder.add_edge(START, "think")
    rollouts = await ran(builder.compile(), 4).run()
    assert [rollout.branch is None for rollout in rollouts] == [True, False]


async def test_a_synchronous_call_on_the_loop_neither_branches_nor_hangs(serve: Serve, ran: Callable[..., Ran]):
    async def think(state: MessagesState):
        return {"messages": [AIMessage(model.invoke(state["messages"]).text)]}

    server = serve(DecidingServer(ONE_DECISION))
    model = ChatLogprobs(model="scripted", base_url=server.base_url, tool_calling="text", top_logprobs=4)
    model = model.bind_tools([add])
    builder = StateGraph(MessagesState)
    builder.add_node("think", think)
    builder.add_edge(START, "think")
    assert len(await ran(builder.compile(), 4).run()) == 1


async def test_a_foreign_model_makes_no_branches(ran: Callable[..., Ran]):
    script = [ScriptedTurn(tool_calls=[("add", {"x": 1})], entropy=[2.0] * 30), ScriptedTurn(text="done")]
    case = ran(create_agent(ScriptedChat(scripts=[script]), [add, look]), 8, initial=2)
    assert [rollout.branch for rollout in await case.run()] == [None, None]
    await case.forget()


@pytest.mark.parametrize("asked", [2, 4, 7])
async def test_cancelled_branches_leave_nothing(serve: Serve, ran: Callable[..., Ran], database: Path, asked: int):
    script = DecidingServer(turns(*[call(["add"], ["1", "2", "3"]) for _ in range(4)]))
    server = serve(script)
    case = ran(agent_of(server), 12)
    before = Holdings.now()
    run = asyncio.create_task(case.run())
    while len(script.sampled) + len(script.prefixes) < asked:  # noqa: ASYNC110  nothing tells
        await asyncio.sleep(0.001)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert list(database.parent.glob(".entcent-*/forks/*")) == []
    assert [found async for found in case.node.store.saver.alist(None)] == []
    left = [line for line in Holdings.now().left_since(before) if "world.db" in line or "leftover process" in line]
    assert left == []


@pytest.mark.parametrize(("n", "initial", "least"), [(2, 3, 1), (4, 1, 2)])
def test_what_cannot_work_is_refused(serve: Serve, n: int, initial: int, least: int):
    with pytest.raises(ConfigurationError, match=f"initial={initial} must be between"):
        ParallelRollouts(agent_of(serve()), n=n, min_finished=least, branching=Branching(EAGER, initial=initial))
