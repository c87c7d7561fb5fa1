"""A copy-on-write overlay of a LangGraph store: a rollout sees its own writes, the real store sees none of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from copy import deepcopy
from typing import Any, cast

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
)
from langgraph.store.memory import InMemoryStore

from entcent_agents.effects import Effect
from entcent_agents.rollouts.enclosing import enclosing_calls, enclosing_effects

StoreWrite = tuple[list[str], str, dict[str, Any] | None, Any, float | None]
"""Namespace, key, value (None deletes), what to index, minutes to live."""
_Ask = Callable[[BaseStore, Op], Awaitable[Any]]


class OverlayStore(BaseStore):
    """Reads fall through to the base store where this rollout wrote nothing; writes stay here.

    What an external call writes is real like all that it does: it runs once, whichever of the rollouts runs it. A call
    inside which the rollouts themselves run is none of theirs.

    Args:
        base: The real store.
    """

    def __init__(self, base: BaseStore) -> None:
        self._base = base
        self._around = enclosing_calls()
        self.supports_ttl: bool = base.supports_ttl
        self.ttl_config: TTLConfig | None = base.ttl_config
        # The stores that search by meaning say how under this name; without it own writes would carry no score.
        self._own = InMemoryStore(index=getattr(base, "index_config", None))
        self._written: dict[tuple[tuple[str, ...], str], PutOp] = {}

    @property
    def writes(self) -> list[StoreWrite]:
        """What a commit has to apply to the real store, the last write of each key."""
        return [
            (list(op.namespace), op.key, None if op.value is None else dict(op.value), op.index, op.ttl)
            for op in [*self._written.values()]  # at once: tools write from threads
        ]

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Answer operations in order, with the base store's own synchronous form."""
        return [_at_once(self._answer(op, _ask_now)) for op in ops]

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Answer operations in order."""
        return [await self._answer(op, _ask) for op in ops]

    async def _answer(self, op: Op, ask: _Ask) -> Result:
        if isinstance(op, GetOp):
            return await self._get(op, ask)
        if isinstance(op, PutOp) and Effect.EXTERNAL in enclosing_effects(self._around):
            self._written.pop((op.namespace, op.key), None)
            return await ask(self._base, op)
        if isinstance(op, PutOp):
            written = deepcopy(op)
            await ask(self._own, written)
            self._written[op.namespace, op.key] = written
            return None
        if isinstance(op, SearchOp):
            return await self._search(op, ask)
        return await self._namespaces(op, ask)

    async def _get(self, op: GetOp, ask: _Ask) -> Item | None:
        layer = self._own if (op.namespace, op.key) in self._written else self._base
        # A store in memory gives its own objects out, and what a rollout does to them would show in the real store.
        return deepcopy(await ask(layer, op))

    async def _search(self, op: SearchOp, ask: _Ask) -> list[SearchItem]:
        wide = op._replace(offset=0, limit=op.limit + op.offset + len(self._written))
        base: list[SearchItem] = await ask(self._base, wide)
        own: list[SearchItem] = await ask(self._own, wide)
        found = own + [item for item in base if (item.namespace, item.key) not in self._written]
        if op.query:
            found.sort(key=lambda item: (item.score is None, -(item.score or 0.0)))
        return deepcopy(found[op.offset : op.offset + op.limit])

    async def _namespaces(self, op: ListNamespacesOp, ask: _Ask) -> list[tuple[str, ...]]:
        wide = op._replace(offset=0, limit=op.limit + op.offset)
        layers: list[list[tuple[str, ...]]] = [await ask(layer, wide) for layer in (self._base, self._own)]
        return sorted({*layers[0], *layers[1]})[op.offset : op.offset + op.limit]


async def apply_writes(store: BaseStore, writes: Iterable[StoreWrite]) -> None:
    """Make a winner's store writes real."""
    await _performed(store, _puts(writes))


def apply_writes_now(store: BaseStore, writes: Iterable[StoreWrite]) -> None:
    """The same with the store's own synchronous form, which some have that belong to another event loop."""
    store.batch(_puts(writes))


def _puts(writes: Iterable[StoreWrite]) -> list[PutOp]:
    return [PutOp(tuple(namespace), key, value, index, ttl) for namespace, key, value, index, ttl in writes]


async def _ask(store: BaseStore, op: Op) -> Result:
    return (await _performed(store, [op]))[0]


async def _performed(store: BaseStore, ops: list[Any]) -> list[Result]:
    try:
        return await store.abatch(ops)
    except NotImplementedError:  # some stores are synchronous alone, SqliteStore for one
        return await asyncio.to_thread(store.batch, ops)


async def _ask_now(store: BaseStore, op: Op) -> Result:
    return store.batch([op])[0]


def _at_once(answer: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine that never waits: one implementation serves both forms, on whatever thread."""
    try:
        answer.send(None)
    except StopIteration as end:
        return cast(Result, end.value)
    raise AssertionError("a synchronous store was awaited")
