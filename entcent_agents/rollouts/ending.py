"""How a rollout ended, read off its thread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage
from langgraph.types import Command, StateSnapshot

from entcent_agents.capture.recorder import TurnRecorder
from entcent_agents.environments import Change
from entcent_agents.outcomes import outcome_key
from entcent_agents.rollouts.calls import HeldCall
from entcent_agents.rollouts.guard import HELD, Guard
from entcent_agents.rollouts.isolation import Graph, schemas_of
from entcent_agents.rollouts.output import is_answered, state_updates
from entcent_agents.rollouts.packing import pack
from entcent_agents.rollouts.request import Question, RolloutRequest
from entcent_agents.trajectory import Status, Trajectory

BREAKPOINT: Final = "breakpoint"
"""`kind` of the question that stands for a breakpoint which the agent was compiled with."""


@dataclass(slots=True)
class Ending:
    """What became of a rollout.

    Attributes:
        status: As in its record.
        error: Why it has neither an answer nor anything to ask or approve.
        messages: Those that it added to the agent's, those of interrupted subgraphs included.
        held: External calls that it was stopped before.
        questions: Interrupts that it was stopped at.
        handoff: The command that it ended with, to a node of the graph around it.
        changes: What it changed in its environments.
        values: The state that it left.
    """

    status: Status = "failed"
    error: str | None = None
    messages: Sequence[BaseMessage] = ()
    held: tuple[HeldCall, ...] = ()
    questions: tuple[Question, ...] = ()
    handoff: Command[Any] | None = None
    changes: tuple[Change, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def number(self, rollout: str, turn: int) -> None:
        """Give what it is held before its positions in the ledger."""
        self.held = tuple(held.at(rollout, turn, ordinal) for ordinal, held in enumerate(self.held))

    @property
    def vote_key(self) -> str | None:
        """What it came to: what it changed and wants to call or ask, else what it answered."""
        # Changes are compared as calls are: who was acted on, and what was done to it.
        acts: list[tuple[str, Any]] = [
            (change.target, [change.subject, change.what, change.digest]) for change in self.changes
        ]
        acts += [(held.call.tool, dict(held.call.arguments)) for held in self.held]
        acts += [("interrupt", [question.value]) for question in self.questions]
        if self.handoff:
            acts += [("handoff", [str(self.handoff.goto)])]
        if self.status == "held" or self.handoff:
            return outcome_key(acts, "")
        last = str(self.messages[-1].text) if self.messages else ""
        return outcome_key(acts, last) if self.status == "finished" else None


def read_ending(snapshot: StateSnapshot, request: RolloutRequest, guard: Guard, handoff: Command[Any] | None) -> Ending:
    """What a rollout's thread says, once nothing runs on it any more."""
    questions = () if handoff else tuple(_questions(snapshot))
    held = any(interrupt.value == HELD for interrupt in _interrupts(snapshot))
    known = {message.id for message in request.messages}
    messages: Sequence[BaseMessage] = snapshot.values.get("messages", ())
    ending = Ending(
        messages=[message for message in (*messages, *_unfinished_messages(snapshot)) if message.id not in known],
        values=snapshot.values,
        handoff=handoff,
    )
    if guard.held and not held:
        ending.status = "unfinished"
        ending.error = (
            "the interrupt that held an external call did not arrive: let langgraph.errors.GraphBubbleUp pass where a "
            "node or middleware catches it, and give a sub-agent behind a tool no thread_id of its own"
        )
    elif guard.lost:
        ending.status = "unfinished"
        ending.error = (
            "a call that was approved is another when its node runs again, and could be held for ever: make it in a "
            "node, or a tool node, that gets its arguments from the state"
        )
    elif held or questions:
        ending.status, ending.questions = "held", questions
        ending.held = tuple(sorted({**guard.asking, **guard.held}.values(), key=lambda each: each.call.key))
    elif handoff or is_answered(ending.messages, schemas_of(request.agent)):
        ending.status = "finished"
    else:
        ending.status = "unfinished"
        ending.error = "ended with a tool call that has no result"
    return ending


def packed(
    ending: Ending, graph: Graph, request: RolloutRequest, before: Mapping[str, Any], guard: Guard, store: list[Any]
) -> str:
    """What a commit, and a round that goes on from here, need of it.

    Args:
        ending: How the rollout ended.
        graph: Its graph.
        request: Its request.
        before: The state of the agent that is committed already.
        guard: Its guard.
        store: What it wrote to the store.
    """
    return pack({
        # What a graph wrote before it hands over is lost but for what the command says, as it is in any graph.
        "state": {} if ending.handoff else _written(graph, request, before, ending.values),
        "handoff": ending.handoff,
        "store": store,
        "request": guard.request,
        "round": request.round,
        "base": request.base.thread_id if request.base else None,
        "last_message": next(iter(reversed(ending.values.get("messages", ()))), None),
        "held": [held.to_dict() for held in ending.held],
        "questions": [asdict(question) for question in ending.questions],
        "results": [[list(key), value] for key, value in guard.results.items()] if ending.status == "held" else [],
    })  # fmt: skip


def trajectory_of(messages: Sequence[BaseMessage], recorder: TurnRecorder, before: Trajectory) -> Trajectory:
    """The turns whose message the agent kept; for a rollout that failed early, all it made.

    Args:
        messages: Those that the rollout added.
        recorder: Of this rollout.
        before: What the rollout went on from.
    """
    made = recorder.turns.values()
    if messages:
        kept = (recorder.turn_of(message) for message in messages if isinstance(message, AIMessage))
        made = dict.fromkeys(turn for turn in kept if turn is not None)
    return Trajectory(turns=(*before.turns, *made))


def _written(
    graph: Graph, request: RolloutRequest, before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, Any]:
    """The difference in the channels that the agent gives out."""
    given = graph.output_channels
    outputs = {key: value for key, value in after.items() if key in ((given,) if isinstance(given, str) else given)}
    return state_updates(request.channels, before, outputs)


def _interrupts(snapshot: StateSnapshot) -> Iterable[Any]:
    return [interrupt for task in snapshot.tasks for interrupt in task.interrupts]


def _questions(snapshot: StateSnapshot) -> Iterable[Question]:
    asked = [interrupt for interrupt in _interrupts(snapshot) if interrupt.value != HELD]
    for interrupt in asked:
        yield Question(id=interrupt.id, value=interrupt.value, schema=interrupt.response_schema)
    if snapshot.next and not _interrupts(snapshot):
        yield Question(id=None, value={"kind": BREAKPOINT, "before": list(snapshot.next)})


def _unfinished_messages(snapshot: StateSnapshot) -> Iterable[BaseMessage]:
    """Messages of subgraphs that were interrupted, which have not reached the agent's own yet."""
    for task in snapshot.tasks:
        if isinstance(task.state, StateSnapshot):
            values = task.state.values
            yield from values.get("messages", ()) if isinstance(values, Mapping) else ()
            yield from _unfinished_messages(task.state)
