"""The node that runs rollouts of an agent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, cast
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.runtime import Runtime, get_runtime

from entcent_agents.branching import BudgetPool, EarlyStopping
from entcent_agents.budget import Budget
from entcent_agents.capture.alternatives import keep_alternatives
from entcent_agents.chat.sampling import SamplingPool, one_attempt, plain_sampling, use_pool
from entcent_agents.effects import (
    Effect,
    ToolEffect,
    committing_selector_needed,
    durable_store_needed,
    effects_of,
    records_on_the_way_needed,
    rollouts_in_rollouts_refused,
)
from entcent_agents.environments import Environment, Fork
from entcent_agents.errors import (
    ConfigurationError,
    EffectError,
    EnvironmentUnusableError,
    RolloutError,
    RolloutsFailedError,
    one_of,
)
from entcent_agents.ledger import EffectLedger, LedgerSettings, MemoryLedger
from entcent_agents.nodes.budgeting import gate_of, rollouts_left
from entcent_agents.nodes.pooling import lent_places
from entcent_agents.nodes.questions import ask, settle_doubts
from entcent_agents.nodes.recorded import until_recorded
from entcent_agents.nodes.running import Further, Running, may_go_on
from entcent_agents.nodes.settings import require_kind
from entcent_agents.nodes.shadow import as_alone, run_beside
from entcent_agents.nodes.state import Node, RolloutsState
from entcent_agents.nodes.stopping import require_reachable, stopping_of
from entcent_agents.nodes.unclaimed import leave
from entcent_agents.rollouts.branching import BeginBranch, Branching, Tree
from entcent_agents.rollouts.cleanup import Lingering, discard, to_the_end
from entcent_agents.rollouts.counts import require_count
from entcent_agents.rollouts.guard import Rules, inside_a_rollout
from entcent_agents.rollouts.heritage import Heritage
from entcent_agents.rollouts.hooks import hook
from entcent_agents.rollouts.isolation import (
    Graph,
    accepted_channels,
    durable_parent_saver,
    outer_channels,
    parent_saver,
    require_rollouts_possible,
    state_channels,
    tool_nodes_of,
    tools_of,
    whole_input,
    writer_from_anywhere,
    written_at_the_end,
)
from entcent_agents.rollouts.memory import ThreadMemory
from entcent_agents.rollouts.places import Places
from entcent_agents.rollouts.request import Base, RolloutRequest
from entcent_agents.rollouts.retries import Retries
from entcent_agents.rollouts.rollout import Begun, begin_branch, run_rollout
from entcent_agents.rollouts.store import RolloutStore
from entcent_agents.rollouts.writing import recorded_branches
from entcent_agents.telemetry.rounds import Round, observed_rollout, observed_round
from entcent_agents.telemetry.waiting import Waiting
from entcent_agents.trajectory import CANDIDATES, Rollout, Spent

if TYPE_CHECKING:  # OpenTelemetry is an extra
    from entcent_agents.telemetry import Spans

RECURSION_LIMIT: Final = 50
"""Most supersteps of a rollout, where nothing else is said: LangGraph's own default is about 10,000."""
_MOST_WAITING: Final = 256
"""Rounds whose words wait for a selector that is to record them."""


