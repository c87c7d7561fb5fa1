"""One external call through each ledger: what is called, what is recorded, what the caller is told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from entcent_agents.errors import ConfigurationError, LedgerError
from entcent_agents.ledger import (
    Answer,
    Done,
    EffectLedger,
    ExternalCall,
    Failed,
    GivenUp,
    InDoubt,
    LedgerSettings,
    MemoryLedger,
    Pending,
    State,
    current_idempotency_key,
    is_uncertain,
    perform,
    settle,
    use_idempotency_key,
)
from entcent_agents.ledger.calls import Position
from entcent_agents.ledger.decision import Change, Step
from tests.ledger.samples import SETTINGS, a_call, claiming
from tests.passing_time import Clock


class Shop:
    """A tool that counts what it did, and may raise afterwards or wait before."""

    def __init__(self, gives: Any = "paid", raises: Exception | None = None) -> None:
        self.effects = 0
        self.keys: list[str] = []
        self.gives, self.raises = gives, raises
        self.entered, self.open = asyncio.Event(), asyncio.Event()
        self.open.set()

    async def __call__(self) -> Any:
        self.keys.append(current_idempotency_key())
        self.entered.set()
        await self.open.wait()
        self.effects += 1
        if self.raises:
            raise self.raises
        return self.gives


class Interrupt(Exception):
    """Stands for a framework's own control flow."""


async def make(ledger: EffectLedger, call: ExternalCall, run: Callable[[], Awaitable[Any]], **options: Any) -> Any:
    return await perform(ledger, call, run, **options)


async def lapse(ledger: EffectLedger, call: ExternalCall) -> None:
    """Let the lease of a call that is being made run out, as if its process had been stopped for a while."""

    def end(records: Any, now: float) -> Change[None]:
        return Change(answer=None, put=replace(records[0], lease_until=now))

    await ledger.transact(call.position, end)


async def lease_of(ledger: EffectLedger, call: ExternalCall) -> float | None:
    return await ledger.transact(call.position, lambda records, now: Change(answer=records[0].lease_until))


async def test_a_call_is_made_once_and_replayed_after_that(ledger: EffectLedger):
    shop = Shop(gives={"id": 7, "lines": ("a", "b")})
    assert await make(ledger, a_call(), shop) == Done(value={"id": 7, "lines": ["a", "b"]}, replayed=False)
    assert await make(ledger, a_call(), shop) == Done(value={"id": 7, "lines": ["a", "b"]}, replayed=True)
    assert shop.effects == 1


async def test_an_error_of_the_tool_is_its_result(ledger: EffectLedger):
    shop = Shop(raises=ValueError("no such\ncustomer"))
    first = await make(ledger, a_call(), shop)
    assert first == Failed(error="ValueError: no such customer", replayed=False, exception=shop.raises)
    assert await make(ledger, a_call(), shop) == Failed(error="ValueError: no such customer", replayed=True)
    assert shop.effects == 1


async def test_the_intent_is_on_record_while_the_call_is_being_made(ledger: EffectLedger):
    seen: list[tuple[State, str]] = []

    async def look() -> None:
        seen.extend((record.state, record.idempotency_key) for record in await ledger.unsettled("request"))

    await make(ledger, a_call(), look)
    assert seen == [(State.INTENT, a_call().idempotency_key)]
    assert await ledger.unsettled("request") == []


async def test_a_tool_that_says_nothing_certain_leaves_a_doubt_and_is_not_called_again(ledger: EffectLedger):
    shop = Shop(raises=TimeoutError("no answer"))
    for _ in range(3):
        outcome = await make(ledger, a_call(), shop)
        assert isinstance(outcome, InDoubt)
        assert outcome.record.reason == "TimeoutError: no answer"
    assert shop.effects == 1


async def test_an_idempotent_tool_that_says_nothing_certain_is_called_again_with_its_key(ledger: EffectLedger):
    shop, call = Shop(raises=TimeoutError("no answer")), a_call(idempotent=True)
    first = await make(ledger, call, shop)
    assert first == Pending(retry_after_seconds=0.0, reason="TimeoutError: no answer")
    shop.raises = None
    assert await make(ledger, call, shop) == Done(value="paid", replayed=False)
    assert shop.keys == [call.idempotency_key] * 2


