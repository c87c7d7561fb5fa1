"""One rollout: an isolated run of the agent, and the record of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import GraphBubbleUp, GraphRecursionError, ParentCommand
from langgraph.types import Command, StateSnapshot

from entcent_agents.capture.handlers import HandlerGroup
from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.chat.answering import use_answering
from entcent_agents.chat.sampling import own_calls, rollout_index, token_listener
from entcent_agents.environments import Environment, Fork, use_environments
from entcent_agents.errors import BudgetExceededError, ConfigurationError, causes_of
from entcent_agents.rollouts.answers import Answers
from entcent_agents.rollouts.breakpoints import is_at, stopped_at_breakpoint
from entcent_agents.rollouts.calls import Key
from entcent_agents.rollouts.cleanup import cancellable, discard, to_the_end
from entcent_agents.rollouts.deadlines import CallLimit, CutOff, deadline_of, within
from entcent_agents.rollouts.ending import Ending, packed, read_ending, trajectory_of
from entcent_agents.rollouts.gate import Passage
from entcent_agents.rollouts.guard import Guard, use_guard
from entcent_agents.rollouts.heritage import Heritage
from entcent_agents.rollouts.hooks import ToolWatch
from entcent_agents.rollouts.isolation import (
    Graph,
    ambient_config,
    durability_of,
    isolated_config,
    isolated_graph,
    state_channels,
)
from entcent_agents.rollouts.output import state_updates
from entcent_agents.rollouts.overlay import OverlayStore
from entcent_agents.rollouts.progress import ProgressReporter
from entcent_agents.rollouts.request import RolloutRequest
from entcent_agents.rollouts.retries import with_retries
from entcent_agents.rollouts.stopping import Asking
from entcent_agents.rollouts.store import Journal
from entcent_agents.rollouts.writing import Writing, ended, heritage_of, inherited, resumed
from entcent_agents.telemetry.rounds import observing_handlers
from entcent_agents.trajectory import CANDIDATES, Branch, Rollout, Trajectory

PROGRAMMING_ERRORS = (ConfigurationError, NotImplementedError, NameError, ImportError)
"""What no other rollout would do better: these end all of them instead of being recorded."""


async def run_rollout(
    request: RolloutRequest, index: int, write: Callable[[Any], None], begun: Begun | None = None
) -> Rollout:
    """Run one rollout to its end; what goes wrong in it becomes part of the record.

    One that another process began goes on from its last step, and one that had ended is read from its journal. Its
    forks are left for the commit where it finished or is held, and discarded where not.

    Args:
        request: The round's.
        index: Its number.
        write: Told of events.
        begun: What `begin_branch` began of it; None: nothing.

    Raises:
        Exception: Cancellation, graph bubble-ups and programming errors alone.
    """
    journal = await request.store.read(request.thread_id(index)) if request.store.durable and not begun else None
    if (known := ended(journal)) is not None:
        reporter = ProgressReporter(index, request.round, write)
        if request.tree:
            request.tree.recall(index, request.turns_before, known.trajectory.turns[request.turns_before :])
        if known.branch:
            reporter.branched(known.branch)
        reporter.end(known.status)
        request.used[index] = known.usage
        return known
    attempt = begun or _Attempt(request, index, write)
    started = time.perf_counter()
    try:
        await attempt.run_in_time(journal)
        await attempt.conclude()
    except CutOff as over:
        attempt.ending = Ending(status="unfinished", error=str(over))
    except (asyncio.CancelledError, GraphBubbleUp, *PROGRAMMING_ERRORS) as stop:
        if not (request.resumable and isinstance(stop, asyncio.CancelledError)):
            await attempt.discard()
        elif request.gate:
            attempt.close()
            with suppress(Exception):  # whoever goes on would forget what these calls may have used, as after a crash
                await to_the_end(attempt.writing.flush())
        raise
    except Exception as error:  # a bad rollout is data
        request.errors[index] = error
        stopped = next((link for link in causes_of(error) if isinstance(link, BudgetExceededError)), None)
        attempt.ending = Ending(status="unfinished" if stopped else "failed", error=one_line(stopped or error))
    finally:
        attempt.close()
    if attempt.ending.status not in CANDIDATES and not request.lingering.knows(attempt.writing.thread_id):
        await attempt.discard()
    rollout = attempt.record(time.perf_counter() - started)
    await attempt.writing.end(rollout)
    attempt.reporter.end(rollout.status)
    return rollout


async def begin_branch(
    request: RolloutRequest,
    index: int,
    write: Callable[[Any], None],
    heritage: Heritage,
    start: Callable[[Begun], Awaitable[None]],
) -> None:
    """Begin a rollout with what it has from its parent, write that down, and start it.

    Who is cancelled meanwhile leaves no branch behind that nobody knows: it is started all the same, or refused.

    Args:
        request: The round's.
        index: Its number.
        write: Told of events.
        heritage: What it has from its parent.
        start: Has `run_rollout` go on with it, or discards it.

    Raises:
        Exception: It could not be begun, and nothing of it is left.
    """
    attempt = _Attempt(request, index, write, heritage)

    async def begin() -> None:
        try:
            await attempt.begin(heritage)
            attempt.reporter.branched(heritage.origin.branch(None))
        except BaseException as stop:
            if not (request.resumable and isinstance(stop, asyncio.CancelledError)):
                await attempt.discard()
                await request.store.forget(attempt.writing.thread_id)
            raise
        await start(attempt)

    await to_the_end(begin())


class _Attempt:
    """A rollout under way."""

    def __init__(
        self, request: RolloutRequest, index: int, write: Callable[[Any], None], heritage: Heritage | None = None
    ) -> None:
        self.request = request
        self.index = index
        self.ending = Ending()
        self.reporter: ProgressReporter = ProgressReporter(index, request.round, write)
        self.recorder: TurnRecorder = TurnRecorder(on_turn=self.reporter.on_turn, prices=request.budget.prices)
        self.reporter.arrived = self.recorder.arrived
        self.overlay: OverlayStore | None = OverlayStore(request.memory) if request.memory else None
        self.writing: Writing = Writing(
            store=request.store, thread_id=request.thread_id(index), recorder=self.recorder, overlay=self.overlay
        )
        self._ended: tuple[Graph, Guard, StateSnapshot] | None = None
        self._guard: Guard | None = None
        most = request.budget.max_seconds_per_call
        self._call_limit = (
            None if most is None else CallLimit(most, self.recorder, request.late, let_through=request.gate is not None)
        )
        begins = self._call_limit and self._call_limit.begin
        self.passage: Passage | None = Passage(request.gate, self.recorder, begins) if request.gate else None
        self._heritage = heritage
        self._new = False  # whether its thread is known to be empty
        self._handoff: Command[Any] | None = None
        self._output: str | None = None

    async def run_in_time(self, journal: Journal | None) -> None:
        """As `run`, until the time is over or the rollout need not go on.

        Raises:
            CutOff: So it is.
        """
        deadline, stopping = deadline_of(self.request), self.request.stopping
        stop = stopping.stop_of(self.index) if stopping else None
        if stop and stop.done():
            if journal:
                await self._take_up(journal)  # what it used counts, and its forks are discarded
            raise CutOff(stop.result())
        if deadline is None and stop is None:
            await self.run(journal)
            return
        await within(
            deadline,
            self.run(journal),
            stop=self._stopped(stop) if stop else None,
            clean_up=self.discard,
            patient=lambda: self._guard is not None and self._guard.performs,
            linger=partial(self.request.lingering.keep, self.writing.thread_id),
        )

    async def _stopped(self, stop: asyncio.Future[str]) -> str:
        """Why it need not go on, once that is so and it makes no external call."""
        await asyncio.wait([stop])
        if self._guard:
            await self._guard.performed()
        return stop.result()

    async def run(self, journal: Journal | None) -> None:
        """From the beginning, or from where its journal leaves off."""
        request, writing = self.request, self.writing
        results = await self._take_up(journal)
        guard = self._guard = Guard(request.rules.knowing(results), writing if request.store.durable else None)
        graph = isolated_graph(request.agent, self._saver(), self.overlay)
        config = isolated_config(
            request.config,
            writing.thread_id,
            request.recursion_limit,
            [
                HandlerGroup(self.recorder, self.reporter, ToolWatch(guard), *self._asking()),
                *observing_handlers(),
                *([self._call_limit] if self._call_limit else ()),
                *(self.passage.handlers if self.passage else ()),
            ],
            identity=(request.rules.request, request.round, self.index),
        )
        listening = token_listener.set(self.reporter.on_tokens)
        asking = rollout_index.set(self.index)
        try:
            with (
                ambient_config(None),
                use_environments(writing.forks),
                use_guard(guard),
                use_answering(self._answering(guard)),
            ):
                await with_retries(
                    lambda: self._start(graph, config),
                    lambda: self._go_on(graph, config, guard),
                    lambda error: self.recorder.failed_with(error, repeatable=guard.repeatable),
                    request.retries,
                    self.reporter.pause,
                )
                snapshot = await graph.aget_state(config, subgraphs=True)
        except BaseException:
            await to_the_end(guard.close(failed=True))
            raise
        finally:
            token_listener.reset(listening)
            rollout_index.reset(asking)
        await to_the_end(guard.close())
        self._ended = (graph, guard, snapshot)

    async def begin(self, heritage: Heritage) -> None:
        """Take up what it has from its parent, on a copy of the parent's thread."""
        self.writing.forks |= heritage.forks
        await inherited(heritage, self.writing)
        await self.writing.begin(heritage.thread, heritage)

    async def discard(self) -> None:
        """Forget its forks: it is no candidate."""
        guard = self._guard
        await discard(self.writing.forks.values(), lambda: guard is not None and guard.haunted)

    async def conclude(self) -> None:
        """Read how it ended; what this takes no deadline cuts off, as the agent is done."""
        assert self._ended, "it has run"
        request, writing, (graph, guard, snapshot) = self.request, self.writing, self._ended
        self.ending: Ending = read_ending(snapshot, request, guard, self._handoff)
        self.ending.number(f"{writing.thread_id}#{writing.name}", self.turns)
        if self.ending.status in CANDIDATES:
            for fork in writing.forks.values():
                self.ending.changes += await asyncio.to_thread(fork.diff)
            before, writes = await self._committed(graph), self.overlay.writes if self.overlay else []
            self._output = packed(self.ending, graph, request, before, guard, writes)

    def close(self) -> None:
        """Count what was cut off; nothing more is asked for."""
        if self.passage:
            self.passage.close()
        self.recorder.close()
        self.request.used[self.index] = self.recorder.usage

    async def _committed(self, graph: Graph) -> Mapping[str, Any]:
        """The state that the outer graph has of the agent: at first its input, then what the last round came to."""
        if self.request.base is None:
            return self.request.state
        return (await graph.aget_state({"configurable": {"thread_id": self.request.base.thread_id}})).values

    @property
    def turns(self) -> int:
        """How many turns it has made, those it went on from included."""
        return self.request.turns_before + len(self.recorder.turns)

    @property
    def _before(self) -> Trajectory:
        """What it went on from."""
        return self.request.base.trajectory if self.request.base else Trajectory()

    def _asking(self) -> list[Asking]:
        stopping = self.request.stopping
        if stopping is None or not stopping.prunes:
            return []
        return [Asking(stopping, self.index, self._asked_with)]

    def _asked_with(self, prompt: Sequence[BaseMessage]) -> Trajectory:
        """What led to a prompt; nothing where it has no turn of this rollout's, as those that tools ask with."""
        made = trajectory_of(prompt, self.recorder, Trajectory())
        return Trajectory(turns=(*self._before.turns, *made.turns)) if prompt and made.turns else Trajectory()

    def record(self, seconds: float) -> Rollout:
        """What is kept of it."""
        before = self._before
        forks = self.writing.forks if self.ending.status in CANDIDATES else {}
        trajectory = trajectory_of(self.ending.messages, self.recorder, before)
        reused = sum(turn.reused_tokens for turn in trajectory.turns[len(before.turns) :])
        return Rollout(
            index=self.index,
            thread_id=self.writing.thread_id,
            status=self.ending.status,
            trajectory=trajectory,
            usage=replace(self.recorder.usage, reused_tokens=reused),
            seconds=seconds,
            error=self.ending.error,
            vote_key=self.ending.vote_key,
            forks={name: fork.reference for name, fork in forks.items()},
            output=self._output,
            branch=self._branch,
        )

    @property
    def _branch(self) -> Branch | None:
        if self._heritage is None:
            return None
        return self._heritage.origin.branch(self.writing.method)

    def _answering(self, guard: Guard) -> Answers | None:
        """What answers its model calls; None where no rollout of the round branches."""
        tree = self.request.tree
        if tree is None:
            return None
        origin = self._heritage.origin if self._heritage else None
        in_time = self._call_limit.answered if self._call_limit else None
        return Answers(tree, self.index, self.writing, guard, self.reporter, self.request.turns_before, origin, in_time)

    async def _take_up(self, journal: Journal | None) -> Mapping[Key, Any]:
        """Make the forks and the thread ready, those of an earlier process or new ones."""
        if self._heritage:
            return self._heritage.results
        if journal is not None:
            results = await resumed(journal, self.writing, self.request.environments)
            if results is not None:
                self._take_up_branches(heritage_of(journal))
                return results
        for environment in self.request.environments:
            await to_the_end(asyncio.to_thread(_fork_into, self.writing.forks, environment))
        await self.writing.begin(self.request.base.thread_id if self.request.base else None)
        self._new = self.request.base is None
        return {}

    def _take_up_branches(self, heritage: Heritage | None) -> None:
        """What is on record of where it branched, and others from it."""
        self._heritage = heritage
        if heritage:
            self.reporter.branched(heritage.origin.branch(self.writing.method))
        if self.request.tree:
            self.request.tree.recall(self.index, self.request.turns_before, [*self.recorder.turns.values()])

    def _saver(self) -> BaseCheckpointSaver[Any]:
        store = self.request.store
        return store.flushing(self.writing.flush) if store.durable else store.saver

    async def _start(self, graph: Graph, config: RunnableConfig) -> None:
        """Begin, or go on, depending on what the thread says."""
        snapshot = None if self._new else await graph.aget_state(config)
        if snapshot is None or snapshot.created_at is None:
            given: Any = state_updates(state_channels(graph), {}, deepcopy(dict(self.request.state)))
        elif not snapshot.tasks:  # `next` leaves out tasks that are done and whose writes no step has taken up yet
            return  # it had ended, and its process did not live to say so
        elif await self._waits(graph, snapshot, config):
            return  # it had stopped, likewise
        else:
            # Given for a question that is not open any more, an answer would be taken for the next one of its task.
            open_now = {interrupt.id for interrupt in snapshot.interrupts}
            answers = {question: answer for question, answer in self.request.answers.items() if question in open_now}
            given = Command(resume=answers) if answers else None
        await self._invoke(graph, given, config)

    async def _waits(self, graph: Graph, snapshot: StateSnapshot, config: RunnableConfig) -> bool:
        """Whether it is at a breakpoint that nobody has let it pass: what it went on from was let pass its own."""
        if not await stopped_at_breakpoint(graph, snapshot):
            return False
        base = self.request.base
        if base is None:
            return True
        keys = {**config.get("configurable", {}), "thread_id": base.thread_id}
        return not is_at(snapshot, await graph.aget_state(RunnableConfig(configurable=keys)))

    async def _go_on(self, graph: Graph, config: RunnableConfig, guard: Guard) -> None:
        guard.begin_again()
        await self._invoke(graph, None, config)

    async def _invoke(self, graph: Graph, given: Any, config: RunnableConfig) -> None:
        durability, limit = durability_of(self.request.agent), self._call_limit
        try:
            with own_calls():
                async with limit.heeded() if limit else nullcontext():
                    run = graph.ainvoke(given, config, context=self.request.context, durability=durability)
                    await cancellable(run)
        except ParentCommand as handoff:  # for the graph around the agent, if this rollout is selected
            self._handoff = handoff.args[0]


Begun = _Attempt
"""A rollout that was begun and does not run yet."""


def _fork_into(forks: dict[str, Fork], environment: Environment) -> None:
    """Fork, and have it known at once: a cancelled rollout discards what is known."""
    forks[environment.name] = environment.fork()


def one_line(error: Exception) -> str:
    """An error as records have it."""
    said = str(error)
    if isinstance(error, GraphRecursionError):  # what LangGraph goes on to say is of the outer graph's configuration
        said = f"{said.partition(' You can')[0]} Pass recursion_limit=… to ParallelRollouts or entropy_centroid_graph."
    return " ".join(f"{type(error).__name__}: {said}".split())[:500]
