"""The service over HTTP, in processes of its own, on a real PostgreSQL; its model is a scripted server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.graphs.model import until
from tests.graphs.service_process import ROOT, Service, Shopkeeper, service

psycopg = pytest.importorskip("psycopg")
pytest.importorskip("fastapi", reason="pip install --editable '.[service]'")
pytestmark = pytest.mark.timeout(600)  # imports take a minute where the machine has other work

ROOM = 48


@pytest.fixture(scope="module")
def model() -> Iterator[Shopkeeper]:
    model = Shopkeeper()
    with model.server:
        yield model
        model.open.set()


@pytest.fixture(scope="module")
def shop(postgres_server: str) -> Iterator[str]:
    """A database for the module."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE shop")
    yield postgres_server.replace("dbname=postgres", "dbname=shop")
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("DROP DATABASE shop WITH (FORCE)")


@pytest.fixture(scope="module")
def settings(model: Shopkeeper, shop: str) -> dict[str, Any]:
    address = f"{model.server.base_url}#scripted"
    return {"model": address, "database": shop, "n": 2, "lease_seconds": 1, "max_requests": ROOM, "max_working": 40}


@pytest.fixture(scope="module")
def running(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("service") / "log", **settings, ask_before_refunds=False) as running:
        yield running


@pytest.fixture
async def client(running: Service) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=running.address, timeout=120) as client:
        yield client


def refunds(shop: str, order: str = "A-1") -> int:
    with psycopg.connect(shop) as connection:
        return connection.execute("SELECT count(*) FROM shop_refunds WHERE of_order = %s", [order]).fetchone()[0]


def orders(shop: str, *names: str) -> None:
    with psycopg.connect(shop, autocommit=True) as connection:
        for name in names:
            connection.execute("INSERT INTO shop_orders VALUES (%s, 'a book', 10)", [name])


def asking(question: str, **more: str) -> dict[str, Any]:
    return {"json": {"question": f"Q: {question}", **more}}


def answers(asked: dict[str, Any], *decisions: dict[str, Any]) -> dict[str, Any]:
    """A person's decisions about the calls of what is asked."""
    return {"json": {"answers": {question["id"]: {"decisions": decisions} for question in asked["questions"]}}}


async def events(client: httpx2.AsyncClient, method: str, path: str, **asked: Any) -> list[dict[str, Any]]:
    """All that is streamed."""
    async with client.stream(method, path, **asked) as stream:
        assert stream.status_code == 200
        return [json.loads(line[5:]) async for line in stream.aiter_lines() if line.startswith("data:")]


async def state_of(client: httpx2.AsyncClient, id: str) -> str:
    return (await client.get(f"/requests/{id}")).json()["state"]


async def test_progress_is_streamed_and_then_the_answer(client: httpx2.AsyncClient, shop: str):
    orders(shop, "B-1")
    told = await events(client, "POST", "/requests/stream", **asking("refund B-1"))
    kinds = [event["type"] for event in told]
    assert kinds[0] == "accepted"
    assert {"entcent.rollout", "entcent.selection", "result"} == {*kinds} - {"accepted", "entcent.commit"}
    assert (told[-1]["state"], told[-1]["answer"]) == ("finished", "done: Q: refund B-1")
    assert told[-1]["selection"]["usage"]["rollouts"] >= 2
    assert refunds(shop, "B-1") == 1


async def test_a_question_that_is_sent_again_is_not_asked_again(
    client: httpx2.AsyncClient, shop: str, model: Shopkeeper
):
    orders(shop, "B-2")
    first = (await client.post("/requests", **asking("refund B-2", id="twice"))).json()
    sampled = model.sampled("Q: refund B-2")
    assert (await client.post("/requests", **asking("refund B-2", id="twice"))).json() == first
    assert (await events(client, "GET", "/requests/twice/stream"))[-1]["answer"] == first["answer"]
    assert model.sampled("Q: refund B-2") == sampled == 2 and refunds(shop, "B-2") == 1
    other = await client.post("/requests", **asking("look at B-2", id="twice"))
    assert other.status_code == 409 and "something else" in other.json()["detail"]


