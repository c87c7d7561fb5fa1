"""Rollouts between the two nodes: run, and not taken up by the selector yet.

Whoever cancels a request in that moment cancels neither node. The graph itself then forgets what was left.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final

from langgraph.graph.state import CompiledStateGraph

Forget = Callable[[], Awaitable[None]]
_unclaimed: Final[ContextVar[list[Forget] | None]] = ContextVar("entcent_agents_unclaimed", default=None)


def leave(forget: Forget) -> None:
    """Leave rollouts to a selector; where the graph ends before one takes them up, `forget` is awaited."""
    left = _unclaimed.get()
    if left is not None:
        left.append(forget)


def claim() -> None:
    """Take up what was left."""
    left = _unclaimed.get()
    if left is not None:
        left.clear()


class RequestGraph(CompiledStateGraph[Any, Any, Any, Any]):
    """A graph with both nodes in it."""

    @classmethod
    def of(cls, graph: CompiledStateGraph[Any, Any, Any, Any]) -> RequestGraph:
        """The same graph, as one of these."""
        return cls(**{key: value for key, value in vars(graph).items() if key != "__orig_class__"})

    async def astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """As any graph; `ainvoke` comes by here too."""
        left = list[Forget]()
        token = _unclaimed.set(left)
        try:
            async for chunk in super().astream(*args, **kwargs):
                yield chunk
        finally:
            with suppress(ValueError):  # closed by somebody else, in a context of their own
                _unclaimed.reset(token)
            for forget in left:
                await forget()
