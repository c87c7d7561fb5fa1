"""A rollout goes on from its last checkpoint where a model call failed for a passing reason, and there alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from email.utils import formatdate

import pytest
import requests
from langchain.agents import create_agent
from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.chat.retry_after import retry_after_seconds
from entcent_agents.chat.sampling import SamplingPool, use_pool
from entcent_agents.errors import ConfigurationError, ModelServerError
from entcent_agents.rollouts.retries import Retries, with_retries
from tests.chat_server import Reply, Request, says

QUICK = Retries(first_seconds=0.01, max_seconds=0.05)
FAILURES = [
    pytest.param(Reply(status=429, error="slow down"), id="429"),
    pytest.param(Reply(status=503, error="loading"), id="503"),
    pytest.param(says("a b c d", breaks_after=2, breaks_how="close"), id="closed"),
    pytest.param(says("a b c d", breaks_after=2, breaks_how="reset"), id="reset"),
    pytest.param(says("a b c d", breaks_after=2, breaks_how="stall"), id="stalled"),
]


@pytest.fixture(params=["memory", "sqlite"])
async def saver(request: pytest.FixtureRequest, tmp_path) -> AsyncIterator[BaseCheckpointSaver]:
    if request.param == "memory":
        yield InMemorySaver()
        return
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "rollouts.db")) as sqlite:
        yield sqlite


class Run:
    """A rollout's thread of a graph, run with retries."""

    def __init__(self, graph, thread: str = "1", retries: Retries = QUICK, repeatable: Sequence[str] = ()) -> None:
        self.graph, self.retries, self.repeatable = graph, retries, repeatable
        self.recorder = TurnRecorder()
        self.told: list[tuple[BaseException, float]] = []
        self.pausing = asyncio.Event()
        self.config = {"configurable": {"thread_id": thread}, "callbacks": [self.recorder]}

    async def __call__(self) -> list[AnyMessage]:
        return await self.of({"messages": [HumanMessage("Where is it?")]})

    async def of(self, start) -> list[AnyMessage]:
        state = await with_retries(
            lambda: self.graph.ainvoke(start, self.config),
            lambda: self.graph.ainvoke(None, self.config),
            lambda error: self.recorder.failed_with(error, repeatable=self.repeatable),
            self.retries,
            self._tell,
        )
        return state["messages"]

    def _tell(self, error: BaseException, seconds: float) -> None:
        self.told.append((error, seconds))
        self.pausing.set()


def in_order(*replies: Reply):
    served = iter(replies)
    return lambda request: [next(served)]


def chat(server, **settings) -> ChatLogprobs:
    return ChatLogprobs(model="scripted", base_url=server.base_url, max_retries=0, timeout_seconds=30, **settings)


def calls(name: str) -> Reply:
    return Reply(tool_calls=[(name, "{}")], finish_reason="tool_calls")


def searching():
    """A tool, and how often it ran."""
    ran: list[str] = []

    @tool
    def search() -> str:
        """Search the library."""
        ran.append("search")
        return "on the shelf"

    return search, ran


# A rollout goes on


@pytest.mark.parametrize("failure", FAILURES)
async def test_the_turn_before_a_failed_call_is_not_sampled_again(serve_hurried, saver, failure):
    server = serve_hurried(in_order(calls("search"), failure, says("on the shelf")))
    search, ran = searching()
    run = Run(create_agent(chat(server), [search], checkpointer=saver))
    messages = await run()
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai"]
    assert messages[-1].content == "on the shelf"
    roles = [[message["role"] for message in request.body["messages"]] for request in server.answered]
    assert roles == [["user"], ["user", "assistant", "tool"], ["user", "assistant", "tool"]]
    assert ran == ["search"]
    assert len(run.recorder.turns) == 2
    assert len(run.told) == 1


async def test_the_first_call_may_fail_too(serve, saver):
    server = serve(in_order(Reply(status=503, error="loading"), says("done")))
    run = Run(create_agent(chat(server), [], checkpointer=saver))
    assert [message.type for message in await run()] == ["human", "ai"]
    assert len(server.answered) == 2


async def test_of_two_model_calls_side_by_side_the_one_that_failed_is_made_again(serve, saver):
    asked: list[str] = []

    def answer(request: Request) -> list[Reply]:
        question = request.body["messages"][-1]["content"]
        asked.append(question)
        if question == "second" and asked.count("second") == 1:
            return [Reply(status=503, error="loading", delay_seconds=0.5)]
        return [says(question)]

    model = chat(serve(answer))

    def node(question: str):
        async def call(state: MessagesState):
            return {"messages": [await model.ainvoke(question)]}

        return call

    builder = StateGraph(MessagesState)
    for name in ("first", "second"):
        builder.add_node(name, node(name)).add_edge(START, name)
    run = Run(builder.compile(checkpointer=saver))
    messages = await run()
    assert [message.content for message in messages] == ["Where is it?", "first", "second"]
    assert sorted(asked) == ["first", "second", "second"]


