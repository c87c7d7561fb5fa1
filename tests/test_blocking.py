"""Synchronous calls run their coroutine to its end, on one loop, and clean up."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from contextvars import ContextVar

import pytest

from entcent_agents.blocking import iterate_sync, run_sync

who: ContextVar[str] = ContextVar("who", default="nobody")


async def loop_of_call() -> asyncio.AbstractEventLoop:
    await asyncio.sleep(0)
    return asyncio.get_running_loop()


def test_every_call_runs_on_the_same_loop_from_whatever_thread():
    loops: list[asyncio.AbstractEventLoop] = [run_sync(loop_of_call()), run_sync(loop_of_call())]
    threads = [threading.Thread(target=lambda: loops.append(run_sync(loop_of_call()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loops) == 6 and len(set(loops)) == 1


def test_an_exception_reaches_the_caller_as_it_is():
    failure = KeyError("x")

    async def fails() -> None:
        raise failure

    with pytest.raises(KeyError) as caught:
        run_sync(fails())
    assert caught.value is failure


def test_the_caller_s_context_variables_are_seen_and_its_own_stay_as_they_were():
    async def changes() -> str:
        seen = who.get()
        who.set("inside")
        return seen

    token = who.set("caller")
    try:
        assert run_sync(changes()) == "caller"
        assert who.get() == "caller"
    finally:
        who.reset(token)


def test_an_interrupt_cancels_waits_for_the_clean_up_and_is_raised_again():
    steps: list[str] = []

    async def works() -> None:
        try:
            steps.append("started")
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0.2)
            steps.append("cleaned up")

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_sync(works())
    assert steps == ["started", "cleaned up"]
    assert time.monotonic() - started < 10


def test_a_cancelled_coroutine_is_a_cancellation_for_the_caller():
    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task
        task.cancel()
        await asyncio.sleep(1)

    with pytest.raises(asyncio.CancelledError):
        run_sync(cancels_itself())


def test_a_call_from_inside_the_background_loop_is_refused_and_leaves_nothing_unawaited():
    async def calls_again() -> None:
        run_sync(loop_of_call())

    with pytest.raises(RuntimeError, match="call the async form"):
        run_sync(calls_again())


async def test_a_call_from_another_running_loop_works():
    assert run_sync(loop_of_call()) is not asyncio.get_running_loop()


async def counted(to: int, then: Exception | None = None):
    for i in range(to):
        await asyncio.sleep(0)
        yield i, who.get()
    if then:
        raise then


def test_what_comes_asynchronously_is_given_in_order_with_the_callers_context():
    who.set("mine")
    assert list(iterate_sync(counted(3))) == [(0, "mine"), (1, "mine"), (2, "mine")]


def test_an_error_of_an_iterator_comes_after_what_came_before_it():
    items = iterate_sync(counted(1, ValueError("broken")))
    assert next(items)[0] == 0
    with pytest.raises(ValueError, match="broken"):
        next(items)


def test_an_iterator_that_is_dropped_is_cancelled_and_cleans_up():
    cleaned: list[str] = []

    async def endless():
        try:
            while True:
                await asyncio.sleep(0)
                yield 1
        finally:
            cleaned.append("up")

    items = iterate_sync(endless())
    next(items)
    items.close()
    assert cleaned == ["up"]


def test_an_iterator_that_is_collected_on_the_background_loop_does_not_hold_it_up():
    cleaned = threading.Event()

    async def endless():
        try:
            while True:
                await asyncio.sleep(0.01)
                yield 1
        finally:
            cleaned.set()

    class Holder:
        """Refers to itself, so that only the garbage collector finds it."""

    def abandon() -> None:
        holder = Holder()
        holder.itself, holder.items = holder, iterate_sync(endless())
        next(holder.items)

    async def collect() -> float:
        started = time.monotonic()
        gc.collect()
        return time.monotonic() - started

    gc.disable()
    try:
        abandon()
        assert run_sync(collect()) < 5
    finally:
        gc.enable()
    assert cleaned.wait(10)


def test_iterating_from_inside_the_background_loop_is_refused():
    async def inside():
        return list(iterate_sync(counted(1)))

    with pytest.raises(RuntimeError, match="own event loop"):
        run_sync(inside())
