"""Model calls of any LangChain chat model wait here until the request's budget has room for them.

Checked against langchain-core 1.7.2, whose callbacks take three handlers to stand before every call:

- Before an asynchronous call inline callbacks are awaited one after another, then the others all at once. The first
  alone could wait too, but if it raised, the coroutines of those after it would be left behind. So the waiting is done
  by one that is not inline (`_Awaiting`).
- Before a synchronous call plain callbacks are called first, and what coroutines raise is lost. So a plain one
  (`_Blocking`) lets these calls through.
- The plain one is called before asynchronous calls too. It knows them by what an inline coroutine before it has seen
  (`_Marking`), which before synchronous calls comes too late.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.outputs import LLMResult

from entcent_agents.budget import Amount, Budget, Decision, Meter
from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.capture.usage import (
    counted_usage,
    generations_of,
    may_have_generated,
    price_of,
    whole_prompt_tokens,
)
from entcent_agents.errors import BudgetExceededError
from entcent_agents.rollouts.bounds import Bounds
from entcent_agents.trajectory import Usage

LONGEST_BLOCK_SECONDS: Final = 600.0
"""How long a thread waits for room at most. What it waits for may need a thread itself to come to its end."""

_Place = concurrent.futures.Future[None]
"""Of a call that wants to begin: has a result when it may, and an exception when it may not."""


class Gate:
    """Of one request: all its rollouts share it, on whatever loops and threads they make their calls.

    Args:
        budget: The request's.
        charged: What the request was charged before.
    """

    def __init__(self, budget: Budget, charged: Usage) -> None:
        self.budget = budget
        self.bounds: Bounds = Bounds(budget)
        self._meter = Meter(budget, Amount(tokens=charged.charged_tokens, cost=charged.charged_cost))
        self._places: dict[UUID, _Place] = {}

    def ask(self, call: UUID, most: Amount, *, waits: bool, turns: int) -> _Place:
        """Ask for room, for a rollout that has made so many turns; does not wait."""
        place = self._places[call] = _Place()
        self._tell(self._meter.ask(call, most, waits=waits, turns=turns))
        return place

    def settle(self, call: UUID, used: Amount | None) -> None:
        """The call is over; None: nobody knows what it used."""
        self._tell(self._meter.settle(call, used))

    def withdraw(self, call: UUID) -> None:
        """The call will not be made."""
        self._places.pop(call, None)
        self._tell(self._meter.withdraw(call))

    def _tell(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            place = self._places.pop(decision.call, None)  # type: ignore[call-overload]
            if place is None:
                continue
            with suppress(concurrent.futures.InvalidStateError):  # whoever gave up withdraws it
                if decision.refusal is None:
                    place.set_result(None)
                else:
                    place.set_exception(BudgetExceededError(decision.refusal))


@dataclass(frozen=True, slots=True)
class _Call:
    most: Amount
    place: _Place
    digest: bytes
    told: Mapping[str, Any]
    task: asyncio.Task[Any] | None


class Passage:
    """The way of one rollout's calls through the gate.

    Args:
        gate: The request's.
        recorder: Of the rollout: what the budget is charged becomes part of its usage.
        on_through: Told of each call that is let through.
    """

    def __init__(self, gate: Gate, recorder: TurnRecorder, on_through: Callable[[UUID], None] | None = None) -> None:
        self._on_through = on_through
        self._gate = gate
        self._recorder = recorder
        self._calls: dict[UUID, _Call] = {}
        self._lock = threading.RLock()
        self._closed = False

    @property
    def handlers(self) -> list[BaseCallbackHandler]:
        """To be called in this order."""
        kinds = _Kinds()
        return [_Marking(self, kinds), _Blocking(self, kinds), _Awaiting(self, kinds)]

    def begin(
        self,
        run_id: UUID,
        messages: Sequence[BaseMessage],
        told: Mapping[str, Any],
        *,
        waits: bool,
        task: asyncio.Task[Any] | None = None,
    ) -> _Place:
        """A call would like to begin.

        Args:
            run_id: Which.
            messages: Its prompt.
            told: What else LangChain tells of its start.
            waits: Whether it may wait for room.
            task: In which it is made. Of one that is cancelled nothing is heard: it is over when its task ends, or
                makes another one.

        Raises:
            CancelledError: The rollout is over.
            ConfigurationError: Nothing bounds what the call may use.
        """
        most, digest = self._gate.bounds.of(messages, told)
        batched = told.get("batch_size", 1) > 1  # the others of its batch begin with it: they cannot end before
        with self._lock:
            if self._closed:
                raise asyncio.CancelledError
            inside = told.get("parent_run_id") in self._calls  # of a chat model that asks another, and waits for it
            if task and not batched and not inside:
                self._over(task)
            if task and not batched:
                task.remove_done_callback(self._over)
                task.add_done_callback(self._over)
            may_wait = waits and not batched and not inside
            place = self._gate.ask(run_id, most, waits=may_wait, turns=len(self._recorder.turns))
            self._calls[run_id] = _Call(most, place, digest, told, task)
        return place

    def let_through(self, run_id: UUID) -> None:
        """A call got room, and begins."""
        if self._on_through:
            self._on_through(run_id)

    def give_up(self, run_id: UUID) -> None:
        """A call did not get room, or its caller does not want it any more."""
        with self._lock:
            call = self._calls.pop(run_id, None)
        self._recorder.forget(run_id)
        if call is not None:
            call.place.cancel()
            self._gate.withdraw(run_id)

    def end(self, run_id: UUID, response: LLMResult) -> None:
        """A call is over, and the server has counted it, or not."""
        call = self._calls.get(run_id)
        if call is None:
            return
        if self._recorder.gives_again(response):
            self._settle(run_id, Amount())
            return
        generations = [*generations_of(response)]
        counted = [usage for generation in generations if (usage := counted_usage(generation))]
        if len(counted) < len(generations) or not counted:
            self._settle(run_id, None)
            return
        if whole := whole_prompt_tokens(generations[0], call.told):
            self._gate.bounds.learn(call.digest, whole)
        self._settle(run_id, self._amount(sum(counted, Usage()), call.told))

    def fail(self, run_id: UUID, error: BaseException) -> None:
        """A call failed."""
        self._settle(run_id, None if may_have_generated(error) else Amount())

    def close(self) -> None:
        """The rollout is over: calls under way are charged in full, and no other begins."""
        with self._lock:
            self._closed = True
            waiting = [run_id for run_id, call in self._calls.items() if call.place.cancel() or call.place.exception()]
        for run_id in waiting:
            self.give_up(run_id)
        for run_id in [*self._calls]:
            self._settle(run_id, None)

    def _over(self, task: asyncio.Task[Any]) -> None:
        """Nothing more is heard of the calls that a task made."""
        for run_id, call in [*self._calls.items()]:
            if call.task is task and call.place.done():
                self._settle(run_id, None)

    def _settle(self, run_id: UUID, used: Amount | None) -> None:
        with self._lock:
            call = self._calls.pop(run_id, None)
        if call is None:
            return
        self._gate.settle(run_id, used)
        charged = call.most if used is None else used
        self._recorder.count(Usage(charged_tokens=charged.tokens, charged_cost=charged.cost))

    def _amount(self, usage: Usage, told: Mapping[str, Any]) -> Amount:
        price = price_of(told, self._gate.budget.prices)
        cost = 0.0
        if price is not None:
            cost = price.cost(
                prompt_tokens=usage.prompt_tokens,
                generated_tokens=usage.generated_tokens,
                cached_tokens=usage.cached_tokens,
            )
        return Amount(tokens=usage.prompt_tokens + usage.generated_tokens, cost=cost)


class _Kinds:
    """Which calls are asynchronous, with their tasks, and which are not."""

    def __init__(self) -> None:
        self.tasks: dict[UUID, asyncio.Task[Any] | None] = {}
        self.synchronous: set[UUID] = set()


class _Handler(BaseCallbackHandler):
    raise_error = True
    run_inline = True
    into_rollouts = True

    def __init__(self, passage: Passage, kinds: _Kinds) -> None:
        self._passage = passage
        self._kinds = kinds


class _Marking(_Handler, AsyncCallbackHandler):
    """Sees asynchronous calls before the others do."""

    async def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Remember its task."""
        if run_id not in self._kinds.synchronous:
            self._kinds.tasks[run_id] = asyncio.current_task()

    async def on_llm_start(self, serialized: Any, prompts: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """The same for models without messages."""
        await self.on_chat_model_start(serialized, prompts, run_id=run_id)


class _Blocking(_Handler):
    """Lets synchronous calls through, and hears how all of them end."""

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Block the thread until the call may begin; where that would block a loop, it begins at once or not at all."""
        self._through(run_id, messages[0], kwargs)

    def on_llm_start(self, serialized: Any, prompts: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """The same for models without messages."""
        self._through(run_id, [HumanMessage(prompts[0])], kwargs)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Give back what the call did not use."""
        self._passage.end(run_id, response)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Give back what the call cannot have used."""
        self._passage.fail(run_id, error)

    def _through(self, run_id: UUID, messages: Sequence[BaseMessage], told: Mapping[str, Any]) -> None:
        if run_id in self._kinds.tasks:
            return
        self._kinds.synchronous.add(run_id)
        try:
            self._passage.begin(run_id, messages, told, waits=not _on_a_loop()).result(LONGEST_BLOCK_SECONDS)
            self._passage.let_through(run_id)
        except BaseException as error:
            self._passage.give_up(run_id)
            if isinstance(error, concurrent.futures.CancelledError):  # threads are not cancelled, what they wait for is
                raise asyncio.CancelledError from None
            if isinstance(error, TimeoutError):
                raise BudgetExceededError(f"no room came in {LONGEST_BLOCK_SECONDS:g} s") from None
            raise


class _Awaiting(_Handler, AsyncCallbackHandler):
    """Lets asynchronous calls through."""

    run_inline = False

    async def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Wait until the call may begin."""
        await self._through(run_id, messages[0], kwargs)

    async def on_llm_start(self, serialized: Any, prompts: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """The same for models without messages."""
        await self._through(run_id, [HumanMessage(prompts[0])], kwargs)

    async def _through(self, run_id: UUID, messages: Sequence[BaseMessage], told: Mapping[str, Any]) -> None:
        if run_id in self._kinds.synchronous:
            self._kinds.synchronous.remove(run_id)
            return
        task = self._kinds.tasks.pop(run_id, None)
        try:
            await asyncio.wrap_future(self._passage.begin(run_id, messages, told, waits=True, task=task))
            self._passage.let_through(run_id)
        except BaseException:
            self._passage.give_up(run_id)
            raise


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
