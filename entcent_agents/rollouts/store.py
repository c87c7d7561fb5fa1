"""Where rollouts keep what a crash must not take: the agent's checkpoints, and a journal beside them.

Both lie on the rollout's thread in a LangGraph saver, so whatever saver the user has will do. The journal is one
checkpoint of ours in a namespace that no graph uses; its entries are pending writes on it, each durable by itself.
Before it, the thread is claimed by another checkpoint, empty and cheap to list: by these `sweep` finds what dead runs
left, and never takes a thread of the user's for one of ours.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import WRITES_IDX_MAP, BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver

from entcent_agents.errors import ConfigurationError, RecordingError
from entcent_agents.rollouts.flushing import Flush, FlushingSaver
from entcent_agents.rollouts.journal import (
    CLAIM,
    JOURNAL,
    NAMESPACE,
    START,
    Journal,
    checkpoint_of,
    encoded,
    encoded_entry,
    entry_id,
    is_journal,
    journal_of,
    last_number,
    last_sign,
    metadata_of,
    of_role,
)

_AWAITED: Final = ("aget_tuple", "alist", "aput", "aput_writes", "adelete_thread")


@dataclass(slots=True)
class _Tail:
    """Where a journal is appended to."""

    journal: RunnableConfig
    number: int


Checkpoints = Sequence[CheckpointTuple]
"""The agent's, of all its graphs, with their pending writes, the oldest first."""