async def test_a_thread_goes_on(client: httpx2.AsyncClient, model: Shopkeeper):
    await client.post("/requests", **asking("look at A-1", thread="talk"))
    answer = (await client.post("/requests", **asking("look at A-2", thread="talk"))).json()
    assert answer["answer"] == "done: Q: look at A-2"
    said = [message["content"] for message in model.server.requests[-1].body["messages"]]
    assert "done: Q: look at A-1" in said


async def test_who_hangs_up_finds_the_answer_later_and_a_thread_has_one_request_at_a_time(
    client: httpx2.AsyncClient, model: Shopkeeper
):
    model.open.clear()
    asked = asking("wait for A-1", id="hung-up", thread="busy")
    async with client.stream("POST", "/requests/stream", **asked) as stream:
        await anext(stream.aiter_lines())
    busy = await client.post("/requests", **asking("look at A-1", thread="busy"))
    assert busy.status_code == 409 and busy.headers["Retry-After"]
    assert await state_of(client, "hung-up") == "running"
    model.open.set()
    assert (await events(client, "GET", "/requests/hung-up/stream"))[-1]["answer"] == "done: Q: wait for A-1"


async def test_a_withdrawn_request_does_nothing_more(client: httpx2.AsyncClient, model: Shopkeeper, shop: str):
    model.open.clear()
    orders(shop, "B-3")
    waiting = asyncio.create_task(client.post("/requests", **asking("wait and refund B-3", id="gone", thread="gone")))
    await until(lambda: model.sampled("Q: wait and refund B-3") > 0)
    assert (await client.delete("/requests/gone")).json()["state"] == "cancelled"
    assert (await waiting).json()["state"] == "cancelled"
    model.open.set()
    again = (await client.post("/requests", **asking("look at A-1", thread="gone"))).json()
    assert again["answer"] == "done: Q: look at A-1" and refunds(shop, "B-3") == 0


async def test_a_request_is_withdrawn_through_another_process(
    client: httpx2.AsyncClient, settings: dict[str, Any], model: Shopkeeper, shop: str, tmp_path: Path
):
    model.open.clear()
    orders(shop, "B-4")
    waiting = asyncio.create_task(client.post("/requests", **asking("wait and refund B-4", id="far", thread="far")))
    await until(lambda: model.sampled("Q: wait and refund B-4") > 0)
    with service(tmp_path / "log", **settings) as other:
        async with httpx2.AsyncClient(base_url=other.address, timeout=120) as elsewhere:
            assert (await elsewhere.delete("/requests/far")).json()["state"] == "cancelling"
            assert (await waiting).json()["state"] == "cancelled"
            assert await state_of(elsewhere, "far") == "cancelled"
    model.open.set()
    assert refunds(shop, "B-4") == 0


async def test_many_at_once_are_each_answered_and_refunded_once_and_more_are_told_to_come_again(
    client: httpx2.AsyncClient, model: Shopkeeper, shop: str
):
    model.open.clear()
    names = [f"C-{i}" for i in range(ROOM)]
    orders(shop, *names)
    questions = [f"wait and refund {name}" for name in names]
    asked = [asyncio.create_task(client.post("/requests", **asking(question))) for question in questions]
    while f"entcent_requests_under_way {ROOM}.0" not in (await client.get("/metrics")).text:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    refused = await client.post("/requests", **asking("look at A-1", id="later"))
    assert refused.status_code == 503 and refused.headers["Retry-After"]
    assert (await client.get("/requests/later")).status_code == 404
    model.open.set()
    answers = [answer.json()["answer"] for answer in await asyncio.gather(*asked)]
    assert answers == [f"done: Q: {question}" for question in questions]
    assert {refunds(shop, name) for name in names} == {1}


