"""One rollout: an isolated run of the agent, and the record of it."""

from __future__ import annotations

import asyncio
import time
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp
from langgraph.types import Command

from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.chat.sampling import token_listener
from entcent_agents.environments import Environment, Fork, use_environments
from entcent_agents.errors import ConfigurationError
from entcent_agents.rollouts.cleanup import discard, to_the_end
from entcent_agents.rollouts.ending import Ending, packed, read_ending, trajectory_of
from entcent_agents.rollouts.guard import Guard, use_guard
from entcent_agents.rollouts.hooks import ToolWatch
from entcent_agents.rollouts.isolation import Graph, isolated_config, isolated_graph, no_ambient_config
from entcent_agents.rollouts.overlay import OverlayStore
from entcent_agents.rollouts.progress import ProgressReporter
from entcent_agents.rollouts.request import RolloutRequest
from entcent_agents.rollouts.retries import with_retries
from entcent_agents.rollouts.store import Journal
from entcent_agents.rollouts.writing import Writing, ended, resumed
from entcent_agents.trajectory import Rollout, Trajectory

PROGRAMMING_ERRORS = (ConfigurationError, NotImplementedError, NameError, ImportError)
"""What no other rollout would do better: these end all of them instead of being recorded."""


async def run_rollout(request: RolloutRequest, index: int, write: Any) -> Rollout:
    """Run one rollout to its end; what goes wrong in it becomes part of the record.

    One that another process began goes on from its last step, and one that had ended is read from its journal. Its
    forks are left for the commit where it finished or is held, and discarded where not.

    Raises:
        Exception: Cancellation, graph bubble-ups and programming errors alone.
    """
    journal = await request.store.read(request.thread_id(index)) if request.store.durable else None
    reporter = ProgressReporter(index, write)
    if (known := ended(journal)) is not None:
        reporter.end(known.status)
        return known
    attempt = _Attempt(request, index, reporter)
    started = time.perf_counter()
    try:
        await attempt.run(journal)
    except (asyncio.CancelledError, GraphBubbleUp, *PROGRAMMING_ERRORS) as stop:
        if not (request.resumable and isinstance(stop, asyncio.CancelledError)):
            await discard(attempt.forks.values())
        raise
    except Exception as error:  # a bad rollout is data
        attempt.ending = Ending(error=_one_line(error))
    if attempt.ending.status not in ("finished", "held"):
        await discard(attempt.forks.values())
        attempt.forks.clear()
    reporter.end(attempt.ending.status)
    rollout = attempt.record(time.perf_counter() - started)
    await attempt.writing.end(rollout)
    return rollout


@dataclass(slots=True)
class _Attempt:
    """A rollout under way."""

    request: RolloutRequest
    index: int
    reporter: ProgressReporter
    ending: Ending = field(default_factory=Ending)
    output: str | None = None

    def __post_init__(self) -> None:
        self.recorder = TurnRecorder(on_turn=self.reporter.on_turn)