class ParallelRollouts(Node):
    """Runs n rollouts of an agent at once, each on a thread and on environment forks of its own.

    Args:
        agent: A compiled graph whose state has `messages`.
        n: How many rollouts; with `branching`, at most.
        branching: Begin few rollouts, and let them branch where they hesitate; None: all n are sampled from the
            beginning. Branches are made with `ChatLogprobs` alone; see docs/branching.md.
        stopping: End rollouts early, where those that ended agree or are more confident; None: all come to their end.
            See docs/early-stopping.md.
        pool: Lends a request that branches up to n more, of what others left; hold it as long as the service runs.
        effects: What the agent's tools do to the world, by tool name; counts more than what tools say themselves. A
            tool of which nothing is known is EXTERNAL: rollouts are held before it.
        trust_hints: MCP servers or tools whose own hints count: their names, or True for all.
        environments: The worlds that tools change; every rollout works on forks of them.
        max_concurrency: Most rollouts that run at the same time; None runs all at once.
        min_finished: The quorum: fewer finished or held rollouts are an error.
        on_unavailable: What to do where the quorum is missed: `error`, or one plain run (`single`), without
            log-probabilities if need be, under the same rules for effects.
        retries: Of model calls that fail for a passing reason.
        budget: What a request may use: tokens, cost, rollouts, seconds.
        seed: Makes sampling repeatable where the server is deterministic (with `ChatLogprobs`).
        recursion_limit: Most supersteps of a rollout.
        rollout_checkpointer: Where rollouts keep their threads, apart from the graph's own; default in memory. With a
            durable one, a request that was cut off goes on where it was.
        ledger: Where external calls are kept; default in memory.
        ledger_settings: Its times and limits.
        spans: Makes OpenTelemetry spans of what happens; default: none.

    Raises:
        ConfigurationError: On settings that cannot work.
        EffectError: On effects that cannot be honoured; before any model call.
        BudgetExceededError: At a call, where `max_rollouts` leaves too few for a quorum.
        RolloutsFailedError: At a call, where fewer rollouts than the quorum finish.

    Example:
        >>> from entcent_agents import EntropyCentroidSelector, ParallelRollouts, ScriptedChat, ScriptedTurn
        >>> from langchain.agents import create_agent
        >>> from langgraph.graph import START, MessagesState, StateGraph
        >>> turns = [ScriptedTurn(text=text, entropy=[nats] * 9) for text, nats in [("Adelie?", 0.9), ("Gentoo.", 0.1)]]
        >>> rollouts = ParallelRollouts(create_agent(ScriptedChat(scripts=[[turn] for turn in turns])), n=2)
        >>> steps = [("rollouts", rollouts), ("select", EntropyCentroidSelector(rollouts))]
        >>> graph = StateGraph(MessagesState).add_sequence(steps).add_edge(START, "rollouts").compile()
        >>> graph.invoke({"messages": [("user", "Which are the heaviest?")]})["messages"][-1].text
        'Gentoo.'
    """

    def __init__(
        self,
        agent: Graph,
        *,
        n: int = 4,
        branching: Branching | None = None,
        stopping: EarlyStopping | None = None,
        pool: BudgetPool | None = None,
        effects: Mapping[str, Effect | str] | None = None,
        trust_hints: bool | Sequence[str] = (),
        environments: Sequence[Environment] = (),
        max_concurrency: int | None = None,
        min_finished: int = 1,
        on_unavailable: Literal["error", "single"] = "error",
        retries: Retries | None = None,
        budget: Budget | None = None,
        seed: int | None = None,
        recursion_limit: int = RECURSION_LIMIT,
        rollout_checkpointer: BaseCheckpointSaver[Any] | None = None,
        ledger: EffectLedger | None = None,
        ledger_settings: LedgerSettings | None = None,
        spans: Spans | None = None,
    ) -> None:
        require_count(n, "rollouts")
        if not 1 <= min_finished <= n:
            raise ConfigurationError(f"min_finished={min_finished} must be between 1 and n={n}")
        if max_concurrency is not None and max_concurrency < 1:
            raise ConfigurationError(f"max_concurrency={max_concurrency} must be at least 1")
        if on_unavailable not in ("error", "single"):
            raise ConfigurationError(f"on_unavailable={on_unavailable!r} must be 'error' or 'single'")
        for name, given, kind in (
            ("branching", branching, "Branching"),
            ("stopping", stopping, "EarlyStopping"),
            ("pool", pool, "BudgetPool"),
            ("retries", retries, "Retries"),
            ("budget", budget, "Budget"),
            ("spans", spans, "Spans"),
        ):
            require_kind(name, given, kind)
        if branching and not min_finished <= branching.initial <= n:
            raise ConfigurationError(
                f"branching: initial={branching.initial} must be between min_finished={min_finished} and n={n}"
            )
        require_reachable(stopping, n)
        if pool and not branching:
            raise ConfigurationError("pool: it lends to requests that branch: pass branching=Branching(…) too")
        names = [environment.name for environment in environments]
        if len(set(names)) < len(names):
            raise ConfigurationError(f"environments share a name: {', '.join(names)}; give each its own")
        require_rollouts_possible(agent)
        channels = tuple(state_channels(agent))
        if "messages" not in channels:
            raise ConfigurationError(f"the agent's state has no `messages`; it has {', '.join(channels)}")
        self.agent = agent
        self.channels = channels
        self.n = n
        self.branching = branching
        self.stopping = stopping
        self.pool = pool
        self.lent: range = range(n, 2 * n if branching else n)
        self.environments: dict[str, Environment] = {environment.name: environment for environment in environments}
        self.effects: dict[str, ToolEffect] = effects_of(tools_of(agent), effects or {}, names, trust_hints=trust_hints)
        self.max_concurrency: int = max_concurrency or n
        self.min_finished = min_finished
        self.on_unavailable = on_unavailable
        self.retries: Retries = retries or Retries()
        self.budget: Budget = budget or Budget()
        self.seed = seed
        self.recursion_limit = recursion_limit
        self.store: RolloutStore = RolloutStore(rollout_checkpointer or ThreadMemory())
        self.ledger: EffectLedger = ledger or MemoryLedger()
        self.ledger_settings: LedgerSettings = ledger_settings or LedgerSettings()
        self.spans = spans
        self.lingering: Lingering = Lingering()
        self.name: str | None = "ParallelRollouts"
        self.has_selector = False
        self.shadowed = False
        self.keeps_words = False
        # With the words of tokens, which the state never has.
        self.said: Waiting[list[Rollout]] = Waiting(_MOST_WAITING)
        hook(tool_nodes_of(agent))

    def __call__(self, state: Mapping[str, Any], config: RunnableConfig) -> dict[str, Any]:
        """As `invoke`; with no schema of its own, LangGraph gives the node the whole state, as it does to subgraphs."""
        return self.invoke(cast(RolloutsState, state), config)

    async def ainvoke(
        self, input: RolloutsState, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Run the rollouts of a round; their records go to the `rollouts` channel."""
        started = time.perf_counter()
        config = config or RunnableConfig()
        self._require_safety(config)
        request = await self._request(whole_input(input, config, also="rollouts"), config, get_runtime())
        write = writer_from_anywhere(get_runtime().stream_writer, config)
        left = self._rollouts_left(request.spent)
        with self._observed(request) as observed:
            with (
                use_pool(SamplingPool(self.seed, plain_first=self.shadowed)),
                one_attempt(request.gate is not None),
                lent_places(request, left, self.pool) as places,
            ):
                begun = rollouts = await self._begin(request, places, write)
                single = self.shadowed or self.on_unavailable == "single"
                if single and left > len(begun) and len(_candidates(rollouts)) < self._needed:
                    places.begun += 1
                    rollouts = await self._single(request, rollouts, write)
            observed.rollouts = rollouts
            await self._require_quorum(request, rollouts)
            await self._require_answerable(request, rollouts)
        if self.keeps_words:
            self.said.put(request.thread_prefix, rollouts)
        kept = {rollout.index for rollout in rollouts}
        replaced = [rollout for rollout in begun if rollout.index not in kept]
        borrowed = sum(rollout.index in self.lent for rollout in begun)
        spent = request.spent.plus(replaced, seconds=time.perf_counter() - started, borrowed=borrowed)
        rollouts[0] = replace(rollouts[0], spent=spent)
        if parent_saver(config) is None:  # else the graph can go on from here
            leave(partial(self._never_selected, observed, request.thread_prefix, rollouts))
        return {"rollouts": [rollout.to_dict() for rollout in rollouts]}

    def forks_of(self, rollout: Rollout) -> list[Fork]:
        """The forks that a rollout left for its commit, but for those that a process committed before it died.

        Raises:
            EnvironmentUnusableError: A fork is gone.
        """
        return [
            self.environments[name].reopen(reference)
            for name, reference in rollout.forks.items()
            if not self.environments[name].committed(reference)
        ]

    def is_committed(self, rollout: Rollout) -> bool:
        """Whether a process committed its forks, and died before the graph knew."""
        return any(self.environments[name].committed(reference) for name, reference in rollout.forks.items())

    async def forget(self, rollouts: Sequence[Rollout]) -> None:
        """Discard what rollouts left: their forks and their threads; of one that still does something, later."""
        await to_the_end(self._forget_all(rollouts))

    async def _never_selected(self, observed: Round, key: str, rollouts: Sequence[Rollout]) -> None:
        self.said.take(key)
        if self.spans is not None and self.spans.waiting.take(key):
            observed.unselected()
        await self.forget(rollouts)

    async def _forget_all(self, rollouts: Sequence[Rollout]) -> None:
        for rollout in rollouts:
            if not self.lingering.then(rollout.thread_id, partial(self._forget, rollout)):
                await self._forget(rollout)

    async def _forget(self, rollout: Rollout) -> None:
        for name, reference in rollout.forks.items():
            try:
                fork = await asyncio.to_thread(self.environments[name].reopen, reference)
            except EnvironmentUnusableError:  # committed or discarded: there is nothing left
                continue
            await discard([fork])
        await self.store.forget(rollout.thread_id)

    def _observed(self, request: RolloutRequest) -> AbstractContextManager[Round]:
        return observed_round(
            self.spans,
            request.config,
            request=request.rules.request,
            number=request.round,
            key=request.thread_prefix,
            agent=self.agent.name,
            selected=self.has_selector,
            spent=request.spent_so_far,
        )

    @property
    def _needed(self) -> int:
        """How many rollouts must be finished or held; in shadow mode, the one that is committed."""
        return 1 if self.shadowed else self.min_finished

    def _require_safety(self, config: RunnableConfig) -> None:
        """Refuse what could lose or repeat an effect, before any model call."""
        self.store.require_reachable()
        durable = durable_parent_saver(config) is not None
        refusal = None if self.has_selector else committing_selector_needed(self.effects, self.environments)
        if inside_a_rollout():
            refusal = refusal or rollouts_in_rollouts_refused(self.effects, self.environments)
        if durable and written_at_the_end(config):
            refusal = refusal or records_on_the_way_needed(self.effects, self.environments)
        if durable and not self.store.durable:
            refusal = refusal or durable_store_needed(self.effects, "rollout_checkpointer")
        if durable and isinstance(self.ledger, MemoryLedger):
            refusal = refusal or durable_store_needed(self.effects, "ledger")
        if refusal:
            raise EffectError(refusal)

    async def _require_answerable(self, request: RolloutRequest, rollouts: Sequence[Rollout]) -> None:
        """A question to a person may take days: refuse to put one whose rollout would not be there any more."""
        if inside_a_rollout():
            refusal = (
                "rollouts inside a rollout stopped to ask a person, and all copies of that one would go on with them: "
                "put the agent itself there in the place of its rollouts"
            )
        elif not self.store.durable and durable_parent_saver(request.config) is not None:
            refusal = (
                "the agent stopped to ask a person, in a graph whose own checkpointer outlives the process, and its "
                "rollouts are kept in memory: pass rollout_checkpointer=AsyncSqliteSaver(…) or another durable one to "
                "ParallelRollouts"
            )
        else:
            return
        committable = _candidates(rollouts)[:1] if self.shadowed else rollouts
        if any(rollout.status == "held" for rollout in committable):
            await self.forget(rollouts)
            raise ConfigurationError(refusal)

    @property
    def _plain(self) -> int:
        """The index of the plain run: behind those of all rollouts that there may be, lent ones included."""
        return self.lent.stop

    def _rollouts_left(self, spent: Spent) -> int:
        """How many the budget leaves, of all that there may be and the plain run that may take their place."""
        return rollouts_left(self.budget, spent, wanted=self._plain + 1, needed=self._needed)

    async def _request(self, state: Mapping[str, Any], config: RunnableConfig, runtime: Runtime[Any]) -> RolloutRequest:
        base = await self._base(state)
        if base:
            self._rollouts_left(base.spent)  # before a person is asked for the sake of a round that cannot be
        answers = ask(base) if base else {}
        if base:
            await settle_doubts(base, self.ledger, self.ledger_settings)
        if base or self.store.durable:
            await until_recorded(config)  # or a crash would begin the round anew, and sample its turns again
        thread = config.get("configurable", {}).get("thread_id") or uuid4().hex
        task = runtime.execution_info.task_id if runtime.execution_info else uuid4().hex
        prefix = f"{thread}:{task}"
        # What an earlier try at this round left to end would clean up threads that have the same names.
        await self.lingering.end(f"{prefix}:{index}" for index in range(self._plain + 1))
        accepted = accepted_channels(self.agent)
        memory = runtime.store or self.agent.store
        request = RolloutRequest(
            agent=self.agent,
            state={key: value for key, value in state.items() if key in accepted},
            channels=outer_channels(config) or state_channels(self.agent),
            config=config,
            context=runtime.context,
            store=self.store,
            memory=memory,
            environments=tuple(self.environments.values()),
            thread_prefix=prefix,
            recursion_limit=self.recursion_limit,
            retries=self.retries,
            rules=Rules(
                effects=self.effects,
                ledger=self.ledger,
                settings=self.ledger_settings,
                request=base.request if base else prefix,
                approved=base.held if base else (),
                results=base.results if base else {},
                shares=memory is None,
            ),
            budget=self.budget,
            lent=self.lent,
            lingering=self.lingering,
            resumable=self.store.durable and parent_saver(config) is not None,
            base=base,
            answers=answers,
        )
        return replace(request, gate=await gate_of(request, self._plain + 1))

    async def _base(self, state: Mapping[str, Any]) -> Base | None:
        """The held rollout to go on from; one that the conversation has left behind is forgotten.

        Raises:
            RolloutError: Its thread is gone, or what it is held before was changed in the state.
        """
        held = [Rollout.from_dict(record) for record in state.get("rollouts") or ()]
        if len(held) != 1 or held[0].status != "held" or held[0].forks:
            return None
        base = Base.of(held[0])
        if not base.ends(state):
            await self.forget(held)
            return None
        if not await self.store.has(base.thread_id):
            raise RolloutError(
                f"the held rollout {base.thread_id} that this state goes on from is not there any more: it went on "
                "already, was swept, or is in another rollout_checkpointer; go back to a checkpoint before its round, "
                "or send a new message"
            )
        return base

    async def _begin(self, request: RolloutRequest, places: Places, write: Callable[[Any], None]) -> list[Rollout]:
        """All rollouts of a round that there are places for, those that branch included."""
        kept = (0,) if self.shadowed else ()
        stopping = await stopping_of(self.stopping, request, places.untaken, least=self.min_finished, kept=kept)
        request = replace(request, stopping=stopping)
        if self.branching is None:
            return await self._run(request, places.take(self.n), write)
        initial = self.branching.initial
        first = places.take(initial)
        threads = {index: request.thread_id(index) for index in places.untaken if request.store.durable}
        recorded = await recorded_branches(request.store, threads, request.environments)
        places.take_up(recorded)

        def tree(begin: BeginBranch) -> Tree:
            origins = [heritage.origin for heritage in recorded.values() if heritage]
            assert self.branching
            return Tree(self.branching, places, begin, origins, stopping)

        async def further() -> list[int]:
            return [] if stopping and stopping.agreed else await places.further(initial)

        with keep_alternatives():
            return await self._run(request, [*first, *recorded], write, tree, further)

    async def _run(
        self,
        request: RolloutRequest,
        indices: Sequence[int],
        write: Callable[[Any], None],
        tree: Callable[[BeginBranch], Tree] | None = None,
        further: Further | None = None,
    ) -> list[Rollout]:
        """These rollouts, and those that branch; the first error that is no data ends the others.

        Args:
            request: The round's.
            indices: Rollouts to begin.
            write: Told of events.
            tree: How they branch, given what begins a branch; None: they do not.
            further: Which others to begin when all have ended.
        """
        room = asyncio.Semaphore(self.max_concurrency)

        async def one(index: int, begun: Begun | None) -> Rollout:
            async with room:
                if self.shadowed and 0 < index < self._plain:
                    running = run_beside(request, index, write, begun)
                else:
                    running = run_rollout(as_alone(request) if self.shadowed else request, index, write, begun)
                rollout = await observed_rollout(index, running)
            if request.stopping:
                request.stopping.ended(rollout)
            return rollout

        async def begin(index: int, heritage: Heritage) -> None:
            await begin_branch(request, index, write, heritage, partial(running.join, index))

        running = Running(request, one, self.forget)
        if tree:
            request = replace(request, tree=tree(begin))
        return await running.all(indices, further)

    async def _single(
        self, request: RolloutRequest, failed: Sequence[Rollout], write: Callable[[Any], None]
    ) -> list[Rollout]:
        """One plain run in the place of rollouts too many of which failed."""
        try:
            with plain_sampling():
                single = await self._run(request, [self._plain], write)
        except BaseException as stop:
            if not may_go_on(request, stop):
                await self.forget(failed)
            raise
        if not _candidates(single):
            return [*failed, *single]
        await self.forget(failed)
        return [replace(rollout, plain=True) for rollout in single]

    async def _require_quorum(self, request: RolloutRequest, rollouts: Sequence[Rollout]) -> None:
        found = _candidates(rollouts)
        if len(found) >= self._needed or any(rollout.plain for rollout in found):
            return
        await self.forget(rollouts)
        if self.shadowed and (error := request.errors.get(self._plain)):
            raise error  # of the plain run, as the agent alone would have raised it
        errors = "; ".join(dict.fromkeys(rollout.error or rollout.status for rollout in rollouts if rollout.error))
        changed = "nothing was changed since the last commit" if request.base else "nothing was changed"
        if called := ", ".join(sorted({*request.rules.called})):
            changed = f"nothing else was changed since the last commit, but {called} was called, which stays on record"
        raise RolloutsFailedError(
            f"{len(found)} of {len(rollouts)} rollouts finished, {self._needed} needed, {changed}: {errors}"
        ) from one_of(request.errors.values())


def _candidates(rollouts: Sequence[Rollout]) -> list[Rollout]:
    return [rollout for rollout in rollouts if rollout.status in CANDIDATES]
