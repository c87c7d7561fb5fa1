"""Candidate turns: made at once, each out of sight."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from langchain.agents.middleware import ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.errors import GraphBubbleUp

from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.chat.answering import use_answering
from entcent_agents.chat.sampling import rollout_index
from entcent_agents.middleware.commands import Commands, Handler, with_own_commands
from entcent_agents.middleware.requests import own_request
from entcent_agents.outcomes import outcome_key
from entcent_agents.rollouts.isolation import ambient_config, ambient_recorders, silent_config
from entcent_agents.rollouts.overlay import OverlayStore, StoreWrite
from entcent_agents.rollouts.rollout import PROGRAMMING_ERRORS
from entcent_agents.trajectory import Rollout, Status, Trajectory, Turn, Usage

Call = Callable[[Handler, Any], Awaitable[Any]]
"""Calls a handler with a request."""


@dataclass(slots=True, kw_only=True)
class Candidate:
    """What became of one call of the handler.

    Attributes:
        index: Its number, from 0.
        response: What the handler gave; None where it failed.
        error: With what it failed.
        turn: The generation; None where no model made it.
        usage: Of all its model calls.
        commands: What middleware further in wants to have written to the state.
        events: What it wrote to the `custom` stream.
        store_writes: What it wrote to the store.
    """

    index: int
    response: ModelResponse[Any] | None = None
    error: Exception | None = None
    turn: Turn | None = None
    usage: Usage = field(default_factory=Usage)
    commands: Commands = field(default_factory=Commands)
    events: list[Any] = field(default_factory=list[Any])
    store_writes: list[StoreWrite] = field(default_factory=list[StoreWrite])

    @property
    def message(self) -> AIMessage | None:
        """What the model said."""
        said = self.response.result if self.response else ()
        return next((message for message in said if isinstance(message, AIMessage)), None)

    @property
    def status(self) -> Status:
        """`unfinished` where the agent could not go on from it: what does not parse, or says nothing."""
        if self.response is None or self.message is None:
            return "failed"
        refused = any(isinstance(message, ToolMessage) for message in self.response.result)
        silent = not (self.message.content or self.message.tool_calls)
        if self.message.invalid_tool_calls or ((refused or silent) and self.response.structured_response is None):
            return "unfinished"
        return "finished"

    def after(self, before: Trajectory) -> Rollout:
        """As selectors look at it: the trajectory so far with this turn at its end.

        A turn without log-probabilities stands for itself: it must not win by the turns before it.

        Args:
            before: The turns so far.
        """
        said = self.message
        scored = self.turn is not None and self.turn.scored_tokens
        trajectory = before if scored else Trajectory()
        calls = [(call["name"], call["args"]) for call in said.tool_calls] if said else []
        return Rollout(
            index=self.index,
            thread_id="",
            status=self.status,
            trajectory=trajectory.append(self.turn) if self.turn else trajectory,
            usage=self.usage,
            vote_key=outcome_key(calls, str(said.text)) if said else None,
        )


async def run_candidates(request: ModelRequest[Any], handler: Handler, call: Call, n: int) -> list[Candidate]:
    """Call the handler n times at once; what goes wrong in one is data.

    Args:
        request: What the model is asked.
        handler: The middleware further in, and the model.
        call: How to call it.
        n: How many candidates.

    Raises:
        Exception: Cancellation, graph bubble-ups and programming errors alone, after all candidates were stopped.
    """
    around = rollout_index.get() * n  # rollouts around this agent share a pool, and it is by this number in order
    candidates = [Candidate(index=index) for index in range(n)]
    try:
        async with asyncio.TaskGroup() as group:
            for candidate in candidates:
                group.create_task(_run(candidate, request, handler, call, around))
    except BaseExceptionGroup as stopped:
        raise stopped.exceptions[0] from None
    if any(candidate.response is None and candidate.error is None for candidate in candidates):
        raise asyncio.CancelledError  # what was asked was ended from elsewhere; a task group takes that for an end
    return candidates


async def _run(candidate: Candidate, request: ModelRequest[Any], handler: Handler, call: Call, around: int) -> None:
    """In a task of its own, so that the context variables are its own too."""
    recorder, recorders = TurnRecorder(), ambient_recorders()
    handler, candidate.commands = with_own_commands(handler)
    store = None if request.runtime.store is None else OverlayStore(request.runtime.store)
    runtime = request.runtime.override(stream_writer=candidate.events.append, store=store)
    rollout_index.set(around + candidate.index)
    try:
        # Branches of rollouts around this agent are not for candidates: a rollout has one answer at a time.
        with ambient_config(silent_config([recorder], runtime)), use_answering(None):
            candidate.response = await call(handler, own_request(request, runtime))
    except (GraphBubbleUp, *PROGRAMMING_ERRORS):
        raise
    except Exception as error:
        candidate.error = error
    finally:
        recorder.close()
    candidate.usage = recorder.usage
    candidate.store_writes = store.writes if store else []
    if message := candidate.message:
        message.id = message.id or str(uuid4())  # by which its turn is known among the agent's messages
        candidate.turn = _turn_of(message, [recorder, *recorders])


def _turn_of(message: AIMessage, recorders: Sequence[TurnRecorder]) -> Turn | None:
    """As the first recorder has it that has its log-probabilities: one around this agent may have taken them out."""
    turns = [turn for recorder in recorders if (turn := recorder.turn_of(message))]
    turn = next((turn for turn in turns if turn.logprobs), turns[0] if turns else None)
    return turn and replace(turn, message_id=str(message.id))
