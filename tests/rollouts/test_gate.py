"""Budgets of tokens and cost hold, by the server's own count, whatever chat model asks and however calls end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import SecretStr

from entcent_agents.budget import Budget, Prices
from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.effects import READ
from entcent_agents.errors import BudgetExceededError, ConfigurationError, ModelServerError, RolloutsFailedError
from entcent_agents.nodes import EntropyCentroidSelector, ParallelRollouts, Retries, RolloutsState, unfinished
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.rollouts.gate import Gate, Passage
from entcent_agents.selection import First
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from entcent_agents.trajectory import Usage
from tests.rollouts.billing import Biller, answered, troubled

MOST = 40
ASK = {"messages": [HumanMessage("go and see")]}
QUICK = Retries(first_seconds=0.01, max_seconds=0.05)


@tool
def look(x: int) -> str:
    """Look at something."""
    return f"seen {x}, and it is rather far away"


def ours(server, **settings: Any) -> ChatLogprobs:
    return ChatLogprobs(model="m", base_url=server.base_url, max_tokens=MOST, **settings)


def foreign(server, **settings: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="m", base_url=server.base_url, api_key=SecretStr("k"), max_tokens=MOST, max_retries=0, **settings
    )


def synchronous(model):
    """An agent whose only node calls its model synchronously, twice."""

    def answer(state: MessagesState) -> dict[str, Any]:
        first = model.invoke(state["messages"])
        return {"messages": [model.invoke([*state["messages"], HumanMessage(first.text), HumanMessage("go on")])]}

    return StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()


def budgeted(agent, budget: Budget, *, n: int = 8, **settings: Any):
    return entropy_centroid_graph(
        agent, n=n, budget=budget, selector=First(), on_unscorable="fallback", retries=QUICK, effects={"look": READ},
        **settings,
    )  # fmt: skip


async def outcome_of(graph, ask: dict[str, Any] = ASK) -> dict[str, Any] | None:
    """The usage record, or None where too few rollouts had room."""
    try:
        return (await graph.ainvoke(ask))["selection"]["usage"]
    except RolloutsFailedError:
        return None


@pytest.mark.parametrize("fate", [answered, troubled])
@pytest.mark.parametrize("model", [ours, foreign])
async def test_sixty_four_rollouts_stay_below_their_budget(serve, model, fate):
    biller = Biller(fate, calls=True)
    server = serve(biller)
    most = 9_000 if fate is answered else 30_000
    usage = await outcome_of(budgeted(create_agent(model(server), [look]), Budget(max_tokens=most), n=64))
    assert usage is not None
    assert biller.total.tokens <= usage["charged_tokens"] <= most
    assert biller.total.tokens > most / 8, "the budget was there to be used"
    assert usage["prompt_tokens"] + usage["generated_tokens"] <= biller.total.tokens


async def test_sixty_four_requests_at_once_stay_each_below_its_own(serve):
    biller = Biller(troubled)
    server = serve(biller)
    most = 2_500
    graph = budgeted(create_agent(ours(server), []), Budget(max_tokens=most))
    asks = [{"messages": [HumanMessage(f"request-{i} is this")]} for i in range(64)]
    usages = await asyncio.gather(*(outcome_of(graph, ask) for ask in asks))
    assert len(biller.bills) == 64
    assert max(bill.tokens for bill in biller.bills.values()) <= most
    for i, usage in enumerate(usages):
        assert usage is None or biller.bills[f"request-{i}"].tokens <= usage["charged_tokens"] <= most
    assert sum(usage is not None for usage in usages) > 32


@pytest.mark.parametrize("fate", [answered, troubled])
@pytest.mark.parametrize("model", [ours, foreign])
def test_synchronous_nodes_wait_for_room_in_their_threads(serve, model, fate):
    biller = Biller(fate)
    server = serve(biller)
    most = 5_000
    graph = budgeted(synchronous(model(server)), Budget(max_tokens=most), n=16)
    result = graph.invoke(ASK)
    usage = result["selection"]["usage"]
    assert biller.total.tokens <= usage["charged_tokens"] <= most
    assert biller.total.tokens > most / 4


async def test_cost_is_kept_below_its_limit_too(serve):
    biller = Biller(troubled, calls=True)
    server = serve(biller)
    prices = Prices(prompt=2.0, generated=10.0)
    budget = Budget(max_cost=0.02, prices={"m": prices})
    usage = await outcome_of(budgeted(create_agent(ours(server), [look]), budget, n=32))
    assert usage is not None
    billed = biller.total
    cost = prices.cost(prompt_tokens=billed.prompt_tokens, generated_tokens=billed.generated_tokens)
    rounding = 1e-12  # sums of the same calls in another order
    assert usage["cost"] <= cost + rounding <= usage["charged_cost"] + 2 * rounding <= 0.02 + 2 * rounding


async def test_what_the_server_counted_makes_later_bounds_tight(serve):
    """Bounds of bytes alone would not let the fifth turn begin, which the server's count of the first four does."""
    biller = Biller(turns=4, calls=True)
    server = serve(biller)
    ask = {"messages": [HumanMessage("request-1 " + "a long story, " * 150)]}
    budget = Budget(max_tokens=9_000)
    usage = await outcome_of(budgeted(create_agent(ours(server), [look]), budget, n=1), ask)
    assert usage is not None
    assert usage["model_calls"] == 5
    assert usage["charged_tokens"] == biller.total.tokens


