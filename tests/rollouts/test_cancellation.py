"""Cancelled rollouts: their requests end at the server, and what their threads still do lands nowhere."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.chat.sampling import SamplingPool, use_pool
from entcent_agents.effects import READ, WRITE
from entcent_agents.environments import DirectoryEnvironment, SqliteEnvironment, current_environment
from entcent_agents.errors import ConfigurationError
from entcent_agents.prebuilt import entropy_centroid_graph
from entcent_agents.testing import ScriptedChat, ScriptedTurn
from tests.chat_server import ChatServer, Request, says

ASK = {"messages": [HumanMessage("go")]}
LATE = says("a b c d", delay_seconds=30)
STALLED = says("a b c d", breaks_after=2, breaks_how="stall")
AT_ONCE_SECONDS = 1.0

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


async def come_to(server: ChatServer, state, seconds: float = 10.0) -> bool:
    return await asyncio.to_thread(server.comes_to, state, seconds)


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
    assert await come_to(server, lambda: server.hang_ups == 4, AT_ONCE_SECONDS)
    assert len(server.answered) == 4
    assert list(saver.storage) == []


@slowly
async def test_cancelling_the_graph_ends_the_request_that_all_rollouts_share(serve, reply):
    server = serve(lambda request: [reply] * request.n)
    task = asyncio.create_task(entropy_centroid_graph(create_agent(ours(server), []), n=4).ainvoke(ASK))
    assert await come_to(server, lambda: len(server.answered) == 1)
    await cancelled(task)
    assert await come_to(server, lambda: server.hang_ups == 1, AT_ONCE_SECONDS)
    assert [request.n for request in server.answered] == [4]


@slowly
async def test_cancelling_the_graph_ends_each_of_the_requests_that_a_group_was_split_into(serve, reply):
    server = serve(lambda request: [reply] * request.n, max_n=2)
    task = asyncio.create_task(entropy_centroid_graph(create_agent(ours(server), []), n=4).ainvoke(ASK))
    assert await come_to(server, lambda: [request.n for request in server.answered] == [4, 2])
    await cancelled(task)
    assert await come_to(server, lambda: server.hang_ups == 1, AT_ONCE_SECONDS)


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
    assert await come_to(server, lambda: server.hang_ups == 1, AT_ONCE_SECONDS)
    assert [request.n for request in server.answered] == [3]


async def test_the_others_get_their_answers_when_one_is_cancelled(serve):
    server = serve(lambda request: [says(f"answer {i}", delay_seconds=0.3) for i in range(request.n)])
    agent = create_agent(ours(server), [])
    with use_pool(SamplingPool()):
        first, *others = (asyncio.create_task(agent.ainvoke(ASK)) for _ in range(3))
        assert await come_to(server, lambda: len(server.answered) == 1)
        await cancelled(first)
        answers = [(await other)["messages"][-1].text for other in others]
    assert answers == ["answer 1", "answer 2"]
    assert server.hang_ups == 0


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
    assert await come_to(server, lambda: server.hang_ups == 3, AT_ONCE_SECONDS)


async def test_a_synchronous_model_call_in_a_thread_ends_by_itself_and_nobody_waits_for_it(serve):
    released = threading.Event()

    def answer(request: Request):
        released.wait(20)
        return [says("late")]

    server = serve(answer)
    model = alone(server)

    def ask(state: MessagesState):
        return {"messages": [model.invoke(state["messages"])]}

    agent = StateGraph(MessagesState).add_node(ask).add_edge(START, "ask").compile()
    task = asyncio.create_task(entropy_centroid_graph(agent, n=2).ainvoke(ASK))
    assert await come_to(server, lambda: len(server.answered) == 0, 0)
    await asyncio.sleep(0.3)
    started = time.monotonic()
    await cancelled(task)
    assert time.monotonic() - started < AT_ONCE_SECONDS
    released.set()
