"""The parts of the service by themselves: its table on a real PostgreSQL, listeners, answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="pip install --editable '.[service]'")

from graphs.service.log import RequestLog, ThreadBusyError, without_nul
from graphs.service.questions import AnswerError, OtherQuestionsError, Question, check
from graphs.service.running import Running
from graphs.service.stores import connections

ASKED = Question(
    id="a" * 32,
    value={
        "action_requests": [{"name": "refund", "args": {}}, {"name": "mail", "args": {}}],
        "review_configs": [
            {"action_name": "refund", "allowed_decisions": ["approve", "reject"]},
            {"action_name": "mail", "allowed_decisions": ["reject"]},
        ],
    },
)


async def test_only_a_process_that_died_over_a_request_is_counted_against_it(database: str):
    async with connections(database, 2, 10.0) as pool:
        here, there = RequestLog(pool, "here", 0.0), RequestLog(pool, "there", 0.0)
        await here.setup()
        await here.begin("one", "one", "?")
        begun = await here.attempt("one")
        assert begun and (begun["attempts"], begun["in_order"]) == (1, 0)
        await here.release({"one": True})  # a deploy
        (taken,) = await there.take(8)
        assert (taken["attempts"], taken["in_order"]) == (1, 1)
        assert await here.attempt("one") is None  # it is not its own any more
        await there.release({"one": False})  # it waited in line
        (taken,) = await here.take(8)
        assert (taken["attempts"], taken["in_order"]) == (1, 1)
        await here.attempt("one")  # and here it dies
        (taken,) = await there.take(8)
        assert (taken["attempts"], taken["in_order"]) == (2, 1)


async def test_a_request_that_was_withdrawn_before_work_on_it_began_is_not_worked_on(database: str):
    async with connections(database, 2, 10.0) as pool:
        log = RequestLog(pool, "here", 30.0)
        await log.setup()
        await log.begin("one", "one", "?")
        await log.withdraw("one")
        assert await log.attempt("one") is None
        assert not await log.settle("one", "finished", {})


async def test_a_conversation_has_one_request_at_a_time_and_an_id_one_request(database: str):
    async with connections(database, 4, 10.0) as pool:
        log = RequestLog(pool, "here", 30.0)
        await log.setup()
        entered = await asyncio.gather(*(log.begin("one", "talk", "?") for _ in range(16)))
        assert sum(request is not None for request in entered) == 1
        with pytest.raises(ThreadBusyError):
            await log.begin("two", "talk", "?")


async def test_what_nobody_answers_is_given_up_and_what_ended_long_ago_is_forgotten(database: str):
    async with connections(database, 2, 10.0) as pool:
        log = RequestLog(pool, "here", 30.0)
        await log.setup()
        for name, state in (("asks", "asking"), ("done", "finished"), ("busy", None)):
            await log.begin(name, name, "?")
            if state:
                await log.settle(name, state, {"questions": []})
        await log.tidy(unanswered_days=6, keep_days=30)
        assert (await log.find("asks") or {})["state"] == "asking" and await log.find("done")
        await log.tidy(unanswered_days=0, keep_days=1)
        assert (await log.find("asks") or {})["result"] == {"error": "nobody answered within 0 days"}
        await log.tidy(unanswered_days=0, keep_days=0)
        assert await log.find("asks") is await log.find("done") is None
        assert (await log.find("busy") or {})["state"] == "running"


async def test_whatever_a_model_says_can_be_recorded(database: str):
    said: dict[str, Any] = {"answer": "a\0b\ud800", "weights": [float("nan"), (1.0,)]}
    async with connections(database, 2, 10.0) as pool:
        log = RequestLog(pool, "here", 30.0)
        await log.setup()
        await log.begin("one", "one", "?")
        assert await log.settle("one", "finished", said)
        assert (await log.find("one") or {})["result"] == {"answer": "a\ufffdb?", "weights": [None, [1.0]]}
    assert without_nul("\\u0000") == "\\u0000"


async def test_a_slow_listener_hears_what_was_told_last():
    running = Running({"id": "one", "thread": "one"})  # pyright: ignore[reportArgumentType]
    running.tell({"type": "accepted"})
    heard: list[str] = []
    async for event in running.events():
        heard.append(event["type"])
        if event["type"] == "accepted":  # while it is written to
            running.tell({"type": "entcent.selection"})
            running.end()
    assert heard == ["accepted", "entcent.selection"]


def test_an_answer_names_its_question_and_decides_about_each_call():
    approve, reject = {"type": "approve"}, {"type": "reject"}
    check([ASKED], {ASKED["id"]: {"decisions": [approve, reject]}})
    check([Question(id="b" * 32, value="Which colour?")], {"b" * 32: "red"})
    for none in ({}, {"b" * 32: {"decisions": [approve, reject]}}, {ASKED["id"]: {}, "b" * 32: {}}):
        with pytest.raises(OtherQuestionsError):
            check([ASKED], none)
    for wrong, said in (
        ("yes", "answer: Input should be a valid dictionary"),
        ({"decisions": [approve]}, "2 calls wait for a decision each; given: 1"),
        ({"decisions": [approve, approve]}, "'approve' may not be decided of mail: say reject"),
        ({"decisions": [approve, {"type": "aprove"}]}, "decisions.1"),
    ):
        with pytest.raises(AnswerError, match=said):
            check([ASKED], {ASKED["id"]: wrong})
