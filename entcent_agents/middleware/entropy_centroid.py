"""`EntropyCentroidMiddleware`: best of n at each step of `create_agent`."""

from __future__ import annotations

import asyncio
from abc import ABCMeta
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from operator import add
from typing import Annotated, Any, Final, Literal, NoReturn, NotRequired

from langchain.agents.middleware import AgentMiddleware, AgentState, ExtendedModelResponse, ModelRequest, ModelResponse
from langchain.agents.middleware.types import PrivateStateAttr
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AnyMessage
from langgraph.types import Command, Overwrite

from entcent_agents.blocking import run_sync
from entcent_agents.chat.sampling import SamplingPool, current_pool, is_plain, own_calls, use_pool
from entcent_agents.errors import ConfigurationError
from entcent_agents.middleware.asking import asking, asking_further_in, sampled_anew
from entcent_agents.middleware.candidates import Call, Candidate, run_candidates
from entcent_agents.middleware.commands import Handler, keep_commands, with_asked
from entcent_agents.rollouts.counts import require_count
from entcent_agents.rollouts.events import sampling_event, step_event
from entcent_agents.rollouts.overlay import StoreWrite, apply_writes, apply_writes_now
from entcent_agents.selection import Selection, Selector, require_scorable
from entcent_agents.selection.asking import chosen, selector_or_default
from entcent_agents.telemetry.lines import log_step
from entcent_agents.trajectory import Rollout, Trajectory, Turn

Scope = Literal["request", "thread"]
_SCOPES: Final = ("request", "thread")


class TurnsState(AgentState[Any]):
    """The state of an agent with this middleware: the turns that were committed, without a word of what they say."""

    entcent_turns: NotRequired[Annotated[list[dict[str, Any]], PrivateStateAttr, add]]


class _NoInstance:
    def __get__(self, instance: object, owner: object) -> NoReturn:
        raise ConfigurationError("pass an instance of the middleware, not its class: EntropyCentroidMiddleware(n=4)")


class _AskedForHooks(ABCMeta):
    """LangChain asks the class of what it is given for its hooks; where the class itself was given, this one."""

    wrap_tool_call: _NoInstance = _NoInstance()