@pytest.mark.parametrize("streaming", [False, True], ids=["body", "streamed"])
@pytest.mark.parametrize(
    "failure", [failure for failure in FAILURES if failure.id != "closed"]
)  # its end, to ChatOpenAI
async def test_a_foreign_chat_models_failure_is_retried(serve_hurried, failure, streaming):
    server = serve_hurried(in_order(failure, says("done")))
    settings = {"base_url": server.base_url, "api_key": "none", "max_retries": 0, "timeout": 30}
    model = ChatOpenAI(model="scripted", streaming=streaming, **settings)
    run = Run(create_agent(model, [], checkpointer=InMemorySaver()))
    assert (await run())[-1].content == "done"
    assert len(server.answered) == 2


async def test_a_failure_in_a_subgraph_goes_on_inside_it(serve, saver):
    server = serve(in_order(calls("search"), Reply(status=503, error="loading"), says("on the shelf")))
    search, ran = searching()
    agent = create_agent(chat(server), [search])
    run = Run(StateGraph(MessagesState).add_node("agent", agent).add_edge(START, "agent").compile(checkpointer=saver))
    assert [message.type for message in await run()] == ["human", "ai", "tool", "ai"]
    assert len(server.answered) == 3
    assert ran == ["search"]


@pytest.mark.parametrize("by_id", [True, False])
async def test_what_a_person_answered_before_the_failure_is_not_asked_again(serve, saver, by_id):
    server = serve(in_order(Reply(status=503, error="loading"), says("done")))
    model = chat(server)

    async def ask(state: MessagesState):
        return {"messages": [await model.ainvoke(interrupt("What shall I ask?"))]}

    graph = StateGraph(MessagesState).add_node(ask).add_edge(START, "ask").compile(checkpointer=saver)
    run = Run(graph)
    stopped = await graph.ainvoke({"messages": [HumanMessage("Hi")]}, run.config)
    (question,) = stopped["__interrupt__"]
    messages = await run.of(Command(resume={question.id: "the weather"} if by_id else "the weather"))
    assert messages[-1].content == "done"
    assert [request.body["messages"][-1]["content"] for request in server.answered] == ["the weather"] * 2
    assert len(run.told) == 1


async def test_rollouts_whose_request_failed_for_all_share_the_next_one_too(serve):
    replies = iter([Reply(status=503, error="loading"), says("done")])

    def answer(request: Request) -> list[Reply]:
        return [next(replies)] * request.n if len(server.requests) == 1 else [says("done")] * request.n

    server = serve(answer)
    graph = create_agent(chat(server), [], checkpointer=InMemorySaver())
    runs = [Run(graph, str(i), Retries(first_seconds=0.5)) for i in range(4)]
    with use_pool(SamplingPool()):
        await asyncio.gather(*(run() for run in runs))
    assert [request.n for request in server.answered] == [4, 4]
    assert len({seconds for run in runs for _, seconds in run.told}) == 1


# A rollout does not go on


async def test_a_reason_that_does_not_pass_is_not_retried(serve, saver):
    server = serve([Reply(status=400, error="no such model")])
    run = Run(create_agent(chat(server), [], checkpointer=saver))
    with pytest.raises(ModelServerError, match="no such model"):
        await run()
    assert len(server.answered) == 1
    assert run.told == []


async def test_a_server_that_always_fails_is_asked_as_often_as_allowed(serve, saver):
    server = serve(lambda request: [Reply(status=503, error="loading")])
    run = Run(create_agent(chat(server), [], checkpointer=saver))
    with pytest.raises(ModelServerError, match="answered 503"):
        await run()
    assert len(server.answered) == 3
    assert len(run.told) == 2


async def test_the_retries_of_the_client_come_on_top(serve):
    server = serve(lambda request: [Reply(status=503, error="loading", headers={"Retry-After": "0.01"})])
    model = chat(server).model_copy(update={"max_retries": 1})
    with pytest.raises(ModelServerError, match="answered 503"):
        await Run(create_agent(model, [], checkpointer=InMemorySaver()))()
    assert len(server.answered) == 3 * 2


async def test_a_tool_that_lost_its_connection_is_not_run_again(serve, saver):
    server, ran = serve([calls("pay"), says("paid")]), []

    @tool
    def pay() -> str:
        """Pay."""
        ran.append("pay")
        raise ConnectionResetError("the bank hung up")

    run = Run(create_agent(chat(server), [pay], checkpointer=saver))
    with pytest.raises(ConnectionResetError, match="the bank hung up"):
        await run()
    assert ran == ["pay"]
    assert len(server.answered) == 1
    assert run.told == []


def paying(server):
    """An agent whose tool asks a model after it paid, and how often it paid."""
    model, ran = chat(server), []

    @tool
    async def pay() -> str:
        """Pay, and ask a model for a note."""
        ran.append("pay")
        return (await model.ainvoke("Write a note.")).text

    return create_agent(model, [pay], checkpointer=InMemorySaver()), ran


