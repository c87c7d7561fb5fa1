"""What belongs to one event loop and ends with it.

It is kept on the loop itself. A table elsewhere, weak keys or not, would keep the loop alive for ever: connections and
contended locks refer to the loop they were made on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")

_KEPT: Final = "_entcent_agents"


def of_loop(kind: type[T], make: Callable[[], T]) -> T:
    """The running loop's one object of a kind, made at first use."""
    kept: dict[type[Any], Any] = vars(asyncio.get_running_loop()).setdefault(_KEPT, {})
    if kind not in kept:
        kept[kind] = make()
    return kept[kind]


def forget(kind: type[Any]) -> None:
    """Drop the running loop's object of a kind."""
    vars(asyncio.get_running_loop()).get(_KEPT, {}).pop(kind, None)