async def test_it_says_how_it_is(client: httpx2.AsyncClient):
    assert (await client.get("/health")).json() == {"status": "ok"}
    ready = await client.get("/ready")
    assert (ready.status_code, ready.json()) == (200, {"database": "ok", "model": "ok"})
    page = (await client.get("/metrics")).text
    assert 'entcent_rollouts_total{status="finished"}' in page
    assert 'entcent_request_seconds_count{state="finished"}' in page
    assert 'entcent_tokens_total{kind="generated"}' in page


async def test_a_person_is_asked_and_shadow_mode_answers_with_the_first(
    settings: dict[str, Any], shop: str, tmp_path: Path
):
    orders(shop, "D-1")
    with service(tmp_path / "log", **settings, shadow=True) as running:
        async with httpx2.AsyncClient(base_url=running.address, timeout=120) as client:
            asked = (await client.post("/requests", **asking("refund D-1", id="approve"))).json()
            assert asked["state"] == "asking" and refunds(shop, "D-1") == 0
            assert asked["questions"][0]["value"]["action_requests"][0]["name"] == "refund"
            approved = answers(asked, {"type": "approve"})
            done = (await client.post("/requests/approve/answer", **approved)).json()
            assert (done["state"], done["answer"]) == ("finished", "done: Q: refund D-1")
            assert done["selection"]["winner"] == 0 and done["selection"]["shadow"]["same_outcome"]
            assert (await client.post("/requests/approve/answer", **approved)).status_code == 409
        running.end()
    assert refunds(shop, "D-1") == 1


async def test_what_a_killed_process_left_another_one_ends_and_no_refund_is_made_twice(
    settings: dict[str, Any], model: Shopkeeper, shop: str, tmp_path: Path
):
    names = [f"E-{i}" for i in range(8)]
    orders(shop, *names)
    model.open.clear()
    with service(tmp_path / "log", **settings, ask_before_refunds=False) as running:
        async with httpx2.AsyncClient(base_url=running.address, timeout=120) as client:
            posts = [client.post("/requests", **asking(f"wait and refund {name}", id=name)) for name in names]
            asked = [asyncio.create_task(post) for post in posts]
            await until(lambda: all(model.sampled(f"Q: wait and refund {name}") for name in names))
            model.open.set()
            await until(lambda: any(refunds(shop, name) for name in names))
            running.end(signal.SIGKILL)
            await asyncio.gather(*asked, return_exceptions=True)
    with service(tmp_path / "log", **settings, ask_before_refunds=False) as running:
        async with httpx2.AsyncClient(base_url=running.address, timeout=120) as client:
            for name in names:
                answer = (await client.post("/requests", **asking(f"wait and refund {name}", id=name))).json()
                assert answer["answer"] == f"done: Q: wait and refund {name}", answer
    assert {name: refunds(shop, name) for name in names} == dict.fromkeys(names, 1)


async def test_told_to_end_it_waits_for_what_is_under_way(
    settings: dict[str, Any], model: Shopkeeper, shop: str, tmp_path: Path
):
    model.open.clear()
    with service(tmp_path / "log", **settings) as running:
        async with httpx2.AsyncClient(base_url=running.address, timeout=120) as client:
            asked = asyncio.create_task(client.post("/requests", **asking("wait for A-3")))
            await until(lambda: model.sampled("Q: wait for A-3") > 0)
            ending = asyncio.create_task(asyncio.to_thread(running.end))
            await until(lambda: "Shutting down" in running.log.read_text())
            model.open.set()
            assert (await asked).json()["answer"] == "done: Q: wait for A-3"
            await ending


def test_settings_that_cannot_be_end_it_before_the_first_request():
    ran = subprocess.run(
        [sys.executable, "-m", "graphs.service"],
        cwd=ROOT,
        env={**os.environ, "ENTCENT_N": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert "ENTCENT_DATABASE: Field required" in ran.stderr and "ENTCENT_N: Input should be greater" in ran.stderr
