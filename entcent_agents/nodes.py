"""The two LangGraph nodes: `ParallelRollouts` speculates, `EntropyCentroidSelector` selects and commits.

In a graph of one's own:

    rollouts = ParallelRollouts(agent, n=8, effects={"search": READ})
    builder.add_node("rollouts", rollouts)
    builder.add_node("select", EntropyCentroidSelector(rollouts))
    builder.add_edge("rollouts", "select")
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, Final, Literal, TypedDict, cast
from uuid import uuid4

from langchain_core.messages import AnyMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.runtime import Runtime, get_runtime

from entcent_agents.blocking import run_sync
from entcent_agents.chat.sampling import SamplingPool, use_pool
from entcent_agents.effects import Effect, effects_of
from entcent_agents.environments import Environment, Fork, commit
from entcent_agents.errors import ConfigurationError, EffectError, EnvironmentUnusableError, RolloutsFailedError
from entcent_agents.rollouts.cleanup import discard, to_the_end
from entcent_agents.rollouts.events import COMMIT_EVENT
from entcent_agents.rollouts.isolation import (
    Graph,
    accepted_channels,
    outer_channels,
    state_channels,
    tools_of,
    whole_input,
)
from entcent_agents.rollouts.output import unpack
from entcent_agents.rollouts.overlay import apply_writes
from entcent_agents.rollouts.rollout import RolloutRequest, run_rollout
from entcent_agents.selection import Selection, Selector, default_selector, require_scorable
from entcent_agents.trajectory import Rollout

_LOGGER: Final = logging.getLogger(__name__)
RECURSION_LIMIT: Final = 50
"""Most supersteps of a rollout, where nothing else is said: LangGraph's own default is about 10,000."""


class RolloutsState(TypedDict, total=False):
    """The channels that the two nodes share; they add themselves to any graph with `messages`."""

    messages: list[AnyMessage]  # without a reducer, so that the graph's own stands
    rollouts: list[dict[str, Any]]
    selection: dict[str, Any]


