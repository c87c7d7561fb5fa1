"""Inside which tool calls code runs, in threads with a copied context too."""

from __future__ import annotations

from collections.abc import Container, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

from entcent_agents.effects import Effect
from entcent_agents.rollouts.calls import Run


class Inside:
    """Lives as long as any context, a thread's included, in which the code of one call runs.

    Args:
        outer: The call that it is made inside of.
        namespace: Of the task that makes it.
        effect: Of its tool.
    """

    def __init__(self, outer: Inside | None, namespace: str, effect: Effect) -> None:
        self.outer = outer
        self.namespace = namespace
        self.effect = effect


_inside: ContextVar[Inside | None] = ContextVar("entcent_agents_inside", default=None)


def enclosing_effects(without: Container[Inside] = ()) -> tuple[Effect, ...]:
    """Effects of the calls inside which this code runs, outermost first.

    Args:
        without: Calls that do not count.
    """
    return tuple(call.effect for call in _calls() if call not in without)


def enclosing_calls() -> WeakSet[Inside]:
    """The same calls; to remember them keeps none alive."""
    return WeakSet(_calls())


def enclosing_namespaces() -> list[str]:
    """Namespaces of the same calls."""
    return [call.namespace for call in _calls()]


def enclosed(run: Run, namespace: str, effect: Effect, alive: WeakSet[Inside]) -> Run:
    """What makes a call, so that its code knows what it is inside of; in `alive` as long as that code may run."""

    async def inside() -> Any:
        call = Inside(_inside.get(), namespace, effect)
        alive.add(call)
        token = _inside.set(call)
        del call  # of references to it, those of contexts alone may outlive the call
        try:
            return await run()
        finally:
            _inside.reset(token)

    return inside


@contextmanager
def enclosed_by_none() -> Generator[None]:
    """Forget the calls that this is inside of."""
    token = _inside.set(None)
    try:
        yield
    finally:
        _inside.reset(token)


def _calls() -> list[Inside]:
    calls, call = list[Inside](), _inside.get()
    while call is not None:
        calls.append(call)
        call = call.outer
    return calls[::-1]