async def test_a_rollout_without_room_ends_and_the_others_go_on(serve):
    """Each asks by itself, for a prompt of its own: two have room."""
    biller = Biller(lambda dice: "slow")
    server = serve(biller)
    seen: list[dict[str, Any]] = []

    class Looking(First):
        def select(self, rollouts):
            seen.extend(rollout.to_dict() for rollout in rollouts)
            return super().select(rollouts)

    graph = entropy_centroid_graph(
        create_agent(ours(server), []), n=4, budget=Budget(max_tokens=900), selector=Looking(), on_unscorable="fallback"
    )
    events = [event async for event in graph.astream(ASK, stream_mode="custom")]
    ended = Counter(event["state"] for event in events if event.get("state") in ("finished", "unfinished", "failed"))
    assert ended["finished"] == len(seen) >= 1
    assert ended["finished"] + ended["unfinished"] == 4


async def test_without_room_for_anything_the_error_names_the_limit(serve):
    biller = Biller()
    server = serve(biller)
    with pytest.raises(RolloutsFailedError, match=r"BudgetExceededError: max_tokens=300: 0 are spent, 0 reserved"):
        await budgeted(create_agent(ours(server), []), Budget(max_tokens=300)).ainvoke(ASK)
    assert server.requests == []


@pytest.mark.parametrize(
    ("model", "budget", "message"),
    [
        (
            lambda server: ours(server).model_copy(update={"max_tokens": None}),
            Budget(max_tokens=10_000),
            "nothing limits an answer of m: give the chat model max_tokens=",
        ),
        (
            ours,
            Budget(max_cost=1.0, prices={"other": Prices(prompt=1, generated=1)}),
            "nobody knows what 'm' costs: add it to the budget's prices, which know other",
        ),
    ],
)
async def test_a_call_that_nothing_bounds_is_refused_before_it_is_made(serve, model, budget, message):
    server = serve(Biller())
    with pytest.raises(ConfigurationError, match=message):
        await budgeted(create_agent(model(server), []), budget).ainvoke(ASK)
    assert server.requests == []


async def test_content_whose_tokens_do_not_follow_from_its_bytes_is_refused(serve):
    server = serve(Biller())
    picture = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    ask = {"messages": [HumanMessage([{"type": "text", "text": "what is this?"}, picture])]}
    with pytest.raises(ConfigurationError, match="'image_url', whose tokens nobody can tell"):
        await budgeted(create_agent(ours(server), []), Budget(max_tokens=10_000)).ainvoke(ask)
    assert server.requests == []


async def test_below_a_budget_a_request_is_repeated_by_the_rollout_alone(serve):
    server = serve(Biller(lambda dice: "refused"))
    graph = budgeted(create_agent(ours(server, max_retries=5), []), Budget(max_tokens=50_000), n=1)
    assert await outcome_of(graph) is None
    assert len(server.requests) == QUICK.attempts


