"""A LangGraph saver that lets something be written first, whatever a graph is about to write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)

Flush = Callable[[], Awaitable[None]]


class FlushingSaver(BaseCheckpointSaver[Any]):
    """Another saver, with a flush before each write; the write fails where the flush does.

    Synchronous graphs write from threads of their own: there the flush runs on the event loop the saver was made on.

    Args:
        saver: What keeps the checkpoints.
        flush: Awaited before checkpoints and pending writes are written.
    """

    def __init__(self, saver: BaseCheckpointSaver[Any], flush: Flush) -> None:
        super().__init__(serde=saver.serde)
        self._saver = saver
        self._flush = flush
        self._loop = asyncio.get_running_loop()

    @property
    def config_specs(self) -> list[Any]:
        """As the saver's."""
        return cast("list[Any]", self._saver.config_specs)

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> FlushingSaver:
        """The same around a saver that may read more types."""
        return FlushingSaver(self._saver.with_allowlist(extra_allowlist), self._flush)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Flush, then write the checkpoint."""
        await self._flush()
        return await self._saver.aput(config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Flush, then write the pending writes."""
        await self._flush()
        await self._saver.aput_writes(config, writes, task_id, task_path)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As `aput`, from a thread."""
        self._flush_from_thread()
        return self._saver.put(config, checkpoint, metadata, new_versions)

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """As `aput_writes`, from a thread."""
        self._flush_from_thread()
        self._saver.put_writes(config, writes, task_id, task_path)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As the saver's."""
        return await self._saver.aget_tuple(config)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As the saver's."""
        return self._saver.get_tuple(config)

    def alist(self, config: RunnableConfig | None, **criteria: Any) -> AsyncIterator[CheckpointTuple]:
        """As the saver's."""
        return self._saver.alist(config, **criteria)

    def list(self, config: RunnableConfig | None, **criteria: Any) -> Iterator[CheckpointTuple]:
        """As the saver's."""
        return self._saver.list(config, **criteria)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As the saver's."""
        return await self._saver.aget_delta_channel_history(config=config, channels=channels)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As the saver's."""
        return self._saver.get_delta_channel_history(config=config, channels=channels)

    async def adelete_thread(self, thread_id: str) -> None:
        """As the saver's."""
        await self._saver.adelete_thread(thread_id)

    def delete_thread(self, thread_id: str) -> None:
        """As the saver's."""
        self._saver.delete_thread(thread_id)

    def get_next_version(self, current: Any, channel: None) -> Any:
        """As the saver's: they do not agree on what a version is."""
        return self._saver.get_next_version(current, channel)

    def _flush_from_thread(self) -> None:
        try:
            on_the_loop = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            on_the_loop = False
        # The loop cannot wait for itself. Only savers in memory get this far on it, and they outlive no crash.
        if not on_the_loop:
            asyncio.run_coroutine_threadsafe(self._flushed(), self._loop).result()

    async def _flushed(self) -> None:
        await self._flush()