async def test_an_idempotent_tool_that_never_says_anything_ends_with_a_person(ledger: EffectLedger):
    shop = Shop(raises=TimeoutError("no answer"))
    settings = LedgerSettings(max_attempts=3)
    outcomes = [await make(ledger, a_call(idempotent=True), shop, settings=settings) for _ in range(5)]
    assert [type(outcome) for outcome in outcomes] == [Pending, Pending, Pending, InDoubt, InDoubt]
    assert outcomes[-1].record.reason == "TimeoutError: no answer"
    assert shop.effects == 3


async def test_a_crash_between_intent_and_result_is_in_doubt_after_the_lease(ledger: EffectLedger):
    await ledger.transact(a_call().position, claiming(a_call()))  # and whoever did this died
    shop = Shop()
    early = await make(ledger, a_call(), shop)
    assert isinstance(early, Pending)
    assert 0 < early.retry_after_seconds <= 30
    await lapse(ledger, a_call())
    assert isinstance(await make(ledger, a_call(), shop), InDoubt)
    assert shop.effects == 0


@pytest.mark.parametrize(
    ("decision", "expected", "effects"),
    [("happened", Done(value="seen", replayed=True), 0), ("run", Done(value="paid", replayed=False), 1)],
)
async def test_a_person_says_what_became_of_it(ledger: EffectLedger, decision: str, expected: Done, effects: int):
    shop = Shop(raises=TimeoutError())
    outcome = await make(ledger, a_call(), shop)
    question = outcome.question()
    assert (question["tool"], question["arguments"], question["attempts"]) == ("pay", {"amount": 5}, 1)
    answer = Answer.from_dict({"doubt_id": question["doubt_id"], "decision": decision, "result": "seen"})
    shop.effects, shop.raises = 0, None
    assert await settle(ledger, a_call().position, answer) is not None
    assert await make(ledger, a_call(), shop) == expected
    assert await settle(ledger, a_call().position, answer) is None  # as when a node is run again with its answers
    assert isinstance(await make(ledger, a_call(), shop), Done)
    assert shop.effects == effects


async def test_a_person_gives_up(ledger: EffectLedger):
    outcome = await make(ledger, a_call(), Shop(raises=TimeoutError()))
    answer = Answer(doubt_id=outcome.record.doubt_id, decision="give up", reason="called the shop", by="ann")
    await settle(ledger, a_call().position, answer)
    assert await make(ledger, a_call(), Shop()) == GivenUp(reason="called the shop")


async def test_other_arguments_at_the_same_position_are_not_run(ledger: EffectLedger):
    shop = Shop()
    await make(ledger, a_call(), shop)
    outcome = await make(ledger, a_call(arguments={"amount": 6}), shop)
    assert isinstance(outcome, InDoubt)
    assert [other.state for other in outcome.others] == [State.DONE]
    assert outcome.question()["others"] == [
        {"tool": "pay", "arguments": None, "digest": a_call().digest, "state": "done"}
    ]
    assert shop.effects == 1


async def test_calls_of_one_turn_are_made_at_once_and_one_by_one_per_position(ledger: EffectLedger):
    shops = [Shop(gives=number) for number in range(8)]
    makes = [make(ledger, a_call(ordinal=n % 8), shops[n % 8]) for n in range(24)]
    outcomes = await asyncio.gather(*makes)
    assert [shop.effects for shop in shops] == [1] * 8
    assert sorted(o.value for o in outcomes if isinstance(o, Done) and not o.replayed) == list(range(8))


async def test_a_call_cancelled_while_it_is_made_is_in_doubt(ledger: EffectLedger):
    shop = Shop()
    shop.open.clear()
    task = asyncio.create_task(make(ledger, a_call(), shop))
    await shop.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    outcome = await make(ledger, a_call(), shop)
    assert isinstance(outcome, InDoubt)
    assert "stopped by CancelledError" in (outcome.record.reason or "")