@pytest.mark.parametrize("model", [ours, foreign])
async def test_a_server_that_is_not_there_is_charged_for_nothing(model):
    other = model(SimpleNamespace(base_url="http://127.0.0.1:9/v1"))
    budget = Budget(max_tokens=900)  # a second attempt has room only where the first gave everything back
    with pytest.raises(RolloutsFailedError, match="ModelServerError|OpenAIConnectionError") as failed:
        await budgeted(create_agent(other, []), budget, n=1).ainvoke(ASK)
    assert "BudgetExceededError" not in str(failed.value)


async def test_without_limits_of_tokens_or_cost_no_call_passes_a_gate(serve):
    server = serve(Biller())
    unlimited = ours(server).model_copy(update={"max_tokens": None})
    usage = await outcome_of(budgeted(create_agent(unlimited, []), Budget(max_rollouts=3), n=2))
    assert usage is not None
    assert usage["charged_tokens"] == 0


class Calls:
    """Calls of one rollout, told to its gate as LangChain tells them."""

    def __init__(self, most: int, *, spent: int = 0, gate: Gate | None = None) -> None:
        self.recorder = TurnRecorder()
        self.gate = gate or Gate(Budget(max_tokens=most), Usage(charged_tokens=spent))
        self.passage = Passage(self.gate, self.recorder)
        self.marking, self.blocking, self.awaiting = self.passage.handlers

    def told(self, limit: int = 100, **more: Any) -> dict[str, Any]:
        return {"run_id": uuid4(), "invocation_params": {"max_tokens": limit}, "metadata": {}, **more}

    async def begin(self, **more: Any):
        told = self.told(**more)
        messages = [[HumanMessage("hello")]]
        await self.marking.on_chat_model_start({}, messages, **told)
        self.blocking.on_chat_model_start({}, messages, **told)
        await self.awaiting.on_chat_model_start({}, messages, **told)
        return told["run_id"]

    def end(self, run_id, tokens: int = 10) -> None:
        usage = {"input_tokens": tokens, "output_tokens": 0, "total_tokens": tokens}
        generation = ChatGeneration(message=AIMessage("ok", usage_metadata=usage))
        self.blocking.on_llm_end(LLMResult(generations=[[generation]]), run_id=run_id)

    @property
    def charged(self) -> int:
        return self.recorder.usage.charged_tokens


ROOM_FOR_ONE = 1_000
"""A call of `Calls` may use between half of it and all of it."""


async def test_a_call_waits_until_another_gives_back():
    calls = Calls(ROOM_FOR_ONE)
    first = await calls.begin()

    async def another() -> None:
        calls.end(await calls.begin(), 7)

    waiting = asyncio.create_task(another())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    calls.end(first, 10)
    await asyncio.wait_for(waiting, 60)
    assert calls.charged == 17


async def test_whoever_is_cancelled_while_it_waits_leaves_no_place_behind():
    calls = Calls(ROOM_FOR_ONE)
    first = await calls.begin()
    waiting = [asyncio.create_task(calls.begin()) for _ in range(2)]
    await asyncio.sleep(0.05)
    waiting[0].cancel()
    await asyncio.sleep(0.05)
    calls.end(first)
    await asyncio.wait_for(waiting[1], 60)
    assert waiting[0].cancelled()


async def test_a_call_that_was_cut_off_is_charged_in_full_when_its_task_ends():
    """LangChain tells nobody of the end of a call that is cancelled; others must not wait for it for ever."""
    calls = Calls(ROOM_FOR_ONE)

    async def cut_off() -> None:
        await calls.begin()
        await asyncio.sleep(60)

    cut = asyncio.create_task(cut_off())
    await asyncio.sleep(0.05)
    waiting = asyncio.create_task(calls.begin())
    await asyncio.sleep(0.05)
    cut.cancel()
    with pytest.raises(BudgetExceededError):
        await asyncio.wait_for(waiting, 60)
    assert 500 < calls.charged < ROOM_FOR_ONE


async def test_a_call_is_over_when_its_task_makes_another():
    calls = Calls(ROOM_FOR_ONE)
    await calls.begin()  # and a time-out cuts it off, of which nothing is heard
    with pytest.raises(BudgetExceededError):
        async with asyncio.timeout(60):
            await calls.begin()


