"""What stands between a rollout and its tools: nothing external happens before it is approved, and nothing twice."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol
from weakref import WeakSet

from langchain_core.tools import ToolException
from langgraph.errors import GraphBubbleUp, GraphInterrupt
from langgraph.types import Command, Interrupt

from entcent_agents.effects import Effect, ToolEffect
from entcent_agents.errors import EffectError
from entcent_agents.ledger import (
    Done,
    EffectLedger,
    ExternalCall,
    Failed,
    GivenUp,
    InDoubt,
    LedgerSettings,
    Outcome,
    Pending,
    perform,
)
from entcent_agents.ledger.decision import Change
from entcent_agents.rollouts.calls import Call, HeldCall, Key, Run, addressed, refused, restored, stored
from entcent_agents.rollouts.cleanup import soon_to_the_end
from entcent_agents.rollouts.enclosing import (
    Inside,
    enclosed,
    enclosed_by_none,
    enclosing_effects,
    enclosing_namespaces,
)
from entcent_agents.rollouts.sharing import SharedCalls

HELD: Final = "entcent.held"
"""What the interrupt of a held call says; the call itself is in the rollout's record."""
NUMBERED: Final = "entcent call "
"""How ids begin that we give to calls without one."""
_LONGEST_WAIT_SECONDS: Final = 5.0


class WriteJournal(Protocol):
    """What makes WRITE calls of a durable rollout safe from a crash in their middle."""

    async def before(self, call: Call) -> None:
        """The call is about to run."""
        ...

    async def after(self, call: Call, result: Mapping[str, Any] | None) -> None:
        """It ran, and this came of it; None where it raised."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the guards of one round share.

    Attributes:
        effects: Of the agent's tools, by name; a tool that is not among them is EXTERNAL.
        ledger: Where external calls are kept.
        settings: Of the ledger.
        request: What its records are forgotten by.
        approved: External calls that the round's base was held before.
        results: Of calls that ran in tasks of the base that have to run again.
        shares: Whether equal READ calls may be one: not where tools see a store, of which each rollout has its own
            view.
        shared: Calls that are made once for all.
        called: Tools whose external calls were made, or have been in an earlier attempt at this round.
    """

    effects: Mapping[str, ToolEffect]
    ledger: EffectLedger
    settings: LedgerSettings
    request: str
    approved: tuple[HeldCall, ...] = ()
    results: Mapping[Key, Mapping[str, Any]] = field(default_factory=dict[Key, Mapping[str, Any]])
    shares: bool = True
    shared: SharedCalls = field(default_factory=SharedCalls)
    called: list[str] = field(default_factory=list[str])

    def knowing(self, results: Mapping[Key, Mapping[str, Any]]) -> Rules:
        """The same rules for a rollout that has results of its own."""
        return replace(self, results={**self.results, **results}) if results else self


