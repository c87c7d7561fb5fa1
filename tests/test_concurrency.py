"""How many requests a server is sent at once: found out from its answers, shared by all loops, never leaked."""

from __future__ import annotations

import asyncio
import gc
import heapq
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entcent_agents.chat import concurrency as concurrency_module
from entcent_agents.chat.adaptive import AdaptiveLimit, Kind
from entcent_agents.chat.concurrency import Concurrency, Endpoint, Permit, concurrency
from entcent_agents.chat.model import ChatLogprobs
from entcent_agents.errors import ModelServerError
from tests.chat_server import ChatServer, Reply, says
from tests.crowded_server import Crowded

KIND = Kind("m", 1, False, 10, 12)


# What is decided


class Wire:
    """A limit and the requests that are under way under it."""

    def __init__(self, limit: AdaptiveLimit | None = None) -> None:
        self.limit = limit or AdaptiveLimit()
        self.under_way: list[int] = []
        self.now = 0.0

    def send(self, times: int = 1) -> None:
        self.under_way += [self.limit.sent() for _ in range(times)]

    def refuse(self, times: int = 1) -> None:
        for _ in range(times):
            number = self.under_way.pop()
            self.limit.refused(number, len(self.under_way))

    def time_out(self, times: int = 1) -> None:
        for _ in range(times):
            number = self.under_way.pop(0)
            self.limit.silent(number, len(self.under_way))

    def answer(self, times: int = 1, seconds: float = 1.0, kind: Kind = KIND) -> None:
        for _ in range(times):
            number = self.under_way.pop(0)
            self.limit.answered(number, len(self.under_way), kind, seconds, self.now)

    def fill(self) -> None:
        self.send(int(self.limit.limit) - len(self.under_way))


def limited(to: int) -> Wire:
    """A wire that has found a server's room, with nothing under way."""
    wire = Wire()
    wire.send(to + 1)
    wire.refuse()
    wire.answer(to)
    return wire


def test_there_is_no_limit_until_a_request_shows_one():
    wire = Wire()
    wire.send(300)
    wire.answer(300)
    assert wire.limit.limit == math.inf
    assert wire.limit.reason == ""


def test_a_burst_of_refusals_finds_the_room_of_a_server_at_once():
    wire = Wire()
    wire.send(256)
    wire.refuse(224)
    assert wire.limit.limit == 32
    assert wire.limit.reason == "refused"


def test_a_refusal_never_makes_room_for_another_request():
    wire = Wire()
    wire.send(256)
    for _ in range(255):
        wire.refuse()
        assert wire.limit.limit <= len(wire.under_way)


def test_a_refusal_lowers_the_limit_by_a_tenth_once_a_round_trip():
    wire = limited(100)
    assert wire.limit.limit == 90
    wire.fill()
    wire.send(2)
    wire.refuse()
    assert wire.limit.limit == 81
    wire.refuse()
    assert wire.limit.limit == 81


def test_the_limit_rises_by_one_a_round_trip_while_it_is_used():
    wire = limited(10)
    for limit in range(9, 13):
        assert wire.limit.limit == limit
        wire.fill()
        wire.answer(limit)


def test_a_server_that_has_four_times_the_room_is_soon_sent_as_much():
    wire, trips = limited(16), 0
    while wire.limit.limit < 64:
        wire.fill()
        wire.answer(len(wire.under_way))
        trips += 1
    assert trips <= 10


def test_a_limit_that_nobody_needs_does_not_rise():
    wire = limited(10)
    for _ in range(100):
        wire.send()
        wire.answer()
    assert wire.limit.limit == 9


def test_time_outs_halve_the_limit_once_a_round_trip():
    wire = Wire()
    wire.send(64)
    wire.time_out(40)
    assert wire.limit.limit == 32
    assert wire.limit.reason == "silent"


def test_a_server_that_was_away_is_soon_sent_as_much_as_before():
    wire = limited(100)
    wire.fill()
    wire.refuse(90)
    assert wire.limit.limit == 1
    trips = 0
    while wire.limit.limit < 90:
        wire.fill()
        wire.answer(len(wire.under_way))
        trips += 1
    assert trips == 7  # 2, 4, 8, 16, 32, 64, 90


