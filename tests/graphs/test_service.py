"""The service over HTTP, in processes of its own, on a real PostgreSQL; its model is a scripted server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.graphs.asking import answers, asking, events, orders, refunded, refunds, state_of
from tests.graphs.conftest import ROOM
from tests.graphs.model import until
from tests.graphs.service_process import Service, Shopkeeper, service

pytest.importorskip("fastapi", reason="pip install --editable '.[service]'")
pytestmark = pytest.mark.timeout(600)  # imports take a minute where the machine has other work


@pytest.fixture(scope="module")
def running(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("service") / "log", **settings, ask_before_refunds=False) as running:
        yield running


@pytest.fixture
async def client(running: Service) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=running.address, timeout=120) as client:
        yield client


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
            assert (await elsewhere.delete("/requests/far")).json()["state"] in ("cancelling", "cancelled")
            assert (await waiting).json()["state"] == "cancelled"
            assert await state_of(elsewhere, "far") == "cancelled"
    model.open.set()
    await client.post("/requests", **asking("look at A-1", thread="far"))
    assert refunds(shop, "B-4") == 0


async def test_refunds_of_one_order_at_the_same_time_do_not_add_up_to_more_than_was_paid(
    client: httpx2.AsyncClient, shop: str
):
    names = [f"G-{i}" for i in range(8)]
    orders(shop, *names, paid=1.0)
    asked = [client.post("/requests", **asking(f"refund {name}")) for name in names for _ in range(3)]
    assert {answer.json()["state"] for answer in await asyncio.gather(*asked)} == {"finished"}
    assert {refunded(shop, name) for name in names} == {1}


async def test_one_id_sent_many_times_at_once_is_one_request(client: httpx2.AsyncClient, shop: str):
    orders(shop, "H-1")
    posts = [client.post("/requests", **asking("refund H-1", id="many")) for _ in range(16)]
    answers = [answer.json() for answer in await asyncio.gather(*posts)]
    assert answers == [answers[0]] * 16 and answers[0]["state"] == "finished" and refunds(shop, "H-1") == 1


async def test_what_cannot_be_asked_is_refused_and_not_repeated(client: httpx2.AsyncClient):
    long = await client.post("/requests", **asking("x" * 300_000))
    assert long.status_code == 413
    secret = "x" * 20_001
    for question, said in ((secret, "at most 20000 characters"), ("a\0b", "NUL")):
        refused = await client.post("/requests", **asking(question))
        assert refused.status_code == 422 and said in refused.text and len(refused.text) < 500


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
    orders(shop, "D-1", "D-2")
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

            # An answer that is sent again is not the answer to the next question.
            first = (await client.post("/requests", **asking("refund twice D-2", id="again"))).json()
            second = (await client.post("/requests/again/answer", **answers(first, {"type": "approve"}))).json()
            assert second["state"] == "asking" and second["questions"] != first["questions"]
            resent = await client.post("/requests/again/answer", **answers(first, {"type": "approve"}))
            assert resent.status_code == 409 and refunds(shop, "D-2") == 1

            # One that is none ends nothing.
            for wrong, said in (
                ([{"type": "aprove"}], "decisions.0"),
                ([], "1 calls wait for a decision each; given: 0"),
                ([{"type": "approve"}] * 2, "given: 2"),
            ):
                refused = await client.post("/requests/again/answer", **answers(second, *wrong))
                assert refused.status_code == 422 and said in refused.json()["detail"]
            done = (await client.post("/requests/again/answer", **answers(second, {"type": "reject"}))).json()
            assert done["state"] == "finished" and refunds(shop, "D-2") == 1
        running.end()
    assert refunds(shop, "D-1") == 1