async def test_an_intent_cancelled_before_its_call_is_taken_back(ledger: EffectLedger):
    shop = Shop()
    await ledger.unsettled()  # tables are made, so that the first write is the intent
    task = asyncio.create_task(make(ledger, a_call(), shop))
    await asyncio.sleep(0)  # under way to the ledger
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await ledger.unsettled() == []
    assert shop.keys == []
    assert isinstance(await make(ledger, a_call(), shop), Done)


async def test_control_flow_passes_and_takes_the_intent_back(ledger: EffectLedger):
    shop = Shop(raises=Interrupt())
    with pytest.raises(Interrupt):
        await make(ledger, a_call(), shop, control_flow=(Interrupt,))
    assert await ledger.unsettled() == []
    shop.raises = None
    assert await make(ledger, a_call(), shop) == Done(value="paid", replayed=False)


async def test_a_slow_call_keeps_its_lease(ledger: EffectLedger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(perform.__globals__, "_BEATS", 300)  # each lease is renewed with nearly all of it left
    shop = Shop()
    shop.open.clear()
    task = asyncio.create_task(make(ledger, a_call(), shop))
    await shop.entered.wait()
    leases = {await lease_of(ledger, a_call())}
    while len(leases) < 4:
        assert isinstance(await make(ledger, a_call(), shop), Pending)
        leases.add(await lease_of(ledger, a_call()))
        await asyncio.sleep(0.01)
    shop.open.set()
    assert await task == Done(value="paid", replayed=False)
    assert shop.effects == 1


async def test_a_lease_is_renewed_while_it_runs_however_long_the_call_takes(flying: Clock):
    shop, ledger = Shop(), MemoryLedger(clock=time.monotonic)
    shop.open.clear()
    task = asyncio.create_task(make(ledger, a_call(), shop, settings=SETTINGS))
    await shop.entered.wait()
    for _ in range(60):
        await asyncio.sleep(SETTINGS.lease_seconds / 6)
        assert isinstance(await make(ledger, a_call(), shop), Pending)
    shop.open.set()
    assert await task == Done(value="paid", replayed=False)


async def test_who_comes_back_after_the_lease_settles_the_doubt(ledger: EffectLedger):
    shop = Shop()
    shop.open.clear()
    task = asyncio.create_task(make(ledger, a_call(), shop))
    await shop.entered.wait()
    await lapse(ledger, a_call())
    assert isinstance(await make(ledger, a_call(), shop), InDoubt)
    shop.open.set()
    assert await task == Done(value="paid", replayed=False)
    assert await make(ledger, a_call(), shop) == Done(value="paid", replayed=True)


async def test_who_comes_back_after_a_person_decided_is_told_so(ledger: EffectLedger, caplog: pytest.LogCaptureFixture):
    shop = Shop()
    shop.open.clear()
    task = asyncio.create_task(make(ledger, a_call(), shop))
    await shop.entered.wait()
    await lapse(ledger, a_call())
    outcome = await make(ledger, a_call(), shop)
    await settle(ledger, a_call().position, Answer(doubt_id=outcome.record.doubt_id, decision="give up"))
    shop.open.set()
    with caplog.at_level(logging.WARNING):
        assert await task == GivenUp(reason=None)
    assert "came back after its lease had run out, and its record is given up by now" in caplog.text


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({1: "a"}, {"1": "a"}),
        (b"\x00\xff", "b'\\x00\\xff'"),
        ({"text": "NUL \0, half a pair \ud83d, whole 😀"}, {"text": "NUL \0, half a pair \ud83d, whole 😀"}),
        (None, None),
        (float("inf"), float("inf")),
    ],
)
async def test_a_result_is_kept_as_json_or_as_text_and_given_alike_at_once_and_later(
    ledger: EffectLedger, value: Any, kept: Any
):
    assert await make(ledger, a_call(), Shop(gives=value)) == Done(value=kept, replayed=False)
    assert await make(ledger, a_call(), Shop()) == Done(value=kept, replayed=True)


