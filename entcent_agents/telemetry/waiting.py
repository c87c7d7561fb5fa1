"""What one node leaves for the next beside the graph's state, which is checkpointed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Waiting(Generic[T]):
    """Values that wait to be taken, once; in memory, and not for ever, as a graph may be cut off between two nodes.

    Args:
        most: How many may wait; of more, the oldest are given up.
        give_up: Called with such a one.
    """

    def __init__(self, most: int, give_up: Callable[[T], object] = lambda value: None) -> None:
        self._most = most
        self._give_up = give_up
        self._values: OrderedDict[str, T] = OrderedDict()

    def put(self, key: str, value: T) -> None:
        """Leave a value; one that waited under this key is given up, as where a node runs again."""
        if (earlier := self._values.pop(key, None)) is not None:
            self._give_up(earlier)
        self._values[key] = value
        while len(self._values) > self._most:
            self._give_up(self._values.popitem(last=False)[1])

    def __len__(self) -> int:
        return len(self._values)

    def take(self, key: str) -> T | None:
        """Take it; None where it is not there: taken, given up, or left in another process."""
        return self._values.pop(key, None)