def slowly(wire: Wire, slow: int, quick: int, kind: Kind = KIND, seconds: float = 9.0) -> float:
    """The limit after answers of which some are slow, while others are under way."""
    wire.send(64)
    wire.answer(8)
    for _ in range(16):
        wire.send(slow + quick)
        wire.answer(slow, seconds, kind)
        wire.answer(quick)
    return wire.limit.limit


def test_a_limit_is_halved_where_most_answers_take_eight_times_as_long():
    wire = Wire()
    assert slowly(wire, slow=8, quick=4) <= 32
    assert wire.limit.reason == "slow"


@pytest.mark.parametrize(
    ("slow", "quick", "kind", "seconds"),
    [
        pytest.param(4, 8, KIND, 9.0, id="a minority"),
        pytest.param(12, 0, Kind("m", 1, False, 10, 16), 9.0, id="longer answers"),
        pytest.param(12, 0, Kind("m", 8, False, 10, 12), 9.0, id="more choices"),
        pytest.param(12, 0, Kind("a larger model", 1, False, 10, 12), 9.0, id="another model"),
        pytest.param(12, 0, KIND, 7.0, id="as servers do that batch"),
    ],
)
def test_what_is_not_the_load_does_not_count_as_slow(slow, quick, kind, seconds):
    assert slowly(Wire(), slow, quick, kind, seconds) == math.inf


def test_below_a_second_nothing_is_slow():
    wire = Wire()
    wire.send(64)
    wire.answer(8, seconds=0.01)
    for _ in range(100):
        wire.send()
        wire.answer(seconds=0.9)
    assert wire.limit.limit == math.inf


def test_a_single_request_at_a_time_is_never_slow_for_the_load():
    wire = Wire()
    for i in range(100):
        wire.send()
        wire.answer(seconds=100.0 if i else 1.0)
    assert wire.limit.limit == math.inf


def test_the_quickest_answer_is_forgotten_in_time():
    wire = Wire()
    wire.send(64)
    wire.answer(8)
    for wire.now in (400.0, 800.0):
        wire.send(8)
        wire.answer(8, seconds=7.0)
    for _ in range(4):
        wire.send(16)
        wire.answer(16, seconds=20.0)
    assert wire.limit.limit == math.inf


events = st.lists(st.tuples(st.sampled_from(["send", "refuse", "time_out", "answer", "slow"]), st.integers(1, 40)))


@given(events)
def test_whatever_happens_one_request_may_go(happenings):
    wire = Wire()
    for what, times in happenings:
        if what == "send":
            wire.send(times)
        elif what == "slow":
            wire.answer(min(times, len(wire.under_way)), seconds=100.0)
        else:
            getattr(wire, what)(min(times, len(wire.under_way)))
        assert wire.limit.limit >= 1


@pytest.mark.parametrize("room", [1, 2, 5, 16, 64, 200])
def test_a_server_is_kept_busy_and_seldom_asked_in_vain(room):
    """A simulation: three times as many clients as it has room for, answers of one to three seconds."""
    wire, ends, used, refused = Wire(), list[tuple[float, int]](), 0.0, 0
    answers = 100 * room
    for number in range(answers):
        while len(wire.under_way) < min(3 * room, wire.limit.limit):
            wire.send()
            if len(wire.under_way) > room:
                wire.refuse()
                refused += 1
            else:
                length = 1.0 + (wire.limit._sent * 0.618) % 2.0
                heapq.heappush(ends, (wire.now + length, wire.under_way[-1]))
        end, first = heapq.heappop(ends)
        used += (end - wire.now) * len(wire.under_way)
        wire.now = end
        wire.under_way.remove(first)
        wire.limit.answered(first, len(wire.under_way), KIND, 2.0, wire.now)
        assert number < answers
    assert used / wire.now > 0.8 * room
    assert refused < 2 * room + 0.15 * answers if room < 16 else refused < 2 * room + 0.01 * answers


# Whose turn it is


