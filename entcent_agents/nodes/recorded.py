"""Commits wait for the checkpoint that they stand on: what LangGraph writes behind its nodes, a crash may take."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.runtime import get_runtime

from entcent_agents.errors import RolloutError
from entcent_agents.rollouts.isolation import durable_parent_saver, written_at_the_end

_FIRST_PAUSE_SECONDS: Final = 0.005
_LONGEST_SECONDS: Final = 60.0


async def until_recorded(config: RunnableConfig) -> None:
    """Wait until the state that this node was started with is in the graph's own checkpointer.

    LangGraph writes checkpoints while the next node runs already, unless it is told `durability="sync"`. A node that
    makes something real before they are written could find after a crash that nobody remembers why: its request would
    start again, with another winner.

    Raises:
        RolloutError: It is not written in a minute.
    """
    saver, runtime = durable_parent_saver(config), get_runtime()
    standing = runtime.execution_info
    if saver is None or standing is None or written_at_the_end(config):
        return
    where = RunnableConfig(
        configurable={
            "thread_id": standing.thread_id,
            "checkpoint_ns": standing.checkpoint_ns.rpartition("|")[0],
            "checkpoint_id": standing.checkpoint_id,
        }
    )
    waited, pause = 0.0, _FIRST_PAUSE_SECONDS
    while not await _is_there(saver, where):
        if waited >= _LONGEST_SECONDS:
            raise RolloutError(
                f"the graph's checkpoint {standing.checkpoint_id} was not written in {_LONGEST_SECONDS:g} s, and a "
                "commit must not come before it: see what keeps the checkpointer"
            )
        await asyncio.sleep(pause)
        waited, pause = waited + pause, min(2 * pause, 0.5)


async def _is_there(saver: BaseCheckpointSaver[Any], where: RunnableConfig) -> bool:
    """From the loop that the saver lives on, or a thread where it lives on another or on none."""
    loop = asyncio.get_running_loop()
    if getattr(saver, "loop", loop) is loop:
        try:
            return await saver.aget_tuple(where) is not None
        except NotImplementedError:  # one with synchronous methods only
            pass
    return await asyncio.to_thread(saver.get_tuple, where) is not None