# Of any state: checkers then let it stand with others.
class EntropyCentroidMiddleware(AgentMiddleware[Any, Any, Any], metaclass=_AskedForHooks):
    """At each step of an agent, samples n candidate turns at once and commits one; only its tools run.

    Each candidate is scored at the end of the trajectory so far. Candidates that call the same tools in the same way,
    or answer the same, are merged first; their votes count. Streams, messages and the state show the winner alone, and
    its message comes whole. Where the chat model is `ChatLogprobs` the n calls are one request. The model is asked for
    log-probabilities, unless you set how.

    Args:
        n: How many candidates; 1 leaves the agent as it is.
        selector: How to choose; default: what `default_selector` says.
        scope: Which turns before this one count: those since the last message of the user (`request`), or all of the
            thread (`thread`).
        on_unscorable: What to do where no candidate carries log-probabilities: `error`, or let the selector decide all
            the same (`fallback`).
        seed: Makes sampling repeatable where the server is deterministic (with `ChatLogprobs`).

    Raises:
        ConfigurationError: On settings that cannot work; at a step, before any call, if the model's provider gives no
            log-probabilities.
        LogprobsMissingError: At a step, see `on_unscorable`.
        Exception: At a step, what the first candidate raised, where all of them failed.

    Example:
        >>> from entcent_agents import EntropyCentroidMiddleware, ScriptedChat, ScriptedTurn
        >>> from langchain.agents import create_agent
        >>> hesitant = [ScriptedTurn(text="Adelie?", entropy=[0.9] * 9)]
        >>> sure = [ScriptedTurn(text="Gentoo.", entropy=[0.1] * 9)]
        >>> model = ScriptedChat(scripts=[hesitant, sure])
        >>> agent = create_agent(model, middleware=[EntropyCentroidMiddleware(n=2)])
        >>> agent.invoke({"messages": [("user", "Which are the heaviest?")]})["messages"][-1].text
        'Gentoo.'
    """

    state_schema: type[Any] = TurnsState

    def __init__(
        self,
        n: int = 4,
        *,
        selector: Selector | None = None,
        scope: Scope = "request",
        on_unscorable: Literal["error", "fallback"] = "error",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        require_count(n, "candidates")
        if scope not in _SCOPES:
            raise ConfigurationError(f"scope={scope!r} must be 'request' or 'thread'")
        if on_unscorable not in ("error", "fallback"):
            raise ConfigurationError(f"on_unscorable={on_unscorable!r} must be 'error' or 'fallback'")
        self.n = n
        self.selector: Selector = selector_or_default(selector)
        self.scope: Scope = scope
        self.on_unscorable = on_unscorable
        self.seed = seed

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Sample the candidates of a step, and give on the selected one."""
        if self._is_alone:
            return await handler(request)
        response, writes = await self._step(request, handler, lambda handler, request: handler(request))
        if request.runtime.store:
            await apply_writes(request.runtime.store, writes)
        return response

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """The same in synchronous code, each candidate in a thread."""
        if self._is_alone:
            return handler(request)
        step = self._step(request, handler, lambda handler, request: asyncio.to_thread(handler, request))
        response, writes = run_sync(step)
        if request.runtime.store:
            apply_writes_now(request.runtime.store, writes)
        return response

    @property
    def _is_alone(self) -> bool:
        """Nothing to choose from: one candidate is wanted, or a rollout around this agent is a plain run."""
        return self.n == 1 or is_plain()

    async def _step(
        self, request: ModelRequest[Any], handler: Handler, call: Call
    ) -> tuple[ExtendedModelResponse[Any], list[StoreWrite]]:
        """The selected turn, and what its candidate wrote to the store."""
        before = _turns_so_far(request.state, self.scope)
        request.runtime.stream_writer(sampling_event(turn=len(before), n=self.n))  # the first sign of a long wait
        pool = nullcontext() if current_pool() else use_pool(SamplingPool(self.seed))
        with pool, own_calls():
            asked = asking(sampled_anew(request), required=self.on_unscorable == "error")
            asking_model = with_asked(handler, partial(self._asked, asked.model))
            candidates = await run_candidates(asked, asking_model, call, self.n)
        selection, rollouts = self._selected(candidates, Trajectory(turns=tuple(before)))
        winner = candidates[selection.winner or 0]
        assert winner.response is not None
        keep_commands(handler, winner.commands)
        for event in winner.events:
            request.runtime.stream_writer(event)
        usages = [candidate.usage for candidate in candidates]
        event = step_event(selection, rollouts, usages, turn=len(before))
        log_step(event)
        request.runtime.stream_writer(event)
        update = {"entcent_turns": _turns_update(request.state, before, winner.turn)}
        response = ExtendedModelResponse(model_response=winner.response, command=Command(update=update))
        return response, winner.store_writes

    def _asked(self, known: BaseChatModel, request: ModelRequest[Any]) -> ModelRequest[Any]:
        """What a candidate's model is asked, whichever the middleware further in chose for it."""
        if request.model is known:  # it was asked before there were candidates
            return request
        return sampled_anew(asking_further_in(request, required=self.on_unscorable == "error"))

    def _selected(self, candidates: Sequence[Candidate], before: Trajectory) -> tuple[Selection, list[Rollout]]:
        """The selection, and what it was made from."""
        answered = [candidate for candidate in candidates if candidate.response is not None]
        if not answered:
            raise next(candidate.error for candidate in candidates if candidate.error)
        sound = [candidate for candidate in answered if candidate.status == "finished"] or answered
        sound = [candidate for candidate in sound if candidate.turn] or sound  # others may say what went wrong
        if self.on_unscorable == "error":
            spoken = {candidate.index for candidate in sound if candidate.message and candidate.message.text}
            alone = [candidate.after(Trajectory()) for candidate in sound]
            require_scorable(alone, lambda rollout: rollout.index in spoken)
        return chosen(self.selector, [candidate.after(before) for candidate in sound])


def _turns_so_far(state: Mapping[str, Any], scope: Scope) -> list[Turn]:
    """The recorded turns of the messages that the thread still has, in their order."""
    messages: Sequence[AnyMessage] = state["messages"]
    if scope == "request":
        said = [index for index, message in enumerate(messages) if message.type == "human"]
        messages = messages[said[-1] :] if said else messages
    recorded = {record["message_id"]: record for record in state.get("entcent_turns") or ()}
    return [Turn.from_dict(recorded[message.id]) for message in messages if message.id in recorded]


def _turns_update(state: Mapping[str, Any], before: Sequence[Turn], turn: Turn | None) -> Any:
    """The turn that is new; where others do not count any more, all that do. Updates are streamed, hence no more."""
    new = [turn.to_dict()] if turn else []
    if len(before) == len(state.get("entcent_turns") or ()):
        return new
    return Overwrite([*(turn.to_dict() for turn in before), *new])