@pytest.fixture
def soon(monkeypatch) -> None:
    """Stalls and drops are seen in a moment."""
    monkeypatch.setattr(concurrency_module, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(concurrency_module, "_LOOK_SECONDS", 0.05)


async def until(state: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not state():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_who_came_first_goes_first():
    endpoint, order = Endpoint("x"), list[int]()

    async def go(number: int) -> None:
        permit = await endpoint.permit(2)
        order.append(number)
        await asyncio.sleep(0.001)
        permit.close()

    await asyncio.gather(*map(go, range(50)))
    assert order == list(range(50))


async def test_a_small_ceiling_counts_for_its_own_requests_alone():
    endpoint = Endpoint("x")
    permits = [await endpoint.permit(8) for _ in range(3)]
    small = asyncio.create_task(endpoint.permit(2))
    await asyncio.sleep(0.01)
    assert endpoint.state().waiting == 1
    permits.pop().close()
    permits.pop().close()
    (await small).close()
    permits.pop().close()
    assert endpoint.state().under_way == 0


async def test_only_the_first_report_on_a_permit_counts():
    endpoint = Endpoint("x")
    permit, other = await endpoint.permit(8), await endpoint.permit(8)
    permit.close()
    permit.refused(60.0)
    permit.silent()
    assert endpoint.state().under_way == 1
    assert endpoint.state().limit is None
    assert endpoint.state().held_seconds == 0
    other.close()


async def test_cancelling_at_any_moment_leaks_nothing():
    endpoint = Endpoint("x")
    for steps in range(8):
        held = await endpoint.permit(1)
        task = asyncio.create_task(endpoint.permit(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        held.close()
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(outcome, Permit):
            outcome.close()
        del outcome
        await asyncio.sleep(0)
        state = endpoint.state()
        assert (state.under_way, state.waiting) == (0, 0)


async def test_a_permit_that_is_dropped_comes_back(soon, monkeypatch):
    monkeypatch.setattr(concurrency_module, "STALL_SECONDS", 3600)
    endpoint = Endpoint("x")
    permit = await endpoint.permit(1)
    waiting = asyncio.create_task(endpoint.permit(1))
    await asyncio.sleep(0.01)
    del permit
    (await waiting).close()  # long before it would count as a stall
    assert endpoint.state().under_way == 0


async def test_nobody_is_sent_before_retry_after_is_over_and_waiting_holds_no_permit(flying):
    endpoint = Endpoint("x", now=time.monotonic)
    (await endpoint.permit(8)).refused(30)
    began = time.monotonic()
    tasks = [asyncio.create_task(endpoint.permit(8)) for _ in range(3)]
    await asyncio.sleep(10)
    state = endpoint.state()
    assert (state.under_way, state.waiting, state.limit, state.reason) == (0, 3, 1, "refused")
    assert 0 < state.held_seconds <= 20
    for task in tasks:
        (await task).close()
    assert 30 <= time.monotonic() - began < 100


async def test_a_retry_after_of_hours_holds_nobody():
    endpoint = Endpoint("x")
    (await endpoint.permit(8)).refused(3600.0)
    (await asyncio.wait_for(endpoint.permit(8), 60)).close()


def test_loops_share_a_ceiling():
    endpoint, most, lock = Endpoint("x"), list[int](), threading.Lock()
    under_way = 0

    async def go() -> None:
        nonlocal under_way
        permit = await endpoint.permit(3)
        with lock:
            under_way += 1
            most.append(under_way)
        await asyncio.sleep(0.001)
        with lock:
            under_way -= 1
        permit.close()

    async def several() -> None:
        await asyncio.gather(*(go() for _ in range(50)))

    with ThreadPoolExecutor(6) as threads:
        for done in [threads.submit(asyncio.run, several()) for _ in range(12)]:
            done.result()
    assert max(most) == 3
    assert len(most) == 600
    assert endpoint.state() == Concurrency(address="x", limit=None, under_way=0, waiting=0, held_seconds=0.0, reason="")


@settings(max_examples=10, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.sampled_from(["close", "refuse", "drop", "cancel", "answer"])), max_size=40
    )
)
def test_however_requests_end_on_several_loops_no_permit_is_lost(script):
    endpoint = Endpoint("x")

    async def go(milliseconds: int, end: str) -> None:
        async with asyncio.timeout(0.001 * milliseconds if end == "cancel" else None):
            permit = await endpoint.permit(3)
            try:
                await asyncio.sleep(0.0005 * milliseconds)
            except asyncio.CancelledError:
                permit.close()  # else the error's traceback would keep it
                raise
        if end == "refuse":
            permit.refused()
        elif end == "answer":
            permit.answered(KIND, 0.01)
        elif end == "close" or end == "cancel":
            permit.close()

    async def several(part: list[tuple[int, str]]) -> None:
        await asyncio.gather(*(go(*each) for each in part), return_exceptions=True)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(3) as threads:
        patch.setattr(concurrency_module, "_LOOK_SECONDS", 0.005)
        for done in [threads.submit(asyncio.run, several(script[i::3])) for i in range(3)]:
            done.result(60)
    gc.collect()
    state = endpoint.state()
    assert (state.under_way, state.waiting) == (0, 0)


def test_a_loop_that_dies_with_permits_and_requests_waiting_stops_nobody(soon):
    endpoint = Endpoint("x")
    loop = asyncio.new_event_loop()
    permits = [loop.run_until_complete(endpoint.permit(2)) for _ in range(2)]
    waiting = [loop.create_task(endpoint.permit(2)) for _ in range(3)]
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    for task in waiting:
        task._log_destroy_pending = False
    assert endpoint.state().waiting == 3
    del permits

    async def go() -> None:
        (await asyncio.wait_for(endpoint.permit(2), 60)).close()

    asyncio.run(go())
    state = endpoint.state()
    assert (state.under_way, state.waiting) == (0, 0)


def test_a_loop_that_is_blocked_by_a_synchronous_call_does_not_block_that_call(soon):
    endpoint = Endpoint("x")

    async def other() -> None:
        (await endpoint.permit(1)).close()

    async def blocked() -> None:
        permit = await endpoint.permit(1)
        with ThreadPoolExecutor(1) as threads:
            threads.submit(asyncio.run, other()).result(60)  # as a tool does that calls a model synchronously
        permit.close()

    asyncio.run(blocked())
    assert endpoint.state().under_way == 0


async def test_a_ceiling_is_kept_within_a_loop_however_long_nothing_moves(soon):
    endpoint = Endpoint("x")
    permit = await endpoint.permit(1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(endpoint.permit(1), 1.0)
    permit.close()


async def test_a_request_inside_a_stream_goes_though_the_limit_was_lowered(soon):
    endpoint = Endpoint("x")
    first, second = await endpoint.permit(8), await endpoint.permit(8)
    second.refused()
    assert endpoint.state().limit == 1
    (await asyncio.wait_for(endpoint.permit(8), 60)).close()
    first.close()


async def test_a_limit_that_changes_much_is_logged(caplog):
    caplog.set_level(logging.INFO, "entcent_agents.chat.concurrency")
    endpoint = Endpoint("http://x/v1")
    permits = [await endpoint.permit(64) for _ in range(64)]
    for permit in permits[8:]:
        permit.refused()
    for permit in permits[:8]:
        permit.close()
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "http://x/v1: at most 57 requests at once (refused)"
    assert said[-1] == "http://x/v1: at most 14 requests at once (refused)"
    assert len(said) == 3


# Over HTTP


def chat(server: ChatServer, **rest) -> ChatLogprobs:
    return ChatLogprobs(**{"model": "scripted", "base_url": server.base_url, "max_retries": 0, **rest})


def state() -> Concurrency:
    (only,) = concurrency()
    return only


async def ask(model: ChatLogprobs, times: int) -> list[str]:
    said = await asyncio.gather(*(model.ainvoke("Hi") for _ in range(times)), return_exceptions=True)
    return [type(each).__name__ if isinstance(each, BaseException) else each.text for each in said]


@pytest.fixture
def crowded(serve) -> Iterator[Callable[..., tuple[ChatServer, Crowded]]]:
    def start(*args, **kwargs) -> tuple[ChatServer, Crowded]:
        script = Crowded(*args, **kwargs)
        return serve(script), script

    return start


async def test_calls_above_what_a_server_takes_are_answered_after_one_burst_of_refusals(crowded):
    server, script = crowded(room=8, seconds=0.1)
    assert await ask(chat(server, max_retries=3), 40) == ["x"] * 40
    assert 0 < script.refused <= 40
    assert script.most == 8
    assert state().under_way == 0


async def test_after_a_refusal_nobody_asks_before_retry_after_is_over(crowded):
    server, script = crowded(room=4, seconds=0.2, retry_after="4")
    assert await ask(chat(server, max_retries=2), 10) == ["x"] * 10
    first = script.arrived[0]
    assert script.refused > 0
    assert not [seconds for at in script.arrived if 3.0 < (seconds := at - first) < 4.0]


async def test_a_model_in_the_same_process_waits_for_the_retry_after_that_another_was_told(crowded):
    server, script = crowded(room=0, seconds=0.1, retry_after="1")
    assert await ask(chat(server), 1) == ["ModelServerError"]
    script.room = 8
    began = time.monotonic()
    answer = await asyncio.to_thread(lambda: chat(server, timeout_seconds=50.0).invoke("Hi").text)
    assert answer == "x"
    assert time.monotonic() - began > 0.8


def test_models_on_several_loops_and_threads_share_max_connections(crowded):
    server, script = crowded(room=2, seconds=0.05)
    model = chat(server, max_connections=2)
    with ThreadPoolExecutor(6) as threads:
        sync = [threads.submit(lambda: [model.invoke("Hi").text] * 2) for _ in range(6)]
        loops = [threads.submit(asyncio.run, ask(model, 2)) for _ in range(6)]
        texts = [each.result() for each in [*sync, *loops]]
    assert texts == [["x", "x"]] * 12
    assert script.refused == 0
    assert script.most == 2


async def test_keys_have_limits_of_their_own(crowded):
    server, _ = crowded(room=0, seconds=0.1)
    for key in ("a", "b"):
        await ask(chat(server, api_key=key), 1)
    assert [each.limit for each in concurrency()] == [1, 1]
    assert "'a'" not in repr(concurrency())


async def test_time_outs_lower_the_limit(serve_hurried):
    server = serve_hurried([says("x", delay_seconds=math.inf)])
    assert await ask(chat(server, timeout_seconds=30), 16) == ["ModelServerError"] * 16
    assert state().limit == 8
    assert state().reason == "silent"


@pytest.mark.parametrize("status", [400, 401, 404, 500, 502])
async def test_other_errors_tell_nothing(serve, status):
    server = serve([Reply(status=status, error="no")])
    assert await ask(chat(server), 8) == ["ModelServerError"] * 8
    assert (state().limit, state().under_way) == (None, 0)


@pytest.mark.parametrize("how", ["close", "cut", "reset"])
async def test_answers_that_break_off_give_their_permits_back(serve, how):
    server = serve([says("a b c", breaks_after=1, breaks_how=how)])
    assert await ask(chat(server), 8) == ["ModelServerError"] * 8
    assert (state().limit, state().under_way) == (None, 0)


async def test_a_server_that_is_not_there_leaves_no_permit():
    model = ChatLogprobs(model="m", base_url="http://127.0.0.1:9/v1", max_retries=0)
    with pytest.raises(ModelServerError):
        await model.ainvoke("Hi")
    assert (state().limit, state().under_way) == (None, 0)


async def test_cancelled_calls_and_streams_give_their_permits_back_and_tell_nothing(serve):
    server = serve(lambda request: [says("a b c", breaks_after=2, breaks_how="stall")])
    model = chat(server, max_connections=4)
    for _ in range(3):
        tasks = [asyncio.create_task(model.ainvoke("Hi")) for _ in range(8)]
        await until(lambda: bool(concurrency()) and state().under_way == 4)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (state().under_way, state().waiting) == (0, 0)
    async for _ in model.astream("Hi"):
        break
    gc.collect()
    await until(lambda: state().under_way == 0)
    assert state().limit is None


async def test_a_server_that_heals_is_sent_more_again(crowded):
    server, script = crowded(room=2, seconds=0.02)
    model = chat(server, max_retries=3)
    await ask(model, 16)
    low = state().limit
    assert low is not None
    assert low <= 4
    script.room, script.most = 100, 0
    assert await ask(model, 200) == ["x"] * 200
    assert script.most >= 2 * low


async def test_an_answer_keeps_how_long_it_took(serve):
    server = serve([says("x", delay_seconds=0.1)])
    response = await chat(server).client().chat.completions.with_raw_response.create(model="m", messages=[])
    assert response.elapsed.total_seconds() >= 0.1
