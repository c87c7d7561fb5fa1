"""Requests of a batch: what some leave goes to others, and none waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.runnables import RunnableLambda

from entcent_agents.branching import allocate
from entcent_agents.errors import ConfigurationError
from entcent_agents.nodes import abatch
from entcent_agents.nodes.batch import part_in_batch

N = 4


class Requests:
    """A graph that uses so many of its n rollouts as its input says, and its part if it used all.

    An input of None fails before its rollouts, a negative one while it has so many.
    """

    def __init__(self, *, n: Callable[[int], int] = lambda used: N, seconds: float | None = None) -> None:
        self._n = n
        self._seconds = seconds
        self.running = 0
        self.most = 0
        self.held = asyncio.Event()
        self.held.set()
        self.waiting = 0
        self.ended = 0

    @property
    def graph(self) -> Any:
        return RunnableLambda(self._answer)

    async def _answer(self, used: int | None) -> int:
        self._enter()
        try:
            return await self._rollouts(used)
        finally:
            self.running -= 1
            self.ended += 1

    def _enter(self) -> None:
        self.running += 1
        self.most = max(self.most, self.running)

    async def _rollouts(self, used: int | None) -> int:
        await asyncio.sleep(0)
        if used is None:
            raise ValueError("it never came to its rollouts")
        batch = part_in_batch(self._n(used))
        assert batch
        try:
            if used < self._n(used):
                await self.held.wait()
            if used < 0:
                raise ValueError("it failed")
            if used < self._n(used):
                return used
            self.running -= 1
            self.waiting += 1
            try:
                part = await batch.part(used, seconds=self._seconds)
            finally:
                self.waiting -= 1
                self._enter()
            await asyncio.sleep(0)
            return used + part
        finally:
            batch.settle(abs(used))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, N), min_size=1, max_size=9), st.none() | st.integers(1, 4))
def test_the_parts_are_those_of_allocate_whoever_runs_beside_whom(used: list[int], most: int | None):
    async def run() -> list[int]:
        requests = Requests()
        answers = await abatch(requests.graph, used, max_concurrency=most)
        assert requests.most <= (most or len(used))
        return answers

    given = allocate(dict(enumerate(used)), N)
    assert asyncio.run(run()) == [each + given.get(place, 0) for place, each in enumerate(used)]


async def test_a_request_that_fails_leaves_the_rest_and_one_that_never_began_leaves_nothing():
    answers = await abatch(Requests().graph, [N, None, -2, N], return_exceptions=True)
    assert [type(answer) for answer in answers] == [int, ValueError, ValueError, int]
    assert (answers[0], answers[3]) == (N + 1, N + 1)


async def test_the_first_error_ends_all_others_before_it_is_raised():
    requests = Requests()
    with pytest.raises(ValueError, match="never came"):
        await abatch(requests.graph, [N, N, None, N])
    assert (requests.running, requests.waiting, requests.ended) == (0, 0, 4)


@pytest.mark.parametrize("most", [1, 2, None])
async def test_a_cancelled_batch_ends_those_that_wait_and_those_that_run(most: int | None):
    requests = Requests()
    requests.held.clear()
    batch = asyncio.create_task(abatch(requests.graph, [N, 1, N], max_concurrency=most))
    while not requests.waiting:  # noqa: ASYNC110  nothing tells
        await asyncio.sleep(0)
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    assert (requests.running, requests.waiting) == (0, 0)


async def test_a_request_whose_time_is_over_waits_no_longer_and_gets_nothing():
    requests = Requests(seconds=0.01)
    requests.held.clear()
    batch = asyncio.create_task(abatch(requests.graph, [N, 1, N]))
    while requests.ended < 2:  # noqa: ASYNC110  nothing tells
        await asyncio.sleep(0.001)
    requests.held.set()
    assert await batch == [N, 1, N]


async def test_a_request_whose_time_is_over_waits_for_no_place():
    requests = Requests(seconds=0.01)
    requests.held.clear()
    batch = asyncio.create_task(abatch(requests.graph, [N, 1], max_concurrency=1))
    while requests.ended < 1:  # noqa: ASYNC110  nothing tells
        await asyncio.sleep(0.001)
    requests.held.set()
    assert await batch == [N, 1]


async def test_requests_that_run_through_nodes_with_another_n_share_among_themselves():
    requests = Requests(n=lambda used: 4 if used in (4, 1) else 3)
    assert await abatch(requests.graph, [4, 1, 3, 2]) == [7, 1, 4, 2]


async def test_only_the_first_round_of_a_request_has_a_part_and_code_outside_batches_has_none():
    async def rounds(_: Any) -> list[bool]:
        found = [part_in_batch(N) for _ in range(2)]
        return [each is not None for each in found]

    assert await abatch(RunnableLambda(rounds), [1, 2]) == [[True, False]] * 2
    assert part_in_batch(N) is None


async def test_synchronous_code_that_went_to_another_loop_has_no_part():
    async def elsewhere(_: Any) -> bool:
        return await asyncio.to_thread(lambda: asyncio.run(asks())) is None

    async def asks() -> object:
        return part_in_batch(N)

    assert await abatch(RunnableLambda(elsewhere), [1]) == [True]


@pytest.mark.parametrize("config", [{"max_concurrency": 1}, [{"max_concurrency": 1}, {}, {}]])
async def test_the_concurrency_of_the_configuration_counts_as_in_langchain(config: Any):
    requests = Requests()
    assert await abatch(requests.graph, [1, 2, 3], config) == [1, 2, 3]
    assert requests.most == 1


async def test_a_batch_of_nothing_is_nothing_and_no_concurrency_is_refused():
    requests: Sequence[Any] = []
    assert await abatch(Requests().graph, requests) == []
    with pytest.raises(ConfigurationError, match="max_concurrency=0"):
        await abatch(Requests().graph, [1], max_concurrency=0)