class _Node(Runnable[RolloutsState, dict[str, Any]]):
    """A node that awaits, and may be called from synchronous code all the same."""

    def __call__(self, state: RolloutsState, config: RunnableConfig) -> dict[str, Any]:
        """As `invoke`; LangGraph reads the node's channels from this signature."""
        return self.invoke(state, config)

    def invoke(self, input: RolloutsState, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:
        """As `ainvoke`, from synchronous code."""
        return run_sync(self.ainvoke(input, config, **kwargs))


class ParallelRollouts(_Node):
    """Runs n rollouts of an agent at once, each on a thread and on environment forks of its own.

    Args:
        agent: A compiled graph whose state has `messages`.
        n: How many rollouts.
        effects: What the agent's tools do to the world, by tool name; counts more than what tools say themselves.
        environments: The worlds that tools change; every rollout works on forks of them.
        max_concurrency: Most rollouts that run at the same time; None runs all at once.
        min_finished: The quorum: fewer finished rollouts are an error.
        seed: Makes sampling repeatable where the server is deterministic (with `ChatLogprobs`).
        recursion_limit: Most supersteps of a rollout.
        rollout_checkpointer: Where rollouts keep their threads, apart from the graph's own; default in memory.

    Raises:
        ConfigurationError: On settings that cannot work.
        EffectError: On a tool that could touch the real world; before any model call.
        RolloutsFailedError: At a call, where fewer rollouts than the quorum finish.
    """

    def __init__(
        self,
        agent: Graph,
        *,
        n: int = 4,
        effects: Mapping[str, Effect | str] | None = None,
        environments: Sequence[Environment] = (),
        max_concurrency: int | None = None,
        min_finished: int = 1,
        seed: int | None = None,
        recursion_limit: int = RECURSION_LIMIT,
        rollout_checkpointer: BaseCheckpointSaver[Any] | None = None,
    ) -> None:
        if n < 1:
            raise ConfigurationError(f"n={n} rollouts: at least one is needed")
        if not 1 <= min_finished <= n:
            raise ConfigurationError(f"min_finished={min_finished} must be between 1 and n={n}")
        if max_concurrency is not None and max_concurrency < 1:
            raise ConfigurationError(f"max_concurrency={max_concurrency} must be at least 1")
        names = [environment.name for environment in environments]
        if len(set(names)) < len(names):
            raise ConfigurationError(f"environments share a name: {', '.join(names)}; give each its own")
        channels = tuple(state_channels(agent))
        if "messages" not in channels:
            raise ConfigurationError(f"the agent's state has no `messages`; it has {', '.join(channels)}")
        self.agent = agent
        self.channels = channels
        self.n = n
        self.environments = {environment.name: environment for environment in environments}
        self.effects = effects_of(tools_of(agent), effects or {}, names)
        self.max_concurrency = max_concurrency or n
        self.min_finished = min_finished
        self.seed = seed
        self.recursion_limit = recursion_limit
        self.saver = rollout_checkpointer or InMemorySaver()
        self.name = "ParallelRollouts"
        self.has_selector = False

    def __call__(self, state: Mapping[str, Any], config: RunnableConfig) -> dict[str, Any]:
        """As `invoke`; with no schema of its own, LangGraph gives the node the whole state, as it does to subgraphs."""
        return self.invoke(cast(RolloutsState, state), config)

    async def ainvoke(
        self, input: RolloutsState, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Run the rollouts; their records go to the `rollouts` channel."""
        if self.environments and not self.has_selector:
            raise EffectError(
                "rollouts with environments need a selector that commits one fork and discards the others: "
                "add EntropyCentroidSelector(rollouts) after this node"
            )
        config = config or {}
        request = self._request(whole_input(input, config, also="rollouts"), config, get_runtime())
        with use_pool(SamplingPool(self.seed)):
            rollouts = await self._run(request, get_runtime().stream_writer)
        await self._require_quorum(rollouts)
        return {"rollouts": [rollout.to_dict() for rollout in rollouts]}

    def forks_of(self, rollout: Rollout) -> list[Fork]:
        """The forks that a rollout left for its commit."""
        return [self.environments[name].reopen(reference) for name, reference in rollout.forks.items()]

    def _request(self, state: Mapping[str, Any], config: RunnableConfig, runtime: Runtime[Any]) -> RolloutRequest:
        thread = config.get("configurable", {}).get("thread_id") or uuid4().hex
        task = runtime.execution_info.task_id if runtime.execution_info else uuid4().hex
        accepted = accepted_channels(self.agent)
        return RolloutRequest(
            agent=self.agent,
            state={key: value for key, value in state.items() if key in accepted},
            channels=outer_channels(config) or state_channels(self.agent),
            config=config,
            context=runtime.context,
            saver=self.saver,
            store=runtime.store or self.agent.store,
            environments=tuple(self.environments.values()),
            thread_prefix=f"{thread}:{task}",
            recursion_limit=self.recursion_limit,
        )

    async def _run(self, request: RolloutRequest, write: Any) -> list[Rollout]:
        """All rollouts; the first error that is no data cancels the others and is raised."""
        room = asyncio.Semaphore(self.max_concurrency)

        async def one(index: int) -> Rollout:
            async with room:
                return await run_rollout(request, index, write)

        tasks = [asyncio.create_task(one(index)) for index in range(self.n)]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await to_the_end(self._forget_ended(request, tasks))
            raise

    async def _forget_ended(self, request: RolloutRequest, tasks: Sequence[asyncio.Task[Rollout]]) -> None:
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await self.forget([rollout for rollout in ended if isinstance(rollout, Rollout)])
        for index in range(self.n):
            await self.saver.adelete_thread(request.thread_id(index))

    async def _require_quorum(self, rollouts: Sequence[Rollout]) -> None:
        finished = [rollout for rollout in rollouts if rollout.status == "finished"]
        if len(finished) >= self.min_finished:
            return
        await self.forget(rollouts)
        errors = "; ".join(dict.fromkeys(rollout.error or rollout.status for rollout in rollouts if rollout.error))
        raise RolloutsFailedError(
            f"{len(finished)} of {len(rollouts)} rollouts finished, {self.min_finished} needed, nothing was changed: "
            f"{errors}"
        )

    async def forget(self, rollouts: Sequence[Rollout]) -> None:
        """Discard what rollouts left: their forks and their threads."""
        for rollout in rollouts:
            with suppress(EnvironmentUnusableError):  # committed: there is nothing left to discard
                await discard(await asyncio.to_thread(self.forks_of, rollout))
            await self.saver.adelete_thread(rollout.thread_id)


class EntropyCentroidSelector(_Node):
    """Selects one rollout and commits it: its messages to the state, its forks and store writes to the world.

    Args:
        rollouts: The node whose rollouts it selects from. Without it messages alone are committed.
        selector: How to choose; default: lowest centroid where it means something, else entropy-weighted vote, else
            lowest mean entropy, else first.
        on_unscorable: What to do where no rollout carries log-probabilities: `error`, or let the selector decide
            all the same (`fallback`).

    Raises:
        LogprobsMissingError: At a call, see `on_unscorable`.
        EnvironmentConflictError: At a call, where the real world changed meanwhile; nothing is committed then.
    """

    def __init__(
        self,
        rollouts: ParallelRollouts | None = None,
        *,
        selector: Selector | None = None,
        on_unscorable: Literal["error", "fallback"] = "error",
    ) -> None:
        self.rollouts = rollouts
        self.selector = default_selector() if selector is None else selector
        if isinstance(selector, type) or not callable(getattr(self.selector, "select", None)):
            raise ConfigurationError(
                f"selector={selector!r} is no selector: pass an object with a `name` and a `select`"
            )
        self.on_unscorable = on_unscorable
        self.name = "EntropyCentroidSelector"
        if rollouts is not None:
            rollouts.has_selector = True

    async def ainvoke(
        self, input: RolloutsState, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Select and commit; the `rollouts` channel is emptied, the result goes to `selection`."""
        rollouts = [Rollout.from_dict(record) for record in input.get("rollouts") or ()]
        finished = [rollout for rollout in rollouts if rollout.status == "finished"]
        if not finished:
            raise ConfigurationError("no finished rollout to select from: put ParallelRollouts before this node")
        try:
            selection = self._select(finished)
            winner = next(rollout for rollout in finished if rollout.index == selection.winner)
            output = unpack(winner.output or "")
            get_runtime().stream_writer({"type": COMMIT_EVENT})
            changes = await to_the_end(self._commit(winner, output["store"]))
        except BaseException:
            if self.rollouts is not None:
                await to_the_end(self.rollouts.forget(rollouts))
            raise
        if self.rollouts is not None:
            losers = [rollout for rollout in rollouts if rollout is not winner]
            await to_the_end(self._forget_committed([*losers, replace(winner, forks={})]))
        return {**output["state"], "rollouts": [], "selection": {**selection.to_dict(), "changes": changes}}

    async def _forget_committed(self, rollouts: Sequence[Rollout]) -> None:
        """Clean up; the commit stands, so what fails here must not look like a failed request."""
        assert self.rollouts is not None
        for rollout in rollouts:
            try:
                await self.rollouts.forget([rollout])
            except Exception:
                _LOGGER.exception("rollout %d was not cleaned up after the commit", rollout.index)

    def _select(self, finished: Sequence[Rollout]) -> Selection:
        if self.on_unscorable == "error":
            require_scorable(finished)
        selection = self.selector.select(finished)
        if selection.winner not in {None, *(rollout.index for rollout in finished)}:
            raise ConfigurationError(
                f"the selector {selection.selector!r} chose rollout {selection.winner}, which is not among the "
                f"{len(finished)} that finished: return the `index` of one of them"
            )
        if selection.winner is None:
            raise ConfigurationError(
                f"the selector {selection.selector!r} abstained ({selection.reason}) and nothing comes after it: "
                "end the chain with First()"
            )
        return selection

    async def _commit(self, winner: Rollout, store_writes: list[Any]) -> list[dict[str, Any]]:
        """Make the winner's forks and store writes real, in this order; returns what changed in the environments."""
        changes: list[dict[str, Any]] = []
        if self.rollouts is not None and winner.forks:
            forks = await asyncio.to_thread(self.rollouts.forks_of, winner)
            for fork in forks:
                changes += [asdict(change) for change in await asyncio.to_thread(fork.diff)]
            await asyncio.to_thread(commit, forks)
        store = get_runtime().store
        if store is None and self.rollouts is not None:
            store = self.rollouts.agent.store
        if store is not None and store_writes:
            await apply_writes(store, store_writes)
        return changes