class RolloutStore:
    """The threads of rollouts in a LangGraph saver.

    Args:
        saver: Any saver that can be awaited. It is never set up or closed here. Where the agent's state has types of
            the user's and LangGraph reads none but those it was told of, the saver must have been told of them.

    Attributes:
        durable: Whether what it keeps outlives the process.

    Raises:
        ConfigurationError: On a saver with synchronous methods only.
    """

    def __init__(self, saver: BaseCheckpointSaver[Any]) -> None:
        _require_awaitable(saver)
        self.saver = saver
        self.durable: bool = not isinstance(saver, InMemorySaver)
        self._writer = secrets.randbits(64)
        self._tails: dict[str, _Tail] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._met = False

    def require_reachable(self) -> None:
        """Refuse a saver that belongs to another event loop than the running one, whose locks it would break.

        Raises:
            ConfigurationError: The saver was made on another loop.
        """
        loop = getattr(self.saver, "loop", None)
        if isinstance(loop, asyncio.AbstractEventLoop) and loop is not asyncio.get_running_loop():
            raise ConfigurationError(
                f"{type(self.saver).__name__} belongs to the event loop that it was made on, and rollouts that are "
                "called synchronously run on another: use ainvoke, astream or abatch on the saver's own loop"
            )

    async def begin(self, thread_id: str, start: Mapping[str, Any], *, source: str | Checkpoints | None = None) -> None:
        """Forget the thread, and begin a journal on it.

        Args:
            thread_id: The rollout's thread.
            start: Plain data to keep.
            source: A thread whose agent's checkpoints are grafted onto this one, or these checkpoints. A crash on the
                way leaves a thread that was never begun, not one with half a history.

        Raises:
            TypeError: On what is no plain data.
        """
        written = {START: encoded(start)}
        claim = await self.claim(thread_id, source=source)
        self._tails[thread_id] = _Tail(await self._put(claim, written, JOURNAL), 0)

    async def claim(self, thread_id: str, *, source: str | Checkpoints | None = None) -> RunnableConfig:
        """Forget the thread, mark it as a rollout's, and graft what it goes on from, as `begin` does; no journal.

        Args:
            thread_id: The rollout's thread.
            source: See `begin`.

        Returns:
            Where a journal would be put.
        """
        await self.forget(thread_id)
        claim = await self._put(_on(thread_id, NAMESPACE), {}, CLAIM)
        if source is not None:
            await self.graft(source, thread_id)
        return claim

    async def append(self, thread_id: str, kind: str, value: Any) -> None:
        """Add an entry; it is durable when this returns. Entries keep the order of the calls.

        Args:
            thread_id: A thread that was begun, in this process or another.
            kind: What the entry is.
            value: Plain data.

        Raises:
            TypeError: On what is no plain data.
            RecordingError: On a thread that was never begun, or with a journal of another version.
        """
        written = encoded_entry(value)
        async with self._locks[thread_id]:
            if thread_id not in self._tails and await self._journal(thread_id) is None:
                raise RecordingError(f"no journal on thread {thread_id}: it was never begun, or has been swept")
            tail = self._tails[thread_id]
            tail.number += 1
            await self.saver.aput_writes(tail.journal, [(kind, written)], entry_id(tail.number, self._writer))

    async def read(self, thread_id: str) -> Journal | None:
        """What is on record; None where the rollout was never begun.

        Raises:
            RecordingError: On a journal of another version.
        """
        found = await self._journal(thread_id)
        return journal_of(found) if found else None

    async def checkpoints(self, thread_id: str) -> Checkpoints:
        """What the agent has on a thread at this moment."""
        listed = [found async for found in self.saver.alist(_on(thread_id)) if _namespace(found) != NAMESPACE]
        return sorted(listed, key=lambda found: found.checkpoint["id"])

    async def graft(self, source: str | Checkpoints, target: str) -> None:
        """Copy the agent's checkpoints and pending writes, whole histories of all its graphs, onto another thread.

        Nothing in them names the thread: ids of checkpoints, tasks and interrupts stay the same, and with them what is
        done, what is held, and what an answer refers to. One thing is not kept, as savers do not tell it: where a
        `DeltaChannel` takes the writes of parallel tasks, those of tasks that were done come before those of the rest.

        Args:
            source: The thread to copy from, or its checkpoints; unchanged.
            target: A thread without checkpoints of the agent.
        """
        # All are read before the first is written: some savers hold a lock while they list.
        checkpoints = await self.checkpoints(source) if isinstance(source, str) else source
        copied: set[tuple[str, str, Any]] = set()
        for found in checkpoints:
            await self._copy(found, target, copied)

    async def has(self, thread_id: str) -> bool:
        """Whether the agent has checkpoints on the thread."""
        return await self.saver.aget_tuple(_on(thread_id, "")) is not None

    async def is_claimed(self, thread_id: str) -> bool:
        """Whether the thread is a rollout's, begun or not."""
        return await self.saver.aget_tuple(_on(thread_id, NAMESPACE)) is not None

    async def forget(self, thread_id: str) -> None:
        """Remove the thread and all on it."""
        if not self._met:  # SQLite's saver makes its tables before it reads, and not before it deletes
            await self.saver.aget_tuple(_on(thread_id, NAMESPACE))
            self._met = True
        await self.saver.adelete_thread(thread_id)
        self._tails.pop(thread_id, None)
        self._locks.pop(thread_id, None)

    async def sweep(self, older_than_seconds: float) -> list[str]:
        """Forget threads of rollouts on which nothing has been written for so long, and name them.

        Threads without a journal or a claim of ours are not touched. A rollout that waits for a person writes nothing
        either: choose a time that no one takes to answer.

        Args:
            older_than_seconds: By the clock of this machine.
        """
        before = time.time() - older_than_seconds
        claims = [found async for found in self.saver.alist(None, filter=of_role(CLAIM))]
        swept: list[str] = []
        for claim in claims:
            thread_id = str(_keys(claim.config)["thread_id"])
            if last_sign(claim) < before and await self._last_sign(thread_id) < before:
                await self.forget(thread_id)
                swept.append(thread_id)
        return swept

    def flushing(self, flush: Flush) -> FlushingSaver:
        """The saver to run a rollout's graph on: `flush` is awaited before anything is written. Call it on the loop."""
        return FlushingSaver(self.saver, flush)

    async def _put(self, config: RunnableConfig, values: Mapping[str, bytes], role: str) -> RunnableConfig:
        versions = {channel: self.saver.get_next_version(None, None) for channel in values}
        return await self.saver.aput(config, checkpoint_of(values, versions), metadata_of(role), versions)

    async def _journal(self, thread_id: str) -> CheckpointTuple | None:
        found = await self.saver.aget_tuple(_on(thread_id, NAMESPACE))
        if found is None or not is_journal(found):
            return None
        tail = self._tails.get(thread_id)
        if tail is None or _keys(tail.journal)["checkpoint_id"] != found.checkpoint["id"]:
            tail = self._tails[thread_id] = _Tail(found.config, 0)
        tail.number = max(tail.number, last_number(found))  # in place: an append may be under way
        return found

    async def _copy(self, found: CheckpointTuple, target: str, copied: set[tuple[str, str, Any]]) -> None:
        namespace, checkpoint = _namespace(found), found.checkpoint
        parent = _keys(found.parent_config)["checkpoint_id"] if found.parent_config else None
        versions = {
            channel: version
            for channel, version in checkpoint["channel_versions"].items()
            if channel in checkpoint["channel_values"] and (namespace, channel, version) not in copied
        }
        copied.update((namespace, channel, version) for channel, version in versions.items())
        put = await self.saver.aput(_on(target, namespace, parent), checkpoint, found.metadata, versions)
        tasks: dict[str, list[tuple[str, Any]]] = {}
        for task_id, channel, value in found.pending_writes or ():
            tasks.setdefault(task_id, []).append((channel, value))
        for position, (task_id, pairs) in enumerate(tasks.items()):
            # Savers read writes in the order of task paths, which they do not tell: names in the order that was read.
            path = f"{position:08}" if position else ""
            # Savers number the others by their place in the list, and may replace the special ones only if alone.
            for special in (False, True):
                part = [pair for pair in pairs if (pair[0] in WRITES_IDX_MAP) is special]
                if part:
                    await self.saver.aput_writes(put, part, task_id, path)

    async def _last_sign(self, thread_id: str) -> float:
        return max([last_sign(found) async for found in self.saver.alist(_on(thread_id))], default=0.0)


def _on(thread_id: str, namespace: str | None = None, checkpoint_id: str | None = None) -> RunnableConfig:
    keys = {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}
    return RunnableConfig(configurable={key: value for key, value in keys.items() if value is not None})


def _namespace(found: CheckpointTuple) -> str:
    return _keys(found.config).get("checkpoint_ns", "")


def _keys(config: RunnableConfig) -> dict[str, Any]:
    return config.get("configurable", {})


def is_awaitable(saver: BaseCheckpointSaver[Any]) -> bool:
    """Whether it can keep rollouts: without an awaited method of its own it has the base's, which raises."""
    return all(getattr(type(saver), name) is not getattr(BaseCheckpointSaver, name) for name in _AWAITED)


def _require_awaitable(saver: BaseCheckpointSaver[Any]) -> None:
    if is_awaitable(saver):
        return
    given = type(saver)
    asynchronous = f"Async{given.__name__}" if given.__name__ in {"SqliteSaver", "PostgresSaver"} else "one that can be"
    raise ConfigurationError(f"rollout_checkpointer={given.__name__} cannot be awaited: use {asynchronous}")