async def test_a_call_goes_on_while_its_chat_model_asks_another_in_the_same_task():
    calls = Calls(2 * ROOM_FOR_ONE)
    outer = await calls.begin()
    calls.end(await calls.begin(parent_run_id=outer), 7)
    calls.end(outer, 10)
    assert calls.charged == 17


async def test_a_call_inside_another_one_does_not_wait_for_that_to_end():
    calls = Calls(ROOM_FOR_ONE)
    outer = await calls.begin()
    with pytest.raises(BudgetExceededError, match="reserved"):
        async with asyncio.timeout(60):
            await calls.begin(parent_run_id=outer)
    calls.end(outer, 10)
    assert calls.charged == 10


@pytest.mark.parametrize(
    ("error", "given_back"),
    [
        (ModelServerError("busy", status=503), True),
        (ModelServerError("slow down", status=429), True),
        (ModelServerError("no answer came through", status=504), False),
        (ModelServerError("broke off", broke_off=True), False),
        (ModelServerError("nobody there", broke_off=True, reached=False), True),
        (ConnectionRefusedError(), True),
        (ConnectionResetError(), False),
        (TimeoutError(), False),
        (asyncio.CancelledError(), False),
    ],
)
async def test_only_what_was_surely_not_generated_is_given_back(error, given_back):
    calls = Calls(10_000)
    run_id = await calls.begin()
    calls.blocking.on_llm_error(error, run_id=run_id)
    assert (calls.charged == 0) == given_back


async def test_without_a_count_of_the_servers_a_call_is_charged_in_full():
    calls = Calls(10_000)
    run_id = await calls.begin()
    generation = ChatGeneration(message=AIMessage("ok"))
    calls.blocking.on_llm_end(LLMResult(generations=[[generation]]), run_id=run_id)
    assert calls.charged > 500


async def test_a_rollouts_end_charges_what_is_under_way_and_wakes_who_waits():
    gate = Gate(Budget(max_tokens=ROOM_FOR_ONE), Usage())
    ending, other = Calls(0, gate=gate), Calls(0, gate=gate)
    await ending.begin()
    mine, others = asyncio.create_task(ending.begin()), asyncio.create_task(other.begin())
    await asyncio.sleep(0.05)
    ending.passage.close()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(mine, 60)
    with pytest.raises(BudgetExceededError):
        await asyncio.wait_for(others, 60)
    with pytest.raises(asyncio.CancelledError):
        await ending.begin()


def test_a_thread_that_waits_is_woken_by_the_rollouts_end():
    calls = Calls(ROOM_FOR_ONE)
    calls.blocking.on_chat_model_start({}, [[HumanMessage("hello")]], **calls.told())
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            calls.blocking.on_chat_model_start({}, [[HumanMessage("hello")]], **calls.told())
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    assert thread.is_alive()
    calls.passage.close()
    thread.join(60)
    assert [type(error) for error in ended] == [asyncio.CancelledError]


async def test_a_synchronous_call_on_an_event_loop_is_refused_rather_than_block_it(serve):
    server = serve(Biller(lambda dice: "slow"))
    model = foreign(server)

    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    agent = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()
    usage = await asyncio.wait_for(outcome_of(budgeted(agent, Budget(max_tokens=2_000), n=4)), 60)
    assert usage is not None
    assert usage["model_calls"] == 4  # one after the other, as the loop is blocked anyway


