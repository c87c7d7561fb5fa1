"""One rollout: an isolated run of the agent, and the record of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp
from langgraph.store.base import BaseStore

from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.chat.sampling import token_listener
from entcent_agents.environments import Change, Environment, Fork, use_environments
from entcent_agents.errors import ConfigurationError
from entcent_agents.outcomes import outcome_key
from entcent_agents.rollouts.cleanup import discard, to_the_end
from entcent_agents.rollouts.isolation import (
    Channel,
    Graph,
    isolated_config,
    isolated_graph,
    no_ambient_config,
    state_channels,
)
from entcent_agents.rollouts.output import is_answered, pack, state_updates
from entcent_agents.rollouts.overlay import OverlayStore
from entcent_agents.rollouts.progress import ProgressReporter
from entcent_agents.trajectory import Rollout, Status, Trajectory

PROGRAMMING_ERRORS = (ConfigurationError, NotImplementedError, NameError, ImportError)
"""What no other rollout would do better: these end all of them instead of being recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRequest:
    """What all rollouts of one request share.

    Attributes:
        agent: The graph to run.
        state: Its input.
        channels: Those that a commit writes to.
        config: Configuration of the node that runs the rollouts.
        context: The user's runtime context, handed on as it is.
        saver: The rollouts' own checkpointer.
        store: The real store, or None.
        environments: What every rollout gets forks of.
        thread_prefix: Thread ids are this and the rollout's index.
        recursion_limit: Most supersteps of a rollout.
    """

    agent: Graph
    state: Mapping[str, Any]
    channels: Mapping[str, Channel]
    config: RunnableConfig
    context: Any
    saver: Any
    store: BaseStore | None
    environments: Sequence[Environment]
    thread_prefix: str
    recursion_limit: int

    def thread_id(self, index: int) -> str:
        """The thread of one rollout."""
        return f"{self.thread_prefix}:{index}"


@dataclass(slots=True)
class _Attempt:
    """What becomes known of a rollout as it goes."""

    forks: dict[str, Fork] = field(default_factory=dict[str, Fork])
    status: Status = "failed"
    error: str | None = None
    messages: Sequence[BaseMessage] = ()
    output: str | None = None
    changes: tuple[Change, ...] = ()


async def run_rollout(request: RolloutRequest, index: int, write: Any) -> Rollout:
    """Run one rollout to its end; what goes wrong in it becomes part of the record.

    Its forks are left for the commit where it finished, and discarded where it did not.

    Raises:
        Exception: Cancellation, graph bubble-ups and programming errors alone.
    """
    reporter = ProgressReporter(index, write)
    recorder = TurnRecorder(on_turn=reporter.on_turn)
    attempt = _Attempt()
    started = time.perf_counter()
    try:
        await _attempt(request, index, attempt, recorder, reporter)
    except (asyncio.CancelledError, GraphBubbleUp, *PROGRAMMING_ERRORS):
        await discard(attempt.forks.values())
        raise
    except Exception as error:  # a bad rollout is data
        attempt.error = _one_line(error)
    if attempt.status != "finished":
        await discard(attempt.forks.values())
        attempt.forks.clear()
    reporter.end(attempt.status)
    return Rollout(
        index=index,
        thread_id=request.thread_id(index),
        status=attempt.status,
        trajectory=_trajectory(_own(attempt.messages, request.state), recorder),
        usage=recorder.usage,
        seconds=time.perf_counter() - started,
        error=attempt.error,
        vote_key=_vote_key(attempt),
        forks={name: fork.reference for name, fork in attempt.forks.items()},
        output=attempt.output,
    )


async def _attempt(
    request: RolloutRequest, index: int, attempt: _Attempt, recorder: TurnRecorder, reporter: ProgressReporter
) -> None:
    for environment in request.environments:
        await to_the_end(asyncio.to_thread(_fork_into, attempt.forks, environment))
    store = OverlayStore(request.store) if request.store else None
    graph = isolated_graph(request.agent, request.saver, store)
    config = isolated_config(request.config, request.thread_id(index), request.recursion_limit, [recorder, reporter])
    listening = token_listener.set(reporter.on_tokens)
    try:
        with no_ambient_config(), use_environments(attempt.forks):
            await request.saver.adelete_thread(request.thread_id(index))  # what a request that was cut off left
            given = state_updates(state_channels(graph), {}, deepcopy(dict(request.state)))
            await graph.ainvoke(given, config, context=request.context)
            snapshot = await graph.aget_state(config)
    finally:
        token_listener.reset(listening)
    attempt.messages = snapshot.values.get("messages", ())
    if snapshot.next or snapshot.interrupts or not is_answered(_own(attempt.messages, request.state)):
        attempt.status, attempt.error = "unfinished", _why_unfinished(snapshot)
        return
    for fork in attempt.forks.values():
        attempt.changes += await asyncio.to_thread(fork.diff)
    attempt.output = pack({"state": _written(graph, request, snapshot.values), "store": store.writes if store else []})
    attempt.status = "finished"


def _fork_into(forks: dict[str, Fork], environment: Environment) -> None:
    """Fork, and have it known at once: a cancelled rollout discards what is known."""
    forks[environment.name] = environment.fork()


def _written(graph: Graph, request: RolloutRequest, after: Mapping[str, Any]) -> dict[str, Any]:
    """The difference in the channels that the agent gives out."""
    given = graph.output_channels
    outputs = {key: value for key, value in after.items() if key in ((given,) if isinstance(given, str) else given)}
    return state_updates(request.channels, request.state, outputs)


def _why_unfinished(snapshot: Any) -> str:
    if snapshot.interrupts:
        return "stopped at an interrupt, which a rollout cannot answer"
    if snapshot.next:
        return f"stopped before {', '.join(snapshot.next)}"
    return "ended with a tool call that has no result"


def _own(messages: Sequence[BaseMessage], before: Mapping[str, Any]) -> list[BaseMessage]:
    """The messages that were not there at the fork point."""
    known = {message.id for message in before.get("messages", ())}
    return [message for message in messages if message.id not in known]


def _trajectory(messages: Sequence[BaseMessage], recorder: TurnRecorder) -> Trajectory:
    """The recorded turns whose message the agent kept; for a rollout that failed early, all it made."""
    if not messages:
        return Trajectory(turns=tuple(recorder.turns.values()))
    kept = (recorder.turn_of(message) for message in messages if isinstance(message, AIMessage))
    return Trajectory(turns=tuple(dict.fromkeys(turn for turn in kept if turn is not None)))


def _vote_key(attempt: _Attempt) -> str | None:
    """What the rollout came to: what it changed in its environments, else what it answered."""
    if attempt.status != "finished":
        return None
    # Changes are compared as calls are: who was acted on, and what was done to it.
    changes = [(change.target, [change.subject, change.what, change.digest]) for change in attempt.changes]
    return outcome_key(changes, str(attempt.messages[-1].text) if attempt.messages else "")


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
