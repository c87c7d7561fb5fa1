"""Calls that several rollouts make at the same time: made once, whatever becomes of whoever makes it."""

from __future__ import annotations

import asyncio

import pytest

from entcent_agents.rollouts.sharing import SharedCalls

KEY = ("", "", "digest")


class Tool:
    """Fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.runs = 0

    async def run(self) -> int:
        self.runs += 1
        mine = self.runs
        await asyncio.sleep(0.01)
        if mine <= self.failures:
            raise ValueError(f"failure {mine}")
        return mine


@pytest.mark.parametrize("share_errors", [False, True])
async def test_whoever_waits_makes_the_call_where_its_maker_was_cancelled(share_errors: bool):
    shared, tool = SharedCalls(), Tool()
    first, *others = [asyncio.create_task(shared.once(KEY, tool.run, share_errors=share_errors)) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    assert await asyncio.gather(*others) == [2, 2]
    assert first.cancelled() and tool.runs == 2


async def test_errors_are_shared_where_the_call_may_not_be_repeated():
    shared, tool = SharedCalls(), Tool(failures=1)
    calls = [shared.once(KEY, tool.run, share_errors=True) for _ in range(3)]
    assert [str(error) for error in await asyncio.gather(*calls, return_exceptions=True)] == ["failure 1"] * 3
    assert tool.runs == 1


async def test_a_call_that_is_over_is_made_anew():
    shared, tool = SharedCalls(), Tool()
    assert [await shared.once(KEY, tool.run, share_errors=False) for _ in range(2)] == [1, 2]
