"""Easy and hard requests at once: nobody begins more than is allowed, and what nobody used is still there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph

from entcent_agents.branching import BudgetPool
from entcent_agents.budget import Budget
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.effects import READ
from entcent_agents.errors import ConfigurationError, RolloutsFailedError
from entcent_agents.nodes import Branching, ParallelRollouts, abatch
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.selection import First
from tests.chat_server import ChatServer, Reply
from tests.rollouts.deciding_server import DecidingServer, Slot, answer, call, turns_of
from tests.rollouts.test_branching import EAGER, agent_of

Serve = Callable[..., ChatServer]
N = 4
DIGITS = "12345678"


@tool
async def pick(x: int) -> str:
    """Pick a number."""
    return f"picked {x}"


@dataclass
class Mixed(DecidingServer):
    """Says one thing to easy requests, and hesitates over every call of the hard ones, each time over another one."""

    turns: Callable[[int], Sequence[Slot]] = lambda turn: answer("not asked")
    asked: int = 0
    answered: int = 0
    free: threading.Event = field(default_factory=threading.Event)

    def chat(self, body: dict[str, Any], choice: int) -> Reply:
        messages = body["messages"]
        held = any(f"held at {turns_of(messages)}" in str(message["content"]) for message in messages)
        reply = super().chat(body, choice)
        return replace(reply, after=self.free) if held else reply

    def script(self, messages: Sequence[dict[str, Any]]) -> Sequence[Slot]:
        said = next(str(message["content"]) for message in messages if message["role"] == "user")
        turn = turns_of(messages)
        if turn == (1 if "easy" in said else 3):
            self.answered += 1
            return answer("all is done")
        if "easy" in said:
            return call(["pick"], ["1"])
        self.asked += 1
        first = self.asked % len(DIGITS)
        return call(["pick"], [*DIGITS[first:], *DIGITS[:first]])


def graph_of(server: ChatServer, *, agent: Any = None, **settings: Any) -> Any:
    model = ChatLogprobs(model="scripted", base_url=server.base_url, tool_calling="text", top_logprobs=4)
    return entropy_centroid_graph(
        agent or create_agent(model, [pick]),
        n=N,
        branching=Branching(EAGER, initial=1),
        effects={"pick": READ},
        selector=First(),
        **settings,
    )


def ask(*kinds: str) -> list[Any]:
    return [{"messages": [HumanMessage(kind)]} for kind in kinds]


def begun(results: Sequence[Any]) -> list[int]:
    return [result["selection"]["usage"]["rollouts"] for result in results]


def borrowed(results: Sequence[Any]) -> list[int]:
    return [result["selection"]["usage"]["borrowed"] for result in results]


def full(balance: int, capacity: int = 64) -> BudgetPool:
    pool = BudgetPool(capacity)
    pool.deposit(balance)
    return pool


async def test_a_saturated_request_borrows_what_easy_ones_left_one_for_each_branch(serve: Serve):
    pool = BudgetPool(64)
    graph = graph_of(serve(Mixed()), pool=pool)
    easy = [await graph.ainvoke(each) for each in ask("easy")]
    assert (begun(easy), borrowed(easy), pool.balance) == ([1], [0], N - 1)
    hard = [await graph.ainvoke(each) for each in ask("hard")]
    assert (begun(hard), borrowed(hard), pool.balance) == ([2 * N - 1], [N - 1], 0)


async def test_a_hard_request_alone_has_its_own_rollouts_and_no_more(serve: Serve):
    pool = BudgetPool(64)
    (hard,) = [await graph_of(serve(Mixed()), pool=pool).ainvoke(each) for each in ask("hard")]
    assert (begun([hard]), borrowed([hard]), pool.balance) == ([N], [0], 0)


async def test_requests_at_once_use_no_more_than_there_is_and_the_balance_is_what_they_left(serve: Serve):
    pool = BudgetPool(64)
    graph = graph_of(serve(Mixed()), pool=pool)
    kinds = ["easy", "hard", "easy", "easy", "hard", "hard", "easy", "easy"]
    results = await asyncio.gather(*(graph.ainvoke(each) for each in ask(*kinds)))
    used = begun(results)
    assert [each for each, kind in zip(used, kinds, strict=True) if kind == "easy"] == [1] * 5
    assert all(N <= each <= 2 * N for each, kind in zip(used, kinds, strict=True) if kind == "hard")
    assert [each - N for each in used if each > N] == [each for each in borrowed(results) if each]
    assert pool.balance == N * len(kinds) - sum(used)


@pytest.mark.parametrize("most", [5, 2])
async def test_max_rollouts_stays_hard_whatever_the_pool_holds(serve: Serve, most: int):
    pool = full(8)
    graph = graph_of(serve(Mixed()), pool=pool, budget=Budget(max_rollouts=most))
    result = await graph.ainvoke(*ask("hard"))
    assert begun([result]) == [most]
    assert pool.balance == 8 + N - most


async def test_a_request_that_fails_leaves_what_it_did_not_begin(serve: Serve):
    async def fail(state: MessagesState) -> None:
        raise ConfigurationError("nobody can go on")

    builder = StateGraph(MessagesState)
    builder.add_node("fail", fail)
    builder.add_edge(START, "fail")
    pool = full(8)
    with pytest.raises(ConfigurationError, match="nobody can go on"):
        await graph_of(serve(Mixed()), agent=builder.compile(), pool=pool).ainvoke(*ask("hard"))
    assert pool.balance == 8 + N - 1


async def test_a_plain_run_in_the_place_of_failed_rollouts_counts_and_clashes_with_none(serve: Serve):
    async def fail(state: MessagesState) -> None:
        asked.append(1)
        if len(asked) == 1:
            raise ValueError("this one is bad")

    asked: list[int] = []
    builder = StateGraph(MessagesState)
    builder.add_node("fail", fail)
    builder.add_edge(START, "fail")
    pool = full(8)
    graph = graph_of(serve(Mixed()), agent=builder.compile(), pool=pool, on_unavailable="single")
    result = await graph.ainvoke(*ask("hard"))
    assert (result["selection"]["winner"], begun([result]), borrowed([result])) == (2 * N, [2], [0])
    assert pool.balance == 8 + N - 2


@pytest.mark.parametrize(("held_at", "branches"), [(0, 0), (3, 7)])
async def test_a_cancelled_request_leaves_what_it_did_not_begin(serve: Serve, held_at: int, branches: int):
    pool, script = full(8), Mixed()
    graph = graph_of(serve(script), pool=pool, max_concurrency=2 * N)
    await cancelled_when_held(graph, script, held_at=held_at, branches=branches)
    assert pool.balance == 8 + N - (1 + branches)


async def cancelled_when_held(graph: Any, script: Mixed, *, held_at: int, branches: int, config: Any = None) -> None:
    """Cancel a hard request in which nothing goes on, after so many branches."""
    told = 0

    async def run() -> None:
        nonlocal told
        async for event in graph.astream(*ask(f"hard, held at {held_at}"), config, stream_mode="custom"):
            told += event["type"] == "entcent.branch" and event["method"] is None

    running = asyncio.create_task(run())
    while told < branches or not script.sampled:  # noqa: ASYNC110  nothing tells
        await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    script.free.set()  # an answer that came before the cancellation is through would branch


async def test_who_goes_on_with_a_request_has_what_it_borrowed_and_borrows_that_from_nobody(
    serve: Serve, tmp_path: Path
):
    script, config = Mixed(), {"configurable": {"thread_id": "request"}}
    server = serve(script)
    async with AsyncExitStack() as stack:
        threads, saver = [
            await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(str(tmp_path / f"{name}.db")))
            for name in ("threads", "rollouts")
        ]
        settings: Any = {"checkpointer": threads, "rollout_checkpointer": saver, "max_concurrency": 2 * N}
        pool = full(8)
        graph = graph_of(server, pool=pool, **settings)
        await cancelled_when_held(graph, script, held_at=3, branches=7, config=config)
        assert pool.balance == 8 - N
        pool = BudgetPool(64)  # of another process
        result = await graph_of(server, pool=pool, **settings).ainvoke(None, config)
        assert (begun([result]), borrowed([result]), pool.balance) == ([2 * N], [N], 0)
        assert [found async for found in saver.alist(None)] == []


async def test_in_shadow_mode_the_first_rollout_is_committed_whatever_is_borrowed(serve: Serve):
    result = await graph_of(serve(Mixed()), pool=full(8), shadow=True).ainvoke(*ask("hard"))
    assert (result["selection"]["winner"], begun([result]), borrowed([result])) == (0, [2 * N], [N])


async def test_a_batch_gives_what_easy_requests_left_to_the_hard_ones_in_equal_parts(serve: Serve):
    graph = graph_of(serve(Mixed()))
    results = await abatch(graph, ask("hard", "easy", "hard", "easy"))
    assert begun(results) == [N + 3, 1, N + 3, 1]
    assert borrowed(results) == [3, 0, 3, 0]


@pytest.mark.parametrize("most", [1, 2])
async def test_a_batch_never_gives_more_than_twice_as_many_and_ends_at_any_concurrency(serve: Serve, most: int):
    graph = graph_of(serve(Mixed()))
    results = await abatch(graph, ask("hard", "easy", "easy", "easy"), max_concurrency=most)
    assert begun(results) == [2 * N, 1, 1, 1]
    assert [result["messages"][-1].text for result in results] == ["all is done"] * 4


async def test_in_a_batch_the_pool_of_the_node_rests(serve: Serve):
    pool = full(8)
    results = await abatch(graph_of(serve(Mixed()), pool=pool), ask("hard", "easy"))
    assert (begun(results), pool.balance) == ([N + 3, 1], 8)


async def test_a_request_of_a_batch_that_fails_hangs_no_other(serve: Serve):
    server = serve(Mixed())
    inner = create_agent(
        ChatLogprobs(model="scripted", base_url=server.base_url, tool_calling="text", top_logprobs=4), [pick]
    )

    async def check(state: MessagesState) -> None:
        if state["messages"][-1].text == "bad":
            raise ValueError("this one is bad")

    builder = StateGraph(MessagesState)
    builder.add_node("check", check)
    builder.add_node("agent", inner)
    builder.add_edge(START, "check")
    builder.add_edge("check", "agent")
    graph = graph_of(server, agent=builder.compile())
    bad, *results = await abatch(graph, ask("bad", "hard", "easy"), max_concurrency=1, return_exceptions=True)
    assert isinstance(bad, RolloutsFailedError)
    assert begun(results) == [2 * N, 1]  # of six that were left, four at most


async def test_a_cancelled_batch_leaves_no_thread_of_those_that_wait(serve: Serve, tmp_path: Path):
    script = Mixed()
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "rollouts.db")) as saver:
        graph = graph_of(serve(script), rollout_checkpointer=saver)
        batch = asyncio.create_task(abatch(graph, ask("hard", "hard, held at 1")))
        while script.answered < N:  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.5)  # the first one waits for the other one, or is about to
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch
        script.free.set()
        assert [found async for found in saver.alist(None)] == []


def test_a_pool_without_branching_is_refused(serve: Serve):
    with pytest.raises(ConfigurationError, match="pass branching"):
        ParallelRollouts(agent_of(serve()), pool=BudgetPool(8))
    with pytest.raises(ConfigurationError, match="must be a BudgetPool"):
        ParallelRollouts(agent_of(serve()), branching=Branching(), pool=8)  # type: ignore[arg-type]