async def test_a_tool_whose_own_model_call_failed_is_not_run_again(serve):
    graph, ran = paying(serve(in_order(calls("pay"), Reply(status=503, error="loading"))))
    run = Run(graph)
    with pytest.raises(ModelServerError, match="answered 503"):
        await run()
    assert ran == ["pay"]
    assert run.told == []


async def test_a_tool_whose_own_model_call_failed_is_run_again_where_it_may_be(serve):
    server = serve(in_order(calls("pay"), Reply(status=503, error="loading"), says("a note"), says("done")))
    graph, ran = paying(server)
    assert (await Run(graph, repeatable=["pay"])())[-1].content == "done"
    assert ran == ["pay", "pay"]


def beside(server):
    """A graph with a tool at work when the model call beside it fails, and how often that tool was begun."""
    model, ran, done = chat(server), [], asyncio.Event()

    @tool
    async def pay() -> str:
        """Pay, slowly at first."""
        ran.append("pay")
        if len(ran) == 1:
            await done.wait()
        return "paid"

    async def paying(state: MessagesState):
        await pay.ainvoke({})

    async def asking(state: MessagesState):
        return {"messages": [await model.ainvoke("Hi")]}

    builder = StateGraph(MessagesState).add_node(paying).add_node(asking)
    builder.add_edge(START, "paying").add_edge(START, "asking")
    return builder.compile(checkpointer=InMemorySaver()), ran


async def test_a_tool_that_was_cut_off_when_the_call_beside_it_failed_is_not_run_again(serve):
    graph, ran = beside(serve(in_order(Reply(status=503, error="loading", delay_seconds=0.2), says("done"))))
    run = Run(graph)
    with pytest.raises(ModelServerError, match="answered 503"):
        await run()
    assert ran == ["pay"]
    assert run.told == []


async def test_a_tool_that_was_cut_off_is_run_again_where_it_may_be(serve):
    graph, ran = beside(serve(in_order(Reply(status=503, error="loading", delay_seconds=0.2), says("done"))))
    assert (await Run(graph, repeatable=["pay"])())[-1].content == "done"
    assert ran == ["pay", "pay"]


async def test_a_cancellation_ends_the_pause(serve):
    server = serve(lambda request: [Reply(status=503, error="loading")])
    long = Retries(first_seconds=3600, max_seconds=3600)
    run = Run(create_agent(chat(server), [], checkpointer=InMemorySaver()), retries=long)
    task = asyncio.create_task(run())
    await run.pausing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(server.answered) == 1


# How long it waits


async def failing(error: Exception, retries: Retries) -> list[float]:
    """The pauses after an error that comes each time."""
    pauses: list[float] = []

    async def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        await with_retries(fail, fail, lambda _: True, retries, lambda _, seconds: pauses.append(seconds))
    return pauses


async def test_pauses_grow_up_to_the_longest():
    first, second, third, fourth = await failing(
        ConnectionResetError(), Retries(attempts=5, first_seconds=0.02, max_seconds=0.05)
    )
    assert 0.01 <= first <= 0.02
    assert second == pytest.approx(2 * first)
    assert 0.025 <= third <= 0.05
    assert fourth == third


async def test_a_rollout_waits_as_long_as_the_server_asks_and_no_longer_than_is_allowed(serve):
    headers = {"Retry-After": "0.3"}
    server = serve(in_order(Reply(status=429, error="slow down", headers=headers), says("done")))
    run = Run(create_agent(chat(server), [], checkpointer=InMemorySaver()), retries=Retries(first_seconds=0.01))
    await run()
    assert [seconds for _, seconds in run.told] == [0.3]
    asked = ModelServerError("busy", status=429, retry_after_seconds=3600.0)
    assert await failing(asked, Retries(attempts=2, first_seconds=0.01, max_seconds=0.05)) == [0.05]


async def test_what_another_clients_server_asks_for_is_read_from_its_answer(serve):
    response = requests.Response()
    response.status_code = 429
    response.headers["Retry-After"] = "0.2"
    wrapped = RuntimeError("the model failed")
    wrapped.__cause__ = requests.HTTPError(response=response)
    assert await failing(wrapped, Retries(attempts=2, first_seconds=0.01)) == [0.2]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("2", 2.0), ("1.5", 1.5), ("-1", 0.0), ("", None), ("soon", None), ("nan", None), ("inf", None)],
)
def test_retry_after_is_read_as_seconds(said, seconds):
    assert retry_after_seconds({"retry-after": said}) == seconds


def test_retry_after_is_read_as_a_date():
    assert retry_after_seconds({"retry-after": formatdate(time.time() + 60, usegmt=True)}) == pytest.approx(60, abs=2)
    assert retry_after_seconds({"retry-after": formatdate(time.time() - 60, usegmt=True)}) == 0.0
    assert retry_after_seconds({}) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"attempts": 0},
        {"first_seconds": -1.0},
        {"first_seconds": 2.0, "max_seconds": 1.0},
        {"max_seconds": float("inf")},
        {"first_seconds": float("nan")},
    ],
    ids=str,
)
def test_retries_that_cannot_work_are_refused(settings):
    with pytest.raises(ConfigurationError, match="retries"):
        Retries(**settings)
