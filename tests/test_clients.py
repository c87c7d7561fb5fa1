"""Connections and loops: nothing stays open, nothing is warned of, and waiting for a connection is no failure."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import socket
import time
import warnings
import weakref
from pathlib import Path

import pytest

from entcent_agents.blocking import run_sync
from entcent_agents.chat.clients import IDLE_SECONDS
from entcent_agents.chat.model import ChatLogprobs, aclose_clients
from entcent_agents.errors import ModelServerError
from tests.chat_server import ChatServer, says


def chat(server: ChatServer, **settings) -> ChatLogprobs:
    return ChatLogprobs(**{"model": "scripted", "base_url": server.base_url, "max_retries": 0, **settings})


def connections(server: ChatServer) -> int:
    """How many sockets of this process are connected to the server."""
    port = int(server.base_url.rpartition(":")[2].partition("/")[0])
    ours = {_target(link) for link in Path("/proc/self/fd").iterdir()}
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[2].rpartition(":")[2], 16) == port and f"socket:[{row[9]}]" in ours for row in rows)


def _target(link: Path) -> str:
    try:
        return link.readlink().name
    except OSError:  # closed meanwhile
        return ""


async def ask(model: ChatLogprobs, times: int = 1) -> list[str]:
    return [message.text for message in await asyncio.gather(*(model.ainvoke("Hi") for _ in range(times)))]


# Loops


def test_a_connection_is_seen_and_reused_while_its_loop_runs(serve):
    server = serve([says("x")])

    async def twice() -> int:
        await ask(chat(server))
        await ask(chat(server))
        return connections(server)

    assert asyncio.run(twice()) == 1


def test_loops_that_end_leave_no_connection_and_no_warning(serve):
    server = serve([says("x")])
    for _ in range(20):
        assert asyncio.run(ask(chat(server), 3)) == ["x"] * 3
        assert connections(server) == 0
    gc.collect()


def test_a_loop_that_is_closed_roughly_is_collected_with_its_connections(serve):
    server = serve([says("x")])
    ended: list[weakref.ref[asyncio.AbstractEventLoop]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # asyncio's own: nobody can close transports of a closed loop
        for _ in range(3):
            loop = asyncio.new_event_loop()
            loop.run_until_complete(ask(chat(server), 3))
            loop.close()
            ended.append(weakref.ref(loop))
            del loop
        gc.collect()
    assert [reference() for reference in ended] == [None] * 3
    assert connections(server) == 0


async def test_connections_closed_by_hand_are_opened_again_when_needed(serve):
    server = serve([says("x")])
    for _ in range(2):
        await ask(chat(server))
        assert connections(server) == 1
        await aclose_clients()
        assert connections(server) == 0


def test_a_loop_that_ends_in_the_middle_of_an_answer_leaves_no_connection(serve):
    server = serve([says("a b", breaks_after=1, breaks_how="stall")])

    async def give_up() -> None:
        task = asyncio.create_task(ask(chat(server)))
        await asyncio.to_thread(server.asked.wait, 60)
        del task

    asyncio.run(give_up())
    assert connections(server) == 0


async def test_clients_of_keys_that_nobody_uses_any_more_are_closed(serve, clock):
    server = serve([says("a b c d", breaks_after=3, breaks_how="stall"), says("x")])
    held = chat(server, api_key="busy").astream("Hi")
    await anext(held)
    for i in range(5):
        await ask(chat(server, api_key=f"key-{i}"))
    assert connections(server) == 6
    clock.forward(IDLE_SECONDS + 1)
    await ask(chat(server, api_key="another"))
    while connections(server) > 2:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert connections(server) == 2  # the one that is in the middle of an answer is let alone
    assert await ask(chat(server, api_key="key-0")) == ["x"]
    await held.aclose()


# Threads


def test_synchronous_calls_from_many_threads_at_once_work_and_share_connections(serve):
    server = serve(lambda request: [says("x", delay_seconds=0.05)])
    model = chat(server, max_connections=4)
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        texts = list(threads.map(lambda _: model.invoke("Hi").text, range(32)))
    assert texts == ["x"] * 32
    assert connections(server) <= 4
    run_sync(aclose_clients())
    assert connections(server) == 0


def test_loops_of_several_threads_have_connections_of_their_own(serve):
    server = serve([says("x")])
    model = chat(server)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        texts = list(threads.map(lambda _: asyncio.run(ask(model, 2)), range(16)))
    assert texts == [["x", "x"]] * 16
    assert connections(server) == 0


# Limits


async def test_calls_beyond_the_limit_wait_their_turn_longer_than_the_timeout(serve):
    server = serve(lambda request: [says("x", delay_seconds=0.25)])
    model = chat(server, max_connections=2, timeout_seconds=4.0)
    started, most = time.monotonic(), 0
    asking = asyncio.create_task(ask(model, 36))
    while not asking.done():
        most = max(most, connections(server))
        await asyncio.sleep(0.05)
    assert await asking == ["x"] * 36
    assert time.monotonic() - started > 4.0
    assert most == 2


async def test_a_call_that_waits_for_a_connection_can_be_cancelled(serve):
    server = serve(lambda request: [says("x", delay_seconds=0.3)])
    model = chat(server, max_connections=1)
    first, second = (asyncio.create_task(ask(model)) for _ in range(2))
    await asyncio.sleep(0.1)
    second.cancel()
    assert await first == await ask(model) == ["x"]
    assert second.cancelled()
    assert len(server.requests) == 2


async def test_an_address_that_never_answers_the_door_is_named(monkeypatch):
    monkeypatch.setattr("entcent_agents.chat.clients.CONNECT_SECONDS", 0.3)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]  # more than the queue holds: further calls are not taken
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        model = ChatLogprobs(model="m", base_url=f"http://127.0.0.1:{full.getsockname()[1]}/v1", max_retries=0)
        with pytest.raises(ModelServerError, match="no model server answers at"):
            await asyncio.wait_for(model.ainvoke("Hi"), 60)
        for one in waiting:
            one.close()


# What goes to a server


async def test_nothing_of_the_environment_goes_to_a_server(serve, monkeypatch):
    for name in ("ORG_ID", "PROJECT_ID", "ADMIN_KEY", "API_KEY", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{name}", "sk-of-the-environment")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gateway-Token: sk-of-the-environment")
    server = serve([says("x")])
    await ask(chat(server))
    await ask(chat(server, api_key="sk-given"))
    assert "sk-of-the-environment" not in repr([request.headers for request in server.requests])
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer none", "Bearer sk-given"]
    assert not [name for request in server.requests for name in request.headers if name.startswith("openai-")]


async def test_the_query_of_an_address_goes_with_every_request(serve):
    server = serve([says("x")])
    await ask(chat(server, base_url=f"{server.base_url}?api-version=1&a=b"))
    assert server.requests[0].path == "/v1/chat/completions?api-version=1&a=b"