async def test_a_result_that_cannot_even_be_shown_still_counts_as_done():
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError

    ledger = MemoryLedger()
    assert await make(ledger, a_call(), Shop(gives=Odd())) == Done(value="<Odd>", replayed=False)
    ring: list[Any] = []
    ring.append(ring)
    assert await make(ledger, a_call(ordinal=1), Shop(gives=ring)) == Done(value="[[...]]", replayed=False)


async def test_a_long_result_is_cut_at_once_and_later():
    ledger, settings = MemoryLedger(), LedgerSettings(max_result_characters=10)
    first = await make(ledger, a_call(), Shop(gives="x" * 30), settings=settings)
    assert first == Done(value='"xxxxxxxxx… [cut: 10 of 32 characters]', replayed=False)
    assert (await make(ledger, a_call(), Shop())).value == first.value


async def test_arguments_are_kept_where_the_settings_say_so_and_else_their_digest_alone(ledger: EffectLedger):
    secret = a_call(arguments={"card": "4242"})
    await make(ledger, secret, Shop(raises=TimeoutError()))
    (record,) = await ledger.unsettled()
    assert "4242" not in record.to_json()
    kept = a_call(arguments={"card": "4242"}, ordinal=1)
    await make(ledger, kept, Shop(raises=TimeoutError()), settings=LedgerSettings(keep_arguments=True))
    assert [record.arguments for record in await ledger.unsettled()] == [None, '[["pay",{"card":"4242"}]]']


class Flaky(MemoryLedger):
    """A ledger that cannot be written for some operations in a row."""

    def __init__(self, fail: range) -> None:
        super().__init__()
        self.asked, self.fail = 0, fail

    async def transact(self, position: Position, step: Step[Any]) -> Any:
        self.asked += 1
        if self.asked - 1 in self.fail:
            raise LedgerError("the disk is full")
        return await super().transact(position, step)


async def test_no_call_is_made_without_a_recorded_intent():
    shop = Shop()
    with pytest.raises(LedgerError, match="the disk is full"):
        await make(Flaky(range(1)), a_call(), shop)
    assert shop.effects == 0


async def test_a_result_is_recorded_at_the_second_try():
    shop, ledger = Shop(), Flaky(range(1, 3))
    assert await make(ledger, a_call(), shop) == Done(value="paid", replayed=False)
    assert await make(ledger, a_call(), shop) == Done(value="paid", replayed=True)


async def test_a_result_that_cannot_be_recorded_is_an_error_that_says_so_and_a_doubt_later():
    shop, ledger = Shop(), Flaky(range(1, 5))
    with pytest.raises(LedgerError, match=r"pay at rollout 'thread of request', turn 2, call 0 ended, but"):
        await make(ledger, a_call(), shop)
    await lapse(ledger, a_call())
    assert isinstance(await make(ledger, a_call(), shop), InDoubt)
    assert shop.effects == 1


class OfSomeClient(Exception): ...


class ReadTimeout(OfSomeClient): ...


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (BrokenPipeError(), True),
        (asyncio.IncompleteReadError(b"", 4), True),
        (ReadTimeout(), True),
        (chained(OfSomeClient("failed"), ConnectionResetError()), True),
        (ConnectionRefusedError(), False),
        (OfSomeClient("404"), False),
        (ValueError("no such customer"), False),
        (PermissionError(), False),
    ],
)
def test_which_errors_leave_open_what_happened(error: Exception, expected: bool):
    assert is_uncertain(error) is expected


def test_the_key_is_there_inside_a_call_alone():
    with pytest.raises(ConfigurationError, match="inside an external call only"):
        current_idempotency_key()
    with use_idempotency_key("of a test"):
        assert current_idempotency_key() == "of a test"


@pytest.mark.parametrize("wrong", [{"rollout": ""}, {"rollout": "a\0b"}, {"rollout": "\ud800"}, {"turn": -1}])
def test_a_position_that_no_database_can_hold_is_refused(wrong: dict[str, Any]):
    with pytest.raises(ConfigurationError):
        Position(**{"rollout": "r", "turn": 0, "ordinal": 0, **wrong})
