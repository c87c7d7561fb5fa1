"""A copy-on-write overlay of a LangGraph store: a rollout sees its own writes, the real store sees none of them."""

from __future__ import annotations

from collections.abc import Iterable
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
)
from langgraph.store.memory import InMemoryStore

from entcent_agents.blocking import run_sync

StoreWrite = tuple[list[str], str, dict[str, Any] | None]
"""Namespace, key, value (None deletes)."""


class OverlayStore(BaseStore):
    """Reads fall through to the base store where this rollout wrote nothing; writes stay here.

    Args:
        base: The real store.
    """

    supports_ttl = False

    def __init__(self, base: BaseStore) -> None:
        self._base = base
        self._own = InMemoryStore()
        self._written: dict[tuple[tuple[str, ...], str], dict[str, Any] | None] = {}

    @property
    def writes(self) -> list[StoreWrite]:
        """What a commit has to apply to the real store, the last write of each key."""
        return [(list(namespace), key, value) for (namespace, key), value in self._written.items()]

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Answer operations in order."""
        return run_sync(self.abatch(ops))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Answer operations in order."""
        return [await self._answer(op) for op in ops]

    async def _answer(self, op: Op) -> Result:
        if isinstance(op, GetOp):
            return await self._get(op)
        if isinstance(op, PutOp):
            self._written[op.namespace, op.key] = None if op.value is None else dict(op.value)
            return (await self._own.abatch([op]))[0]
        if isinstance(op, SearchOp):
            return await self._search(op)
        return await self._namespaces(op)

    async def _get(self, op: GetOp) -> Item | None:
        layer = self._own if (op.namespace, op.key) in self._written else self._base
        return cast("Item | None", (await layer.abatch([op]))[0])

    async def _search(self, op: SearchOp) -> list[SearchItem]:
        wide = op._replace(offset=0, limit=op.limit + op.offset + len(self._written))
        base = cast("list[SearchItem]", (await self._base.abatch([wide]))[0])
        own = cast("list[SearchItem]", (await self._own.abatch([wide]))[0])
        found = own + [item for item in base if (item.namespace, item.key) not in self._written]
        if op.query:
            found.sort(key=lambda item: -(item.score or 0.0))
        return found[op.offset : op.offset + op.limit]

    async def _namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        wide = op._replace(offset=0, limit=op.limit + op.offset)
        layers = [cast("list[tuple[str, ...]]", (await layer.abatch([wide]))[0]) for layer in (self._base, self._own)]
        return sorted({*layers[0], *layers[1]})[op.offset : op.offset + op.limit]


async def apply_writes(store: BaseStore, writes: Iterable[StoreWrite]) -> None:
    """Make a winner's store writes real."""
    await store.abatch([PutOp(tuple(namespace), key, value) for namespace, key, value in writes])