class _Task:
    """Calls of one task of the graph that are under way, and those among them that wait to be held."""

    def __init__(self) -> None:
        self.running: list[tuple[Effect, asyncio.Task[Any] | None]] = []
        self.holding = 0
        self._changed = asyncio.Event()

    @property
    def performs(self) -> bool:
        """Whether an external call is among them."""
        return any(effect is Effect.EXTERNAL for effect, _ in self.running)

    def change(self) -> None:
        """Wake up who waits for a change. Nothing is awaited here: it has to work under every cancellation."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()


class Guard:
    """Decides over the tool calls of one rollout.

    It lives on the event loop of the rollout. A call from another thread has to come through that loop.

    Args:
        rules: What it shares with the other rollouts.
        journal: Told of WRITE calls; None where nothing outlives the process anyway.

    Attributes:
        held: External calls that the rollout was stopped before.
        asking: Approved calls whose tool asks a person before it acts: they stay approved.
        results: What came of the calls that were made.
    """

    def __init__(self, rules: Rules, journal: WriteJournal | None = None) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.thread: int = threading.get_ident()
        self.held: dict[Key, HeldCall] = {}
        self.asking: dict[Key, HeldCall] = {}
        self._kept: dict[Key, Mapping[str, Any]] = dict(rules.results)
        self._seen: dict[Key, Any] = {}
        self._rules = rules
        self._journal = journal
        self._tasks: dict[str, _Task] = {}
        self._assigned: dict[Key, HeldCall] = {}
        self._write = asyncio.Lock()
        self._numbers: dict[int, tuple[object, Counter[Key]]] = {}
        self._came_by = False
        self._attempt = 0
        self._inside: WeakSet[Inside] = WeakSet()
        self._closed = False

    @property
    def results(self) -> dict[Key, Mapping[str, Any]]:
        """Results of the calls that were made, as they are kept; each is packed once, whoever asks, and how often."""
        for key, result in self._seen.items():
            if key not in self._kept:
                self._kept[key] = stored(result)
        return dict(self._kept)

    @property
    def still(self) -> asyncio.Lock:
        """Held while no WRITE call runs, and none can begin."""
        return self._write

    @property
    def request(self) -> str:
        """What the ledger keeps the whole request by."""
        return self._rules.request

    @property
    def repeatable(self) -> list[str]:
        """Names of tools that may run again when their task does."""
        return [name for name, known in self._rules.effects.items() if known.effect is Effect.READ]

    def effect_of(self, tool: str) -> ToolEffect:
        """What a tool does to the world."""
        return self._rules.effects.get(tool) or _unknown(tool)

    async def call(self, call: Call, run: Run, *, shareable: bool) -> Any:
        """Make a call, or give what came of it before, or stop the rollout before it.

        Args:
            call: The call.
            run: Makes it.
            shareable: Whether nothing but its arguments reaches the tool.

        Raises:
            GraphInterrupt: The rollout stops here; the record of the call is in `held`.
            Exception: What the tool raised.
        """
        if self._closed or _attempt.get() != self._attempt:  # of a task, or a thread, that was left behind
            raise GraphInterrupt((_interrupt(),))
        if Effect.EXTERNAL in enclosing_effects():  # whoever approved that call approved what it does
            return await run()
        task = self._tasks.setdefault(call.namespace, _Task())
        mine = (self.effect_of(call.tool).effect, asyncio.current_task())
        task.running.append(mine)
        try:
            return await self._decided(call, run, shareable)
        except _Hold as hold:
            self.held[call.key] = hold.call
            await self._until_the_others_are_done(task, call.namespace)
            raise GraphInterrupt((_interrupt(),)) from None
        finally:
            task.running.remove(mine)
            task.change()

    @property
    def haunted(self) -> bool:
        """Whether the code of a call may still run: a thread goes on when its call was cut off."""
        return bool(self._inside)

    def begin_again(self) -> None:
        """Belong to a further attempt, made in this context; threads that an earlier one left make calls no more."""
        self._attempt += 1
        _attempt.set(self._attempt)
        self.held.clear()
        self.asking.clear()

    def numbered(self, call: Call, execution: object) -> Call:
        """A call without an id, told from equal ones by its number.

        Args:
            call: The call.
            execution: What stands for one execution of its task: when the task runs again, numbers begin anew.
        """
        _, numbers = self._numbers.setdefault(id(execution), (execution, Counter()))
        numbers[call.key] += 1
        return replace(call, id=f"{NUMBERED}{numbers[call.key]}")

    @property
    def performs(self) -> bool:
        """Whether an external call is being made, or waited for."""
        return any(task.performs for task in self._tasks.values())

    async def performed(self) -> None:
        """Wait until no external call is being made, or waited for."""
        while self.performs:
            for task in [*self._tasks.values()]:
                await task.until(lambda task=task: not task.performs)

    @property
    def lost(self) -> bool:
        """Whether a task that was held is so again, and made none of the approved calls: it would go on for ever.

        A later task may be held all the same: another process may have lived to make the approved calls.
        """
        again = {held.call.namespace for held in self._rules.approved}
        return not self._came_by and any(held.call.namespace in again for held in self.held.values())

    async def close(self, *, failed: bool = False) -> None:
        """Let no call begin any more, and wait for those that a task left behind.

        Args:
            failed: Nobody will ask what came of them: they are cancelled, but for external ones, whose result counts.
        """
        self._closed = True
        for task in self._tasks.values():
            for effect, call in task.running:
                if failed and call is not None and effect is not Effect.EXTERNAL:
                    call.cancel()
            await task.until(lambda task=task: not task.running)

    async def _decided(self, call: Call, run: Run, shareable: bool) -> Any:
        if call.key in self._seen:
            return addressed(self._seen[call.key], call)
        if call.key in self._kept:
            return restored(self._kept[call.key], call)
        known = self.effect_of(call.tool)
        run = enclosed(run, call.namespace, known.effect, self._inside)
        if known.effect is Effect.EXTERNAL:
            return await self._external(call, run, known)
        if known.effect is Effect.WRITE and Effect.WRITE not in enclosing_effects():
            return await self._written(call, run)
        if shareable and known.shareable and self._rules.shares:
            result = await self._rules.shared.once(("", "", call.digest), run, share_errors=False)
            result = addressed(result, call) if not isinstance(result, Command) else await run()
        else:
            result = await run()
        self._seen[call.key] = result  # stored only where a rollout is held or branches: most calls never run again
        return result

    async def _written(self, call: Call, run: Run) -> Any:
        async with self._write:
            if self._journal:
                await self._journal.before(call)
            try:
                result = await run()
            except Exception:
                if self._journal:
                    await self._journal.after(call, None)
                raise
            self._seen[call.key] = result
            if self._journal:
                await self._journal.after(call, stored(result))
            return result

    async def _external(self, call: Call, run: Run, known: ToolEffect) -> Any:
        if Effect.WRITE in enclosing_effects():
            raise EffectError(
                f"the tool {call.tool!r} may touch the real world and is called inside a tool that is declared WRITE, "
                "which would have to run again: declare the outer tool EXTERNAL"
            )
        approved = self._approved(call)
        if approved is None:
            raise _Hold(HeldCall(call=call, idempotent=known.idempotent))
        external = approved.external(self._rules.request, call.arguments)
        if external.digest != approved.call.digest and not await self._on_record(external):
            raise _Hold(HeldCall(call=call, idempotent=known.idempotent))
        self._came_by = True
        shared = self._rules.shared.once(
            ("external", str(external.position), call.digest), lambda: self._performed(external, run), share_errors=True
        )
        try:
            outcome = await shared
        except GraphInterrupt:  # the tool itself asks a person, and stays approved until it is answered
            self.asking[call.key] = approved
            raise
        match outcome:
            case Done(value=value):
                self._kept[call.key] = value
                return restored(value, call)
            case Failed(error=line, exception=error):
                raise error or ToolException(line)
            case GivenUp(reason=reason):
                return refused(f"This call was not made: {reason or 'a person decided against it'}", call)
            case InDoubt() as doubt:
                raise _Hold(HeldCall(
                    call=call, idempotent=external.idempotent, position=external.position, question=doubt.question()
                ))  # fmt: skip
            case _:
                raise AssertionError(f"{outcome} is waited for")

    async def _performed(self, external: ExternalCall, run: Run) -> Outcome:
        async def kept() -> Any:
            self._rules.called.append(external.tool)  # before it is: nobody may live to see what comes of it
            try:
                return stored(await run(), self._rules.settings.max_result_characters)
            except GraphBubbleUp:  # it asks first
                self._rules.called.remove(external.tool)
                raise

        def made() -> Coroutine[Any, Any, Outcome]:
            return perform(
                self._rules.ledger, external, kept, settings=self._rules.settings, control_flow=(GraphBubbleUp,)
            )

        while True:
            outcome = await soon_to_the_end(made())
            if not isinstance(outcome, Pending):
                if not isinstance(outcome, GivenUp):
                    self._rules.called.append(external.tool)
                return outcome
            await asyncio.sleep(min(max(outcome.retry_after_seconds, 0.05), _LONGEST_WAIT_SECONDS))

    def _approved(self, call: Call) -> HeldCall | None:
        """The approved call that this one is: the very same, else one with its digest, else the next at this place."""
        if call.key in self._assigned:
            return self._assigned[call.key]
        here = [held for held in self._rules.approved if held.call.namespace == call.namespace]
        free = [held for held in here if held not in self._assigned.values()]
        chosen = next((held for held in here if held.call.key == call.key), None)
        chosen = chosen or next((held for held in free if held.call.digest == call.digest), None)
        chosen = chosen or next(iter(free), None)
        if chosen:
            self._assigned[call.key] = chosen
        return chosen

    async def _on_record(self, external: ExternalCall) -> bool:
        """Whether any call at all is on record at its position."""
        return await self._rules.ledger.transact(external.position, lambda records, _: Change(answer=bool(records)))

    async def _until_the_others_are_done(self, task: _Task, namespace: str) -> None:
        """A task ends with its first interrupt; what else it runs must not be left to run behind our back."""
        waiting = 1 + enclosing_namespaces().count(namespace)
        task.holding += waiting
        try:
            await asyncio.sleep(0)  # all calls of a task begin at once
            task.change()
            await task.until(lambda: len(task.running) <= task.holding)
        finally:
            task.holding -= waiting


@dataclass(frozen=True, slots=True)
class _Hold(Exception):
    """The rollout is to be stopped before this call."""

    call: HeldCall


_attempt: ContextVar[int] = ContextVar("entcent_agents_attempt", default=0)
"""Which attempt of its rollout this code belongs to, from 0."""

current_guard: ContextVar[Guard | None] = ContextVar("entcent_agents_guard", default=None)
"""The guard of the rollout in which this code runs."""


def inside_a_rollout() -> bool:
    """Whether what this code does happens in a rollout, which may be lost; what an external call does is real."""
    return current_guard.get() is not None and Effect.EXTERNAL not in enclosing_effects()


@contextmanager
def use_guard(guard: Guard) -> Generator[None]:
    """Make this the guard of what runs in this context, whatever call of another rollout this is inside."""
    guarded, attempt = current_guard.set(guard), _attempt.set(0)
    try:
        with enclosed_by_none():
            yield
    finally:
        _attempt.reset(attempt)
        current_guard.reset(guarded)


def _unknown(tool: str) -> ToolEffect:
    return ToolEffect(
        tool=tool, effect=Effect.EXTERNAL, idempotent=False, environment=None, shareable=False, source="unknown"
    )


def _interrupt() -> Interrupt:
    return Interrupt(value=HELD)
