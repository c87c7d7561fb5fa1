"""Rollouts that easy tasks did not need, given to hard ones."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import TypeVar

from entcent_agents.branching.checks import check_count
from entcent_agents.errors import ConfigurationError

Task = TypeVar("Task")


def allocate(used: Mapping[Task, int], maximum: int, *, unsolved: Collection[Task] | None = None) -> dict[Task, int]:
    """How many more rollouts tasks get of those that the others did not use.

    What is left of `maximum` for each task is shared out in equal parts, a remainder to the first ones in the order of
    `used`; no task gets more than `maximum`, so none has more than twice that in all.

    Args:
        used: How many rollouts each task had.
        maximum: How many it might have had.
        unsolved: Who draws, by their labels: for evaluation only, as nobody has labels otherwise. Default: the tasks
            that used all of theirs.

    Returns:
        Of the tasks that get any, how many.

    Raises:
        ConfigurationError: On a task that used more than `maximum`, an unsolved one that is not among those in `used`,
            or what is no number of rollouts.

    Source: arXiv 2510.11170; see docs/mathematics.md.
    """
    check_count("maximum", maximum, least=1)
    for task, rollouts in used.items():
        check_count(f"used[{task!r}]", rollouts)
        if rollouts > maximum:
            raise ConfigurationError(f"used[{task!r}]={rollouts} is more than maximum={maximum}")
    if unsolved is not None and (unknown := [task for task in unsolved if task not in used]):
        raise ConfigurationError(f"unsolved={unknown!r}: these tasks were not run")
    drawing = [
        task for task, rollouts in used.items() if (rollouts == maximum if unsolved is None else task in unsolved)
    ]
    if not drawing:
        return {}
    part, remainder = divmod(maximum * len(used) - sum(used.values()), len(drawing))
    given = {task: min(part + (place < remainder), maximum) for place, task in enumerate(drawing)}
    return {task: rollouts for task, rollouts in given.items() if rollouts}


class BudgetPool:
    """What the requests of a service did not use, lent to those that need more; threads may share it.

    Args:
        capacity: The most rollouts it holds; what is left over beyond is lost, so that a quiet night does not pay for
            a day without limits.

    Raises:
        ConfigurationError: On a capacity that is no number of rollouts.
    """

    def __init__(self, capacity: int) -> None:
        check_count("capacity", capacity)
        self._capacity = capacity
        self._balance = 0
        self._lock = threading.Lock()

    @property
    def balance(self) -> int:
        """Rollouts that can be lent, from 0 to the capacity."""
        return self._balance

    def request(self, maximum: int) -> PooledRequest:
        """A request begins that may use this many rollouts of its own, and borrow as many at most.

        Raises:
            ConfigurationError: On a maximum that is no number of rollouts.
        """
        check_count("maximum", maximum, least=1)
        return PooledRequest(self, maximum)

    def deposit(self, rollouts: int) -> None:
        """Take in what was not used.

        Raises:
            ConfigurationError: On what is no number of rollouts.
        """
        check_count("rollouts", rollouts)
        with self._lock:
            self._balance = min(self._balance + rollouts, self._capacity)

    def lend(self, wanted: int) -> int:
        """Give out as many as there are, at most those wanted. Whoever has a limit goes by way of `request`.

        Raises:
            ConfigurationError: On what is no number of rollouts.
        """
        check_count("wanted", wanted)
        with self._lock:
            granted = min(wanted, self._balance)
            self._balance -= granted
            return granted


class PooledRequest:
    """One request's account with a pool: `BudgetPool.request` opens it. For one task at a time, not for threads."""

    def __init__(self, pool: BudgetPool, maximum: int) -> None:
        self._pool = pool
        self._maximum = maximum
        self._borrowed = 0
        self._settled = False

    @property
    def allowed(self) -> int:
        """How many rollouts it may use in all, those it borrowed included; at most twice its own."""
        return self._maximum + self._borrowed

    @property
    def room(self) -> int:
        """How many it could borrow now; where threads share the pool, others may be lent them first."""
        return 0 if self._settled else min(self._maximum - self._borrowed, self._pool.balance)

    def borrow(self, wanted: int) -> int:
        """Rollouts for a request that used all its own.

        Args:
            wanted: How many it would like.

        Returns:
            How many it gets, from 0; none once it is settled.

        Raises:
            ConfigurationError: On what is no number of rollouts.
        """
        if self._settled:
            return 0
        granted = self._pool.lend(min(wanted, self._maximum - self._borrowed))
        self._borrowed += granted
        return granted

    def settle(self, used: int) -> None:
        """The request is over: what it did not use goes to the pool. Settled again, nothing more does.

        Args:
            used: How many rollouts it began.

        Raises:
            ConfigurationError: On more than it was allowed, or what is no number of rollouts.
        """
        check_count("used", used)
        if used > self.allowed:
            raise ConfigurationError(f"used={used}: the request was allowed {self.allowed} rollouts")
        if not self._settled:
            self._settled = True
            self._pool.deposit(self.allowed - used)