async def test_prompts_of_one_batch_do_not_wait_for_each_other(serve):
    server = serve(Biller())
    model = ours(server)

    async def answer(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        result = await model.agenerate([state["messages"]] * 2, callbacks=config["callbacks"])
        return {"messages": [result.generations[0][0].message]}

    agent = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()
    assert await asyncio.wait_for(outcome_of(budgeted(agent, Budget(max_tokens=900), n=1)), 60) is None
    usage = await outcome_of(budgeted(agent, Budget(max_tokens=3_000), n=1))
    assert usage is not None
    assert usage["charged_tokens"] == usage["prompt_tokens"] + usage["generated_tokens"]


async def test_calls_on_several_loops_and_threads_share_one_gate():
    gate = Gate(Budget(max_tokens=ROOM_FOR_ONE), Usage())
    ended: list[int] = []

    def synchronously(number: int) -> None:
        calls = Calls(0, gate=gate)
        for _ in range(3):
            told = calls.told()
            calls.blocking.on_chat_model_start({}, [[HumanMessage("hello")]], **told)
            time.sleep(0.002)
            calls.end(told["run_id"], 5)
        ended.append(number)

    async def asynchronously(number: int) -> None:
        calls = Calls(0, gate=gate)
        for _ in range(3):
            run_id = await calls.begin()
            await asyncio.sleep(0.002)
            calls.end(run_id, 5)
        ended.append(number)

    threads = [threading.Thread(target=synchronously, args=(i,)) for i in range(8)]
    threads += [threading.Thread(target=lambda i=i: asyncio.run(asynchronously(i))) for i in range(8, 16)]
    for thread in threads:
        thread.start()
    await asyncio.wait_for(asyncio.gather(*(asynchronously(i) for i in range(16, 24))), 60)
    for thread in threads:
        await asyncio.to_thread(thread.join, 10)
    assert sorted(ended) == [*range(24)]


async def test_max_rollouts_bounds_those_of_all_rounds():
    """Two of three: the next round has one, and after that a held rollout stays held until a budget has more."""
    turns = [ScriptedTurn(tool_calls=[("send", {})]) for _ in range(3)]
    sent: list[int] = []

    @tool
    def send() -> str:
        """Send it."""
        sent.append(1)
        return "sent"

    agent = create_agent(ScriptedChat(scripts=[[*turns, ScriptedTurn(text="done")]]), [send])
    saver = InMemorySaver()
    config: Any = {"configurable": {"thread_id": "t"}}

    def graph_with(most: int):
        builder = StateGraph(RolloutsState)
        node = ParallelRollouts(agent, n=2, budget=Budget(max_rollouts=most), rollout_checkpointer=rollouts)
        builder.add_node("rollouts", node)
        builder.add_node("select", EntropyCentroidSelector(node, selector=First(), on_unscorable="fallback"))
        builder.add_edge(START, "rollouts").add_edge("rollouts", "select")
        builder.add_conditional_edges("select", unfinished, {True: "rollouts", False: "__end__"})
        return builder.compile(checkpointer=saver)

    rollouts = InMemorySaver()
    with pytest.raises(
        BudgetExceededError, match="max_rollouts=3: 3 were begun, and a round needs 1: what is held stays"
    ):
        await graph_with(3).ainvoke(ASK, config)
    assert len(sent) == 1
    result = await graph_with(8).ainvoke(None, config)
    assert len(sent) == 3
    assert result["selection"]["usage"]["rollouts"] == 7
    assert result["selection"]["usage"]["rounds"] == 4


async def test_a_budget_with_fewer_rollouts_than_the_quorum_is_told_so():
    agent = create_agent(ScriptedChat(scripts=[[ScriptedTurn(text="done")]]), [])
    graph = entropy_centroid_graph(agent, n=4, min_finished=3, budget=Budget(max_rollouts=2))
    with pytest.raises(BudgetExceededError, match="a round needs 3: raise it, or lower min_finished"):
        await graph.ainvoke(ASK)


async def test_rollouts_inside_a_rollout_draw_on_the_outer_budget_too(serve):
    biller = Biller()
    server = serve(biller)
    inner = budgeted(create_agent(ours(server), []), Budget(), n=3)

    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": (await inner.ainvoke({"messages": state["messages"]}))["messages"][-1:]}

    agent = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()
    usage = await outcome_of(budgeted(agent, Budget(max_tokens=4_000), n=2))
    assert usage is not None
    assert usage["charged_tokens"] == biller.total.tokens
    assert await outcome_of(budgeted(agent, Budget(max_tokens=400), n=2)) is None


async def test_the_tokens_of_a_streamed_call_are_counted_and_charged_as_of_any(serve):
    biller = Biller()
    server = serve(biller)
    model = ours(server)

    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": ["".join([str(chunk.text) async for chunk in model.astream(state["messages"])])]}

    agent = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()
    usage = await outcome_of(budgeted(agent, Budget(max_tokens=4_000), n=4))
    assert usage is not None
    assert usage["charged_tokens"] == usage["prompt_tokens"] + usage["generated_tokens"] == biller.total.tokens
