"""A clock that tests put forward: limits of minutes are over at once, and a slow machine is no late answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


class Clock:
    """`time.monotonic`, with it the time of event loops, and `time.perf_counter`: as they are, and what was skipped."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self._jobs = 0
        self._ahead = 0.0
        for name in ("monotonic", "perf_counter"):
            patch.setattr(time, name, self._put_forward(getattr(time, name)))

    def _put_forward(self, real: Callable[[], float]) -> Callable[[], float]:
        return lambda: real() + self._ahead

    def forward(self, seconds: float) -> None:
        """Skip some time; called on the event loop that has timers."""
        self._ahead += seconds

    async def hurry(self, silent: Callable[[], bool]) -> None:
        """Let the time run fast whenever this is so; until it is cancelled."""
        while True:
            if silent():
                self.forward(0.5)
            await asyncio.sleep(0.01)

    async def soon(self, work: Awaitable[T]) -> T:
        """Await it while the time runs fast."""
        hurrying = asyncio.create_task(self.hurry(lambda: True))
        try:
            return await work
        finally:
            hurrying.cancel()

    def fly(self) -> None:
        """From now on skip all time in which the running loop only waits for its timers.

        What it waits for in threads of executors takes its own time. Other threads and sockets it would not notice:
        tests that have them put the clock forward themselves.
        """
        loop: Any = asyncio.get_running_loop()
        submit, select = loop.run_in_executor, loop._selector.select

        def counted(executor: Any, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
            job = submit(executor, function, *arguments)
            self._jobs += 1
            job.add_done_callback(self._ended)
            return job

        def skip(timeout: float | None) -> Any:
            if not timeout or self._jobs:
                return select(timeout)
            if not (ready := select(0)):
                self.forward(timeout)
            return ready

        self._patch.setattr(loop, "run_in_executor", counted)
        self._patch.setattr(loop._selector, "select", skip)

    def _ended(self, job: asyncio.Future[Any]) -> None:
        self._jobs -= 1
