"""Rollouts between the two nodes: run, and not taken up by the selector yet.

Whoever cancels a request in that moment cancels neither node. The graph itself then forgets what was left.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any, Final, cast

from langgraph.graph.state import CompiledStateGraph

Forget = Callable[[], Awaitable[None]]
_unclaimed: Final[ContextVar[list[Forget] | None]] = ContextVar("entcent_agents_unclaimed", default=None)
_END: Final = object()


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
        try:
            # Closed first: the nodes end before what they left goes.
            async with aclosing(cast("AsyncGenerator[Any]", super().astream(*args, **kwargs))) as chunks:
                while (chunk := await _next(chunks, left)) is not _END:
                    yield chunk
        finally:
            for forget in left:
                await forget()


async def _next(chunks: AsyncGenerator[Any], left: list[Forget]) -> Any:
    """The next chunk, its nodes run with this list. Each may be waited for in another context, and in the caller's."""
    token = _unclaimed.set(left)
    try:
        return await anext(chunks, _END)
    finally:
        _unclaimed.reset(token)
