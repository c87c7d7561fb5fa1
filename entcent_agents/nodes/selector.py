"""The node that selects one rollout and makes it real."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, Final, Literal

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.runtime import get_runtime
from langgraph.types import Command

from entcent_agents.environments import Fork, commit
from entcent_agents.errors import ConfigurationError, EnvironmentUnusableError, RolloutError
from entcent_agents.ledger import MemoryLedger
from entcent_agents.nodes.parallel_rollouts import ParallelRollouts
from entcent_agents.nodes.recorded import until_recorded
from entcent_agents.nodes.records import added_messages, record
from entcent_agents.nodes.settings import require_kind
from entcent_agents.nodes.shadow import alone, log_shadow, would_have_been
from entcent_agents.nodes.state import Node, RolloutsState
from entcent_agents.nodes.unclaimed import claim
from entcent_agents.nodes.untold import Untold
from entcent_agents.recordings import Records
from entcent_agents.recordings.keeping import RecordedRound
from entcent_agents.rollouts.cleanup import to_the_end
from entcent_agents.rollouts.events import COMMIT_EVENT, selection_event
from entcent_agents.rollouts.isolation import parent_saver
from entcent_agents.rollouts.overlay import apply_writes
from entcent_agents.rollouts.packing import place_of, unpack
from entcent_agents.selection import Selection, Selector, require_scorable
from entcent_agents.selection.asking import asked, require_winner, selector_or_default
from entcent_agents.telemetry.rounds import Round
from entcent_agents.trajectory import CANDIDATES, Rollout, Spent

_LOGGER: Final = logging.getLogger(__name__)


class EntropyCentroidSelector(Node):
    """Selects one rollout and commits it: its messages to the state, its forks and store writes to the world.

    A rollout that is held may be selected too. What it did so far is committed, and it stays in the `rollouts` channel:
    the graph then has to go back to the rollouts (`unfinished`), which go on from it.

    Args:
        rollouts: The node whose rollouts it selects from. Without it messages of finished rollouts alone are committed.
        selector: How to choose; default: what `default_selector` says.
        on_unscorable: What to do where no rollout carries log-probabilities: `error`, or let the selector decide
            all the same (`fallback`).
        shadow: Whether to commit the first rollout whatever the selector says, as if the agent ran alone, and to
            record and log what it would have chosen.
        records: Where the rollouts of committed rounds are recorded; default: nowhere.

    Raises:
        LogprobsMissingError: At a call, see `on_unscorable`.
        EnvironmentConflictError: At a call, where the real world changed meanwhile; nothing is committed then.

    Example:
        >>> from entcent_agents import EntropyCentroidSelector, ParallelRollouts, ScriptedChat, ScriptedTurn
        >>> from langchain.agents import create_agent
        >>> from langgraph.graph import START, MessagesState, StateGraph
        >>> class State(MessagesState):
        ...     selection: dict
        >>> turns = [ScriptedTurn(text=text, entropy=[nats] * 9) for text, nats in [("Adelie?", 0.9), ("Gentoo.", 0.1)]]
        >>> rollouts = ParallelRollouts(create_agent(ScriptedChat(scripts=[[turn] for turn in turns])), n=2)
        >>> steps = [("rollouts", rollouts), ("select", EntropyCentroidSelector(rollouts))]
        >>> graph = StateGraph(State).add_sequence(steps).add_edge(START, "rollouts").compile()
        >>> graph.invoke({"messages": [("user", "Which are the heaviest?")]})["selection"]["reason"]
        'mean entropy 0.1 is the lowest of 2'
    """

    hands_over_in: str | None = None
    """The graph that a handoff of the agent is meant for; None is the one that these nodes stand in."""

    def __init__(
        self,
        rollouts: ParallelRollouts | None = None,
        *,
        selector: Selector | None = None,
        on_unscorable: Literal["error", "fallback"] = "error",
        shadow: bool = False,
        records: Records | None = None,
    ) -> None:
        self.rollouts = rollouts
        self.selector: Selector = selector_or_default(selector)
        if shadow and rollouts is None:
            raise ConfigurationError("shadow=True needs the node of the rollouts: EntropyCentroidSelector(rollouts, …)")
        require_kind("records", records, "Records")
        self.on_unscorable = on_unscorable
        self.shadow = shadow
        self.untold: Untold = Untold()
        self.records = records
        self.name: str | None = "EntropyCentroidSelector"
        if rollouts is not None:
            rollouts.has_selector = True
            rollouts.shadowed = shadow
            rollouts.keeps_words = records is not None and records.text

    async def ainvoke(
        self, input: RolloutsState, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any] | list[dict[str, Any] | Command[Any]]:
        """Select and commit; the result goes to `selection`, and `rollouts` is emptied but for a held winner."""
        claim()
        may_come_back = parent_saver(config or RunnableConfig()) is not None
        key = next((record["thread_id"] for record in input.get("rollouts") or ()), None) if may_come_back else None
        if (update := self.untold.take(key)) is not None:
            return update
        return await self.untold.told(key, lambda committing: self._selected(input, config, committing))

    async def _selected(
        self, input: RolloutsState, config: RunnableConfig | None, committing: Callable[[], None]
    ) -> dict[str, Any] | list[dict[str, Any] | Command[Any]]:
        started = time.perf_counter()
        rollouts = [Rollout.from_dict(record) for record in input.get("rollouts") or ()]
        candidates = [rollout for rollout in rollouts if rollout.status in self._selectable]
        if not candidates:
            raise ConfigurationError(
                "rollouts wait for a person or before an external call, and none has finished: pass the node that ran "
                "them, EntropyCentroidSelector(rollouts), so that the selected one can go on"
                if rollouts
                else "no rollout to select from: put ParallelRollouts before this node"
            )
        try:
            candidates = await self._open_candidates(candidates)
            selection = alone(rollouts, candidates) if self.shadow else self._select(candidates)
            result = selection.to_dict()
            winner = next(rollout for rollout in candidates if rollout.index == selection.winner)
            output = unpack(winner.output or "")
            if self.shadow:
                result["shadow"] = self._shadow(rollouts, winner)
            if self.rollouts is not None:
                await until_recorded(config or RunnableConfig())
            get_runtime().stream_writer({"type": COMMIT_EVENT, "round": output["round"]})
            committing()
            changes = await to_the_end(self._commit(winner, output["store"]))
        except BaseException as stop:
            spent = _spent(rollouts, time.perf_counter() - started)
            self._observed(rollouts, place_of(rollouts)).stopped(stop, spent)
            resumable = self.rollouts is not None and self.rollouts.store.durable
            if self.rollouts is not None and not (resumable and isinstance(stop, asyncio.CancelledError)):
                await to_the_end(self.rollouts.forget(rollouts))
            raise
        if self.shadow:
            log_shadow(result, request=output["request"], round=output["round"], candidates=len(candidates))
        held = winner.status == "held"
        spent = _spent(rollouts, time.perf_counter() - started, rounds=1)
        committed = replace(winner, forks={}, spent=spent)
        selected = {
            **result,
            "status": winner.status,
            "held": [{key: held["call"][key] for key in ("tool", "arguments")} for held in output["held"]],
            "changes": changes,
            "usage": spent.to_dict(),
        }
        await to_the_end(self._settle(input, rollouts, committed, selected, output))
        update = {
            **output["state"],
            "rollouts": [committed.to_dict()] if held else [],
            "selection": selected,
        }
        handoff = output["handoff"]
        return [update, replace(handoff, graph=self.hands_over_in)] if handoff else update

    @property
    def _selectable(self) -> tuple[str, ...]:
        return ("finished",) if self.rollouts is None else CANDIDATES

    async def _open_candidates(self, candidates: Sequence[Rollout]) -> Sequence[Rollout]:
        """The one that a process which died had committed already, alone; else all."""
        if self.rollouts is None or not self.rollouts.store.durable:
            return candidates
        is_committed = self.rollouts.is_committed
        done = await asyncio.to_thread(lambda: [rollout for rollout in candidates if is_committed(rollout)])
        return done or candidates

    async def _forks(self, rollouts: ParallelRollouts, winner: Rollout) -> list[Fork]:
        try:
            return await asyncio.to_thread(rollouts.forks_of, winner)
        except EnvironmentUnusableError as gone:
            raise RolloutError(
                f"what rollout {winner.index} changed is not there any more ({gone}): an earlier try to commit it "
                "failed, or it was swept; send the request again"
            ) from gone

    async def _settle(
        self,
        input: RolloutsState,
        rollouts: Sequence[Rollout],
        winner: Rollout,
        selected: dict[str, Any],
        output: dict[str, Any],
    ) -> None:
        """What follows a commit. It stands, so what fails here must not look like a failed request."""
        await self._tried(self._tell(input, rollouts, selected, output), "telling what was committed")
        if self.rollouts is not None:
            await self._clean_up(rollouts, winner, output)

    async def _tell(
        self, input: RolloutsState, rollouts: Sequence[Rollout], selected: dict[str, Any], output: dict[str, Any]
    ) -> None:
        """Tell the stream, the log and the tracer what was committed, and record it."""
        observed = self._observed(rollouts, (output["request"], output["round"]))
        get_runtime().stream_writer(selection_event(selected, request=observed.request, round=observed.number))
        observed.committed(selected)
        if self.records is not None:
            task, winner = f"{observed.request}:{observed.number}", selected["winner"]
            round = RecordedRound(task=task, rollouts=observed.rollouts, selected=winner)
            await record(self.records, round, input.get("messages") or ())

    def _observed(self, rollouts: Sequence[Rollout], place: tuple[str, int] | None) -> Round:
        """The round that this node ends, as operators see it."""
        key = rollouts[0].thread_id.rpartition(":")[0]
        request, number = place or (key, 0)
        if self.rollouts is None:
            return Round(request, number, None, rollouts)
        spans = self.rollouts.spans and self.rollouts.spans.waiting.take(key)
        return Round(request, number, spans, self.rollouts.said.take(key) or rollouts)

    def _shadow(self, rollouts: Sequence[Rollout], winner: Rollout) -> dict[str, Any]:
        assert self.rollouts is not None
        return would_have_been(self._asked, rollouts, winner, quorum=self.rollouts.min_finished)

    def _select(self, candidates: Sequence[Rollout]) -> Selection:
        return require_winner(self._asked(candidates))

    def _asked(self, candidates: Sequence[Rollout]) -> Selection:
        if self.on_unscorable == "error" and not any(rollout.plain for rollout in candidates):
            require_scorable(candidates, _could_be_scored)
        selection = asked(self.selector, candidates)
        if any(rollout.plain for rollout in candidates):
            return replace(selection, reason=f"too many rollouts failed, and this is one plain run: {selection.reason}")
        return selection

    async def _commit(self, winner: Rollout, store_writes: list[Any]) -> list[dict[str, Any]]:
        """Make the winner's forks and store writes real, in this order; returns what changed in the environments."""
        changes: list[dict[str, Any]] = []
        if self.rollouts is not None and winner.forks:
            forks = await self._forks(self.rollouts, winner)
            for fork in forks:
                changes += [asdict(change) for change in await asyncio.to_thread(fork.diff)]
            await asyncio.to_thread(commit, forks)
        store = get_runtime().store
        if store is None and self.rollouts is not None:
            store = self.rollouts.agent.store
        if store is not None and store_writes:
            await apply_writes(store, store_writes)
        return changes

    async def _clean_up(self, rollouts: Sequence[Rollout], winner: Rollout, output: dict[str, Any]) -> None:
        """Forget the losers and what the round went on from; of a finished request, everything."""
        assert self.rollouts is not None
        losers = [rollout for rollout in rollouts if rollout.index != winner.index]
        over = [*losers, winner] if winner.status == "finished" else losers
        for rollout in over:
            await self._tried(self.rollouts.forget([rollout]), f"forgetting rollout {rollout.index}")
        if output["base"] is not None:
            await self._tried(self.rollouts.store.forget(output["base"]), f"forgetting thread {output['base']}")
        # A process that was taken for dead may still come to a call of this request: other ledgers keep it on record.
        if winner.status == "finished" and isinstance(self.rollouts.ledger, MemoryLedger):
            await self._tried(self.rollouts.ledger.forget(output["request"]), "forgetting in the effect ledger")

    async def _tried(self, doing: Awaitable[object], what: str) -> None:
        try:
            await doing
        except Exception:
            _LOGGER.exception("%s failed, after the commit", what)


def _could_be_scored(rollout: Rollout) -> bool:
    """Whether models said something in text. After a commit nothing is asked: an error would hide what was done."""
    if rollout.output and unpack(rollout.output)["round"] > 1:
        return False
    said = [message for message in added_messages(rollout) if isinstance(message, AIMessage)]
    return not said or any(message.text for message in said)


def _spent(rollouts: Sequence[Rollout], seconds: float, *, rounds: int = 0) -> Spent:
    """What the request has used with these rollouts, and with so much time in the selector."""
    before = next((rollout.spent for rollout in rollouts if rollout.spent), Spent())
    return before.plus(rollouts, seconds=seconds, rounds=rounds)
