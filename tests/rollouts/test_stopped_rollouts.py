"""Rollouts that are stopped early: when, what is left of them, and who never is."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph

from entcent_agents.branching import BranchPolicy, EarlyStopping
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.chat.sampling import rollout_index
from entcent_agents.effects import EXTERNAL, READ, WRITE
from entcent_agents.environments import SqliteEnvironment, current_environment
from entcent_agents.errors import ConfigurationError
from entcent_agents.ledger import MemoryLedger
from entcent_agents.nodes import Branching, ParallelRollouts, Retries, guarded
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.rollouts.branching import Tree
from entcent_agents.rollouts.places import Places
from entcent_agents.rollouts.stopping import Stopping
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from entcent_agents.trajectory import Rollout
from tests.branching.turns import call as hesitating
from tests.chat_server import ChatServer, Reply, Request, says
from tests.passing_time import Clock
from tests.rollouts.deciding_server import DecidingServer, call, turns_of
from tests.rollouts.test_branching import agent_of, turns
from tests.rollouts.test_resumed import CONFIG, Counted, durable
from tests.rollouts.worlds import ASK
from tests.table import new_table, rows

LATE = 36_000.0
AGREED = EarlyStopping(consensus="share")
PRUNED = EarlyStopping(keep_percent=50.0, window=3)
FOUR_AGREE = "stopped early: 4 of 4 rollouts agree"


def says_so(text: str, after: float = 0.0, confidence: float = 1.0) -> ScriptedTurn:
    return ScriptedTurn(text=text, entropy=[confidence] * 5, delay_seconds=after)


def looks(after: float = 0.0, confidence: float = 1.0) -> ScriptedTurn:
    return ScriptedTurn(tool_calls=[("look", {})], entropy=[confidence] * 5, delay_seconds=after)


@tool
async def look() -> str:
    """Look."""
    return "seen"


def node_of(scripts: Sequence[Any], stopping: EarlyStopping | None, **settings: Any) -> ParallelRollouts:
    agent = create_agent(ScriptedChat(scripts=scripts), [look])
    return ParallelRollouts(agent, n=len(scripts), stopping=stopping, effects={"look": READ}, **settings)


async def rollouts_of(node: ParallelRollouts) -> list[Rollout]:
    """What the node writes, without a selector and a quorum."""
    node.has_selector = True
    node._require_quorum = _anything  # type: ignore[method-assign]
    return [Rollout.from_dict(record) for record in await _run(node)]


async def _anything(*_: Any) -> None:
    """No quorum."""


class _Recorded(MessagesState):
    rollouts: list[dict[str, Any]]


async def _run(node: ParallelRollouts) -> list[dict[str, Any]]:
    graph = StateGraph(_Recorded).add_node("rollouts", node).add_edge(START, "rollouts").compile()
    return (await graph.ainvoke(ASK))["rollouts"]


def statuses(rollouts: Sequence[Rollout]) -> list[str]:
    return [rollout.error or rollout.status for rollout in rollouts]


# Consensus


async def test_once_enough_rollouts_agree_the_others_are_stopped_and_recorded(flying):
    scripts = [[says_so("Yes.")], [says_so("no", LATE)], *[[says_so("yes", after)] for after in (1, 2, 3)]]
    started = asyncio.get_running_loop().time()
    rollouts = await rollouts_of(node_of([*scripts, [looks(), says_so("no", LATE)]], AGREED))
    assert asyncio.get_running_loop().time() - started < 100
    assert statuses(rollouts) == ["finished", FOUR_AGREE, *["finished"] * 3, FOUR_AGREE]
    assert rollouts[1].status == rollouts[5].status == "unfinished"
    looked = rollouts[5]
    assert (len(looked.trajectory.turns), looked.usage.generated_tokens, looked.usage.cut_calls) == (1, 5, 1)


async def test_the_request_has_the_answer_and_the_usage_of_all(flying):
    scripts = [*[[says_so("yes", after)] for after in range(4)], *[[looks(), says_so("no", LATE)]] * 2]
    agent = create_agent(ScriptedChat(scripts=scripts), [look])
    graph = entropy_centroid_graph(
        agent, n=6, stopping=AGREED, effects={"look": READ}, on_unscorable="fallback", min_finished=2
    )
    result = await graph.ainvoke(ASK)
    assert result["messages"][-1].text == "yes"
    usage = result["selection"]["usage"]
    assert (usage["rollouts"], usage["model_calls"], usage["cut_calls"]) == (6, 6, 2)
    assert usage["generated_tokens"] == 30


@pytest.mark.parametrize("stopping", [None, AGREED, PRUNED])
async def test_rollouts_that_do_not_agree_come_to_their_end_and_so_do_all_where_nothing_is_asked_for(flying, stopping):
    same = stopping is None or stopping.consensus is None
    scripts = [[says_so("yes" if same else f"answer {i}", i)] for i in range(6)]
    assert statuses(await rollouts_of(node_of(scripts, stopping))) == ["finished"] * 6


async def test_rollouts_that_wait_for_room_are_stopped_before_they_ask_the_model(flying):
    asked: list[int] = []

    def script(messages: Any) -> ScriptedTurn:
        asked.append(1)
        return says_so("yes", 1)

    rollouts = await rollouts_of(node_of([script] * 8, AGREED, max_concurrency=2))
    assert statuses(rollouts) == [*["finished"] * 4, *[FOUR_AGREE] * 4]
    assert 4 <= len(asked) <= 6
    assert sum(rollout.usage.model_calls + rollout.usage.cut_calls for rollout in rollouts) == len(asked)


async def test_failures_agree_with_nobody(flying):
    fails = ScriptedTurn(error=RuntimeError("broken"), delay_seconds=0.5)
    scripts = [*[[says_so("yes", after)] for after in range(4)], [fails], [says_so("yes", 10)]]
    rollouts = await rollouts_of(node_of(scripts, AGREED, retries=Retries(attempts=1)))
    assert [rollout.status for rollout in rollouts] == [*["finished"] * 4, "failed", "finished"]


@pytest.mark.parametrize("seed", range(10))
async def test_never_do_fewer_than_the_quorum_finish_because_others_were_stopped(flying, seed):
    chance = random.Random(seed)
    fails = RuntimeError("broken")

    def script() -> list[ScriptedTurn]:
        first = looks(chance.uniform(0, 9), chance.choice([0.2, 1.0]))
        end = ScriptedTurn(
            text=chance.choice("aab"),
            entropy=[chance.choice([0.2, 1.0])] * 5,
            delay_seconds=chance.uniform(0, 9),
            error=chance.choice([None, None, None, fails]),
        )
        return [first, end]

    scripts = [script() for _ in range(8)]
    least, warm_up = chance.randint(1, 8), chance.randint(1, 4)
    able = sum(end.error is None for _, end in scripts)
    stopping = EarlyStopping(
        consensus=chance.choice(["share", "posterior"]), agreement=0.5, warm_up=warm_up, keep_percent=50.0, window=3
    )
    rollouts = await rollouts_of(node_of(scripts, stopping, min_finished=least, retries=Retries(attempts=1)))
    assert sum(rollout.status == "finished" for rollout in rollouts) >= min(least, able)
    assert len(rollouts) == 8


async def test_requests_of_stopped_rollouts_end_at_the_server(serve):
    all_ask, asked = threading.Event(), itertools.count()

    def script(request: Request) -> list[Reply]:
        """Answers four of the six, once all have asked."""
        return [says("yes", after=all_ask) if next(asked) < 4 else says("yes", delay_seconds=math.inf)]

    server: ChatServer = serve(script)
    model = ChatLogprobs(model="scripted", base_url=server.base_url, coalesce=False)
    graph = entropy_centroid_graph(create_agent(model, []), n=6, stopping=AGREED, on_unscorable="fallback")
    task = asyncio.create_task(graph.ainvoke(ASK))
    assert await asyncio.to_thread(server.comes_to, lambda: len(server.answered) == 6)
    all_ask.set()
    assert (await task)["messages"][-1].text == "yes"
    assert await asyncio.to_thread(server.comes_to, lambda: server.hang_ups == 2)


# Pruning


async def test_a_rollout_less_confident_than_the_warm_up_is_stopped_before_it_asks_again(flying):
    doubting = [looks(10, confidence=0.1), says_so("no", LATE)]
    scripts = [*[[says_so(f"answer {i}")] for i in range(4)], doubting]
    rollouts = await rollouts_of(node_of(scripts, PRUNED))
    why = "stopped early: a group of tokens has less confidence than 1 nats"
    assert statuses(rollouts) == [*["finished"] * 4, why]
    pruned = rollouts[4]
    assert (len(pruned.trajectory.turns), pruned.usage.generated_tokens) == (1, 5)


async def test_a_rollout_that_ends_with_the_doubtful_turn_costs_nothing_more_and_is_kept(flying):
    scripts = [*[[says_so(f"answer {i}")] for i in range(4)], [says_so("no", 10, confidence=0.1)]]
    assert statuses(await rollouts_of(node_of(scripts, PRUNED))) == ["finished"] * 5


async def test_a_confident_rollout_is_not_pruned(flying):
    scripts = [*[[says_so(f"answer {i}")] for i in range(4)], [looks(10), looks(10), says_so("no", 10)]]
    assert statuses(await rollouts_of(node_of(scripts, PRUNED))) == ["finished"] * 5


async def test_a_rollout_is_not_pruned_for_what_the_agent_did_not_keep(flying):
    @tool("look")
    async def doubt() -> str:
        """Look."""
        await ScriptedChat(scripts=[[says_so("hm", confidence=0.1)]]).ainvoke("What is it?")
        return "seen"

    scripts = [*[[says_so(f"answer {i}")] for i in range(4)], [looks(10), says_so("no", 10)]]
    agent = create_agent(ScriptedChat(scripts=scripts), [doubt])
    node = ParallelRollouts(agent, n=5, stopping=PRUNED, effects={"look": READ})
    rollouts = await rollouts_of(node)
    assert statuses(rollouts) == ["finished"] * 5
    assert rollouts[4].usage.model_calls == 3


async def test_synchronous_nodes_are_pruned_too():
    model = ScriptedChat(
        scripts=[
            *[[says_so(f"answer {i}"), says_so("done")] for i in range(2)],
            [says_so("hm", 1, confidence=0.1), says_so("done", 2)],
        ]
    )

    def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    builder = StateGraph(MessagesState).add_node("think", think).add_node("again", think)
    agent = builder.add_edge(START, "think").add_edge("think", "again").compile()
    stopping = EarlyStopping(keep_percent=50.0, window=3, warm_up=2)
    rollouts = await rollouts_of(ParallelRollouts(agent, n=3, stopping=stopping))
    assert [rollout.status for rollout in rollouts] == ["finished", "finished", "unfinished"]


# What is never stopped


async def test_in_shadow_mode_the_rollout_that_is_committed_is_never_stopped(flying):
    scripts = [[looks(), says_so("no", 500)], *[[says_so("yes")]] * 4, [says_so("yes", LATE)]]
    agent = create_agent(ScriptedChat(scripts=scripts), [look])
    graph = entropy_centroid_graph(
        agent, n=6, stopping=AGREED, effects={"look": READ}, on_unscorable="fallback", shadow=True
    )
    result = await graph.ainvoke(ASK)
    assert result["messages"][-1].text == "no"
    assert (result["selection"]["winner"], result["selection"]["shadow"]["same_outcome"]) == (0, False)
    assert result["selection"]["usage"]["cut_calls"] == 1


async def test_an_external_call_that_is_being_made_is_not_cut_in_half(flying):
    paid, ledger = list[str](), MemoryLedger()

    @tool
    async def pay() -> str:
        """Pay."""
        paid.append("begun")
        await asyncio.sleep(1000)
        paid.append("done")
        return "paid"

    rounds = {"first": True}

    async def act(state: MessagesState) -> dict[str, Any]:
        if rounds["first"] or rollout_index.get() == 4:
            await guarded(pay).ainvoke({})
            await asyncio.sleep(LATE)
        return {"messages": [AIMessage("yes")]}

    agent = StateGraph(MessagesState).add_node("act", act).add_edge(START, "act").compile()
    node = ParallelRollouts(agent, n=5, stopping=AGREED, effects={"pay": EXTERNAL}, ledger=ledger)
    node.has_selector = True
    held = (await _run(node))[0]
    rounds["first"] = False
    await node.forget([])
    graph = StateGraph(_Recorded).add_node("rollouts", node).add_edge(START, "rollouts").compile()
    found = await graph.ainvoke({**ASK, "rollouts": [held]})
    assert [record["error"] for record in found["rollouts"]] == [None] * 4 + [FOUR_AGREE]
    assert paid == ["begun", "done"]
    assert await ledger.unsettled() == []


# Branches


async def test_branches_are_stopped_with_what_they_have_from_their_parents(serve, tmp_path: Path):
    script = DecidingServer(turns(call(["add"], ["1", "2"])))
    environment = SqliteEnvironment(new_table(tmp_path / "world.db"))

    branch_asks = threading.Event()

    def silent_for_branches(request: Request) -> list[Reply]:
        before = len(script.prefixes)
        replies = script(request)
        if len(script.prefixes) > before:
            branch_asks.set()
            return [replace(replies[0], delay_seconds=math.inf)]
        ends = turns_of(request.body.get("messages", [])) == 1
        return [replace(reply, after=branch_asks) for reply in replies] if ends else replies

    server: ChatServer = serve(silent_for_branches)
    node = ParallelRollouts(
        agent_of(server), n=4, stopping=EarlyStopping(consensus="share", warm_up=2),
        branching=Branching(BranchPolicy(threshold=0.1), initial=2),
        effects={"add": WRITE, "look": READ}, environments=[environment],
    )  # fmt: skip
    rollouts = await rollouts_of(node)
    assert statuses(rollouts) == ["finished", "finished", "stopped early: 2 of 2 rollouts agree"]
    branch = rollouts[2]
    assert branch.branch is not None
    assert (branch.usage.generated_tokens, branch.usage.cut_calls, branch.forks) == (0, 1, {})
    assert await asyncio.to_thread(server.comes_to, lambda: server.hang_ups == 1)
    assert len([*tmp_path.glob(".entcent-*/forks/*")]) == 2
    await node.forget(rollouts)


async def test_once_they_agree_nothing_branches_any_more():
    stopping = Stopping(AGREED, least=1, kept=(0,))
    tree = Tree(Branching(BranchPolicy(threshold=0.1)), Places(range(2, 6)), _anything, stopping=stopping)
    hesitates = hesitating({5: 1.0})
    assert len(tree.points(0, 0, hesitates, reused=0, prompt="first")) == 1
    for index in range(4):
        stopping.ended(Rollout(index=index, thread_id="", status="finished", vote_key="yes"))
    assert stopping.agreed
    assert tree.points(0, 1, hesitates, reused=0, prompt="second") == []


# Resumption


async def until(graph: Any, given: Any, over: Callable[[set[tuple[int, str]]], bool]) -> None:
    """Run a request, and cancel it once its rollouts have come to these states."""
    seen, reached = set[tuple[int, str]](), asyncio.Event()

    async def follow() -> None:
        async for event in graph.astream(given, CONFIG, stream_mode="custom"):
            if event["type"] == "entcent.rollout":
                seen.add((event["rollout"], event["state"]))
                if over(seen):
                    reached.set()

    running = asyncio.create_task(follow())
    await reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def gone_on(graph: Any, clock: Clock) -> list[Rollout]:
    """Go on with a request, to the rollouts of its round."""

    async def follow() -> list[dict[str, Any]]:
        return [update async for update in graph.astream(None, CONFIG, stream_mode="updates")]

    updates = await clock.soon(follow())
    (found,) = [update["rollouts"]["rollouts"] for update in updates if "rollouts" in update]
    return [Rollout.from_dict(record) for record in found]


async def test_a_resumed_request_begins_no_stopped_rollout_anew(clock, tmp_path: Path):
    model = Counted(scripts=[[looks(), says_so("no", 30)], *[[says_so("yes")]] * 4, [looks(), says_so("maybe", 30)]])
    agent = create_agent(model, [look])
    for attempt in range(2):
        async with durable(tmp_path) as settings:
            graph = entropy_centroid_graph(
                agent, n=6, stopping=AGREED, effects={"look": READ}, on_unscorable="fallback", shadow=True, **settings
            )
            if attempt == 0:
                await until(graph, ASK, lambda seen: (5, "unfinished") in seen)
                asked = len(model.asked)
            else:
                rollouts = await gone_on(graph, clock)
    assert statuses(rollouts) == [*["finished"] * 5, FOUR_AGREE]
    assert rollouts[5].usage.generated_tokens == 5
    assert [thread[-2:] for thread in model.asked[asked:]] == [":0"]


async def test_what_agrees_on_record_stops_the_others_before_they_go_on(clock, tmp_path: Path):
    database = new_table(tmp_path / "world.db")

    @tool
    async def add() -> str:
        """Add a row."""
        with closing(sqlite3.connect(current_environment().path)) as connection, connection:
            connection.execute("INSERT INTO t VALUES (1)")
        return "added"

    adds = ScriptedTurn(tool_calls=[("add", {})], entropy=[1.0] * 5)
    model = Counted(scripts=[*[[says_so("yes")]] * 4, [adds, says_so("no", 30)], [adds, says_so("no", 30)]])
    agent = create_agent(model, [add])
    ended = {(index, "finished") for index in range(4)}
    for stopping in (None, AGREED):
        async with durable(tmp_path) as settings:
            graph = entropy_centroid_graph(
                agent, n=6, stopping=stopping, effects={"add": WRITE}, on_unscorable="fallback",
                environments=[SqliteEnvironment(database)], **settings,
            )  # fmt: skip
            if stopping is None:
                await until(graph, ASK, lambda seen: ended <= seen and len(model.asked) == 8)
            else:
                rollouts = await gone_on(graph, clock)
                left = [found async for found in settings["rollout_checkpointer"].alist(None)]
    assert statuses(rollouts) == [*["finished"] * 4, FOUR_AGREE, FOUR_AGREE]
    assert [len(rollout.trajectory.turns) for rollout in rollouts] == [1] * 6
    assert len(model.asked) == 8
    assert left == []
    assert rows(database) == []
    assert [*tmp_path.glob(".entcent-*/forks/*")] == []


# Settings


@pytest.mark.parametrize(
    ("stopping", "says_why"),
    [(EarlyStopping(consensus="share", warm_up=5), "warm_up=5 is more than n=4"), ("share", "must be a EarlyStopping")],
)
def test_what_cannot_work_is_refused_up_front(stopping, says_why):
    agent = create_agent(ScriptedChat(scripts=[[says_so("yes")]]), [])
    with pytest.raises(ConfigurationError, match=says_why):
        entropy_centroid_graph(agent, n=4, stopping=stopping)
