"""Rollouts between the two nodes: run, and not taken up by the selector yet.

Whoever cancels a request in that moment cancels neither node. The graph itself then forgets what was left.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import aclosing, closing, contextmanager
from contextvars import ContextVar
from typing import Any, Final, cast

from langgraph.graph.state import CompiledStateGraph

from entcent_agents.blocking import run_sync

Forget = Callable[[], Coroutine[Any, Any, None]]
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
                while True:
                    with _leaving_to(left):
                        chunk = await anext(chunks, _END)
                    if chunk is _END:
                        break
                    yield chunk
        finally:
            for forget in left:
                await forget()

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """The same in synchronous code."""
        left = list[Forget]()
        try:
            with closing(cast("Generator[Any]", super().stream(*args, **kwargs))) as chunks:
                while True:
                    with _leaving_to(left):
                        chunk = next(chunks, _END)
                    if chunk is _END:
                        break
                    yield chunk
        finally:
            for forget in left:
                run_sync(forget())


@contextmanager
def _leaving_to(left: list[Forget]) -> Generator[None]:
    """For the time of one chunk: each may be waited for in another context, and between them it is the caller's."""
    token = _unclaimed.set(left)
    try:
        yield
    finally:
        _unclaimed.reset(token)
