"""One usage record for each request: every rollout once, whatever became of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command
from pydantic import Field

from entcent_agents.budget import Budget, Prices
from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.effects import READ
from entcent_agents.nodes import Retries
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.selection import First
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from entcent_agents.trajectory import Rollout, Spent, Usage
from tests.chat_server import Reply, Request, says
from tests.passing_time import Clock
from tests.rollouts.billing import Biller
from tests.rollouts.worlds import ASK, World, turn

CONFIG: Any = {"configurable": {"thread_id": "t"}}
PROMPT = 1
"""What every call of a `ScriptedChat` reads."""


@tool
def look(x: int) -> str:
    """Look at something."""
    return f"seen {x}"


def model_of(server, **settings: Any) -> ChatLogprobs:
    return ChatLogprobs(model="m", base_url=server.base_url, max_tokens=40, **settings)


def graph_of(agent, **settings: Any):
    return entropy_centroid_graph(agent, selector=First(), on_unscorable="fallback", **settings)


@pytest.mark.parametrize("coalesce", [True, False])
@pytest.mark.parametrize("n", [1, 7, 64])
async def test_the_sum_is_the_servers_bill_shared_prompts_included(serve, n, coalesce):
    biller = Biller(calls=True)
    server = serve(biller)
    agent = create_agent(model_of(server, coalesce=coalesce), [look])
    result = await graph_of(agent, n=n, effects={"look": READ}).ainvoke(ASK)
    usage = result["selection"]["usage"]
    billed = biller.total
    assert (usage["prompt_tokens"], usage["generated_tokens"]) == (billed.prompt_tokens, billed.generated_tokens)
    assert (usage["rollouts"], usage["rounds"], usage["model_calls"], usage["cut_calls"]) == (n, 1, 2 * n, 0)
    assert 0 < usage["seconds_to_first_visible"] <= usage["seconds"]


async def test_it_costs_what_the_prices_say(serve):
    biller = Biller()
    server = serve(biller)
    prices = Prices(prompt=3.0, generated=7.0)
    graph = graph_of(create_agent(model_of(server), []), n=4, budget=Budget(prices={"m": prices}))
    usage = (await graph.ainvoke(ASK))["selection"]["usage"]
    billed = biller.total
    expected = prices.cost(prompt_tokens=billed.prompt_tokens, generated_tokens=billed.generated_tokens)
    assert usage["cost"] == pytest.approx(expected)


@pytest.mark.parametrize("prices", [{}, {"another": Prices(prompt=1, generated=1)}])
async def test_where_a_model_has_no_price_nothing_is_said_of_cost(serve, prices):
    server = serve(Biller())
    graph = graph_of(create_agent(model_of(server), []), n=2, budget=Budget(prices=prices))
    assert (await graph.ainvoke(ASK))["selection"]["usage"]["cost"] is None


async def test_calls_that_break_off_count_what_was_seen_and_that_they_did(serve):
    replies = iter([says("a b c d e f", breaks_after=4, breaks_how="close")])
    server = serve(lambda request: [next(replies, says("done"))])
    graph = graph_of(create_agent(model_of(server), []), n=1, retries=Retries(first_seconds=0.01))
    usage = (await graph.ainvoke(ASK))["selection"]["usage"]
    assert usage["cut_calls"] == 1
    assert usage["generated_tokens"] == 4 + 1
    assert usage["model_calls"] == 1


async def test_a_refused_call_is_no_cut_call(serve):
    replies = iter([Reply(status=503, error="busy")])
    server = serve(lambda request: [next(replies, says("done"))])
    graph = graph_of(create_agent(model_of(server, max_retries=0), []), n=1, retries=Retries(first_seconds=0.01))
    usage = (await graph.ainvoke(ASK))["selection"]["usage"]
    assert (usage["cut_calls"], usage["generated_tokens"]) == (0, 1)


@pytest.mark.parametrize("budget", [None, Budget(max_tokens=50_000)])
async def test_a_call_that_the_agent_itself_cuts_off_is_counted_as_such(serve_hurried, budget):
    """Of a call that is cancelled LangChain tells nobody."""

    def script(request: Request) -> list[Reply]:
        stalls = request.body["messages"][-1]["content"] == "slowly"
        return [says("a b c d", breaks_after=3, breaks_how="stall") if stalls else says("done")]

    model = model_of(serve_hurried(script))

    async def answer(state: MessagesState) -> dict[str, Any]:
        try:
            async with asyncio.timeout(30):
                await model.ainvoke([HumanMessage("slowly")])
        except TimeoutError:
            pass
        return {"messages": [await model.ainvoke(state["messages"])]}

    agent = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()
    usage = (await graph_of(agent, n=1, budget=budget).ainvoke(ASK))["selection"]["usage"]
    assert usage["cut_calls"] == 1
    assert usage["generated_tokens"] == 3 + 1
    assert (usage["charged_tokens"] > 500) == (budget is not None)


async def test_answers_that_the_server_does_not_count_are_marked_as_such(serve):
    server = serve([says("a b c")], counts=False)
    usage = (await graph_of(create_agent(model_of(server), []), n=2).ainvoke(ASK))["selection"]["usage"]
    assert (usage["model_calls"], usage["cut_calls"]) == (2, 2)
    assert usage["generated_tokens"] == 6


def test_parallel_calls_of_one_rollout_keep_their_tokens_apart():
    recorder, one, two = TurnRecorder(), uuid4(), uuid4()
    for run_id in (one, two):
        recorder.on_chat_model_start({}, [], run_id=run_id)
    recorder.arrived(one, 3)
    recorder.arrived(two, 5)
    recorder.on_llm_error(TimeoutError(), run_id=one)
    assert recorder.usage.generated_tokens == 3
    recorder.close()
    assert (recorder.usage.generated_tokens, recorder.usage.cut_calls) == (8, 2)


async def test_rounds_add_up_and_the_time_of_people_does_not_count(clock: Clock, world: World):
    turns = [turn("", ("send", {"to": "x"})), turn("", ("confirm", {"question": "sure?"})), turn("done")]
    agent = create_agent(ScriptedChat(scripts=[turns]), world.tools)
    graph = graph_of(agent, n=3, effects={"look": READ, "confirm": READ}, checkpointer=InMemorySaver())
    asked = await graph.ainvoke(ASK, CONFIG)
    usages = [asked["selection"]["usage"]]
    clock.forward(3600)  # a person thinks
    usages.append((await graph.ainvoke(Command(resume="yes"), CONFIG))["selection"]["usage"])
    assert [(usage["rounds"], usage["rollouts"], usage["model_calls"]) for usage in usages] == [(2, 6, 6), (3, 9, 9)]
    assert [usage["generated_tokens"] for usage in usages] == [6 * 150, 9 * 150]
    assert [usage["prompt_tokens"] for usage in usages] == [6 * PROMPT, 9 * PROMPT]
    assert usages[0]["seconds"] < usages[1]["seconds"] < usages[0]["seconds"] + 3600
    assert usages[0]["seconds_to_first_visible"] == usages[1]["seconds_to_first_visible"] < usages[0]["seconds"]


async def test_rollouts_that_failed_count_and_those_that_a_plain_run_replaced():
    failing = [turn("", ("look", {"x": 1})), ScriptedTurn(error=RuntimeError("no answer"))]
    scripts = [failing, failing, [turn("plain")]]
    graph = graph_of(
        create_agent(ScriptedChat(scripts=scripts), [look]), n=2, effects={"look": READ}, on_unavailable="single"
    )
    usage = (await graph.ainvoke(ASK))["selection"]["usage"]
    assert (usage["rollouts"], usage["model_calls"]) == (3, 3)
    assert usage["cut_calls"] == 2  # nobody knows what became of those that raised
    assert usage["generated_tokens"] == 3 * 150


class Counted(ScriptedChat):
    asked: list[str] = Field(default_factory=list)

    async def _play(self, messages: Any, run_manager: Any) -> Any:
        self.asked.append(str(run_manager.metadata.get("thread_id")))
        return await super()._play(messages, run_manager)


@asynccontextmanager
async def durable(tmp_path: Path) -> AsyncIterator[dict[str, Any]]:
    async with (
        AsyncSqliteSaver.from_conn_string(str(tmp_path / "parent.db")) as parent,
        AsyncSqliteSaver.from_conn_string(str(tmp_path / "rollouts.db")) as rollouts,
    ):
        yield {"checkpointer": parent, "rollout_checkpointer": rollouts}


@pytest.mark.parametrize("budget", [None, Budget(max_tokens=50_000)])
async def test_a_resumed_request_counts_what_its_journals_recorded_once(clock: Clock, tmp_path: Path, budget):
    slow = [turn("", ("look", {"x": 1})), ScriptedTurn(text="done", entropy=[0.1] * 150, delay_seconds=30.0)]
    quick = [turn("at once")]
    model = Counted(scripts=[slow, quick], max_tokens=200)
    agent = create_agent(model, [look])
    async with durable(tmp_path) as settings:
        graph = graph_of(agent, n=2, effects={"look": READ}, budget=budget, **settings)
        run = asyncio.create_task(graph.ainvoke(ASK, CONFIG))
        while len(model.asked) < 3:  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    async with durable(tmp_path) as settings:
        graph = graph_of(agent, n=2, effects={"look": READ}, budget=budget, **settings)
        usage = (await clock.soon(graph.ainvoke(None, CONFIG)))["selection"]["usage"]
    assert usage["model_calls"] == 3
    assert usage["generated_tokens"] == 3 * 150
    if budget:  # the call that was under way may have used all it had reserved
        assert usage["charged_tokens"] > 3 * 151 + 200
        assert usage["cut_calls"] == 1


def test_records_of_earlier_versions_have_no_cost_and_nothing_spent():
    record = Rollout(index=0, thread_id="t", status="finished").to_dict() | {"version": 2}
    del record["spent"]
    record["usage"] = {"prompt_tokens": 1, "generated_tokens": 2, "model_calls": 1}
    read = Rollout.from_dict(record)
    assert read.usage == Usage(prompt_tokens=1, generated_tokens=2, model_calls=1, cost=None)
    assert read.spent is None


def test_what_is_spent_survives_its_record():
    usage = Usage(prompt_tokens=5, cached_tokens=2, generated_tokens=3, model_calls=2, cut_calls=1, cost=None)
    spent = Spent(usage=usage, rollouts=4, rounds=2, seconds=1.5, seconds_to_first_visible=0.5)
    assert Spent.from_dict(spent.to_dict()) == spent
    rollout = Rollout(index=0, thread_id="t", status="held", spent=spent)
    assert Rollout.from_dict(rollout.to_dict()).spent == spent


def test_cached_prompt_tokens_are_counted_where_they_are_known():
    usage: Any = {"input_tokens": 9, "output_tokens": 1, "total_tokens": 10, "input_token_details": {"cache_read": 6}}
    recorder = TurnRecorder(prices={"m": Prices(prompt=2.0, generated=1.0, cached=1.0)})
    run_id = uuid4()
    recorder.on_chat_model_start({}, [], run_id=run_id, metadata={"ls_model_name": "m"})
    answer = ChatGeneration(message=AIMessage("ok", usage_metadata=usage))
    recorder.on_llm_end(LLMResult(generations=[[answer]]), run_id=run_id)
    assert recorder.usage.cached_tokens == 6
    assert asdict(recorder.usage)["cost"] == pytest.approx((3 * 2.0 + 6 * 1.0 + 1.0) / 1e6)
