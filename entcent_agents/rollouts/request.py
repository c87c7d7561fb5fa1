"""What the rollouts of a round have in common: the agent, its input, and what they go on from."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.store.base import BaseStore

from entcent_agents.budget import Budget
from entcent_agents.environments import Environment
from entcent_agents.errors import RolloutError
from entcent_agents.rollouts.branching import Tree
from entcent_agents.rollouts.calls import HeldCall, Key
from entcent_agents.rollouts.cleanup import Lingering
from entcent_agents.rollouts.gate import Gate
from entcent_agents.rollouts.guard import Rules
from entcent_agents.rollouts.isolation import Channel, Graph
from entcent_agents.rollouts.packing import unpack
from entcent_agents.rollouts.retries import Retries
from entcent_agents.rollouts.stopping import Stopping
from entcent_agents.rollouts.store import RolloutStore
from entcent_agents.trajectory import Rollout, Spent, Trajectory, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """An interrupt of the agent's graph, to be put to a person.

    Attributes:
        id: Of LangGraph; None for a breakpoint, which takes no answer.
        value: What is asked.
        schema: JSON Schema of the answer, where the graph gives one.
    """

    id: str | None
    value: Any
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The held rollout that a round goes on from.

    Attributes:
        thread_id: Its thread, which stays as it is: rollouts go on with copies.
        request: What the ledger keeps the whole request by.
        round: The number of its round, from 1.
        trajectory: Its turns; those of the rollouts begin with them.
        held: The external calls that it stopped before. To go on from it is to approve them.
        questions: The interrupts that it stopped at.
        results: Of calls that ran in tasks which have to run again.
        last_message: The conversation's last message when this had been committed; None where there was none.
        spent: What the request had used by then.
    """

    thread_id: str
    request: str
    round: int
    trajectory: Trajectory
    held: tuple[HeldCall, ...]
    questions: tuple[Question, ...]
    results: Mapping[Key, Mapping[str, Any]]
    last_message: BaseMessage | None
    spent: Spent = field(default_factory=Spent)

    @classmethod
    def of(cls, rollout: Rollout) -> Self:
        """Read the record of a rollout that was selected while it was held."""
        output = unpack(rollout.output or "")
        return cls(
            thread_id=rollout.thread_id,
            request=output["request"],
            round=output["round"],
            trajectory=rollout.trajectory,
            held=tuple(HeldCall.from_dict(held) for held in output["held"]),
            questions=tuple(Question(**question) for question in output["questions"]),
            results={tuple(key): value for key, value in output["results"]},
            last_message=output["last_message"],
            spent=rollout.spent or Spent(),
        )

    def ends(self, state: Mapping[str, Any]) -> bool:
        """Whether a conversation still ends where the rollout is held; what is before may have been trimmed or added.

        Raises:
            RolloutError: It does, and what is said there was changed: the rollout would go on with what stood there
                before.
        """
        messages, then = state.get("messages"), self.last_message
        if messages is None or not (messages and then):
            return messages is None or not (messages or then)
        now: BaseMessage = messages[-1]
        if now.id == then.id and (now.content, _calls(now)) != (then.content, _calls(then)):
            raise RolloutError(
                f"the message {now.id} was changed while the rollout that ends with it is held: change a call in the "
                "answer to a question about it (HumanInTheLoopMiddleware takes edits), or send a new message"
            )
        return now.id == then.id


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRequest:
    """What all rollouts of one round share.

    Attributes:
        agent: The graph to run.
        state: Its input.
        channels: Those that a commit writes to.
        config: Configuration of the node that runs the rollouts.
        context: The user's runtime context, handed on as it is.
        store: Where rollouts keep their threads.
        memory: The real LangGraph store, or None.
        environments: What every rollout gets forks of.
        thread_prefix: Thread ids are this and the rollout's index.
        recursion_limit: Most supersteps of a rollout; None: as many as the agent has by itself.
        retries: Of model calls that fail for a passing reason.
        rules: What tools may do.
        budget: What all rounds together may use.
        lent: Indices of rollouts that it may be lent; its own come before them.
        gate: Where model calls wait for the budget's tokens and cost; None where it limits neither.
        resumable: Whether another process may go on with them.
        base: What the rollouts go on from; None at the beginning.
        answers: What a person answered to the base's questions, by their ids.
        errors: What rollouts failed with in this process, by their indices.
        begun: When the round began, by `time.monotonic`.
        late: What all model calls that took too long have as their cause.
        lingering: Where rollouts that were cut off are left to end.
        used: What rollouts used that have ended, however they did, by their indices.
        tree: How they branch; None where they do not.
        stopping: What ends rollouts early; None: nothing does.
    """

    agent: Graph
    state: Mapping[str, Any]
    channels: Mapping[str, Channel]
    config: RunnableConfig
    context: Any
    store: RolloutStore
    memory: BaseStore | None
    environments: Sequence[Environment]
    thread_prefix: str
    recursion_limit: int | None
    retries: Retries
    rules: Rules
    budget: Budget = field(default_factory=Budget)
    lent: range = range(0)
    gate: Gate | None = None
    resumable: bool = False
    base: Base | None = None
    answers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    errors: dict[int, Exception] = field(default_factory=dict[int, Exception])
    begun: float = field(default_factory=lambda: time.monotonic())  # looked up then, as a test may put it forward
    late: Exception = field(default_factory=lambda: TimeoutError("a model call of this round took too long"))
    lingering: Lingering = field(default_factory=Lingering)
    used: dict[int, Usage] = field(default_factory=dict[int, Usage])
    tree: Tree | None = None
    stopping: Stopping | None = None

    def thread_id(self, index: int) -> str:
        """The thread of one rollout."""
        return f"{self.thread_prefix}:{index}"

    @property
    def spent(self) -> Spent:
        """What the request used in the rounds before this one."""
        return self.base.spent if self.base else Spent()

    def spent_so_far(self) -> Spent:
        """What it has used with those rollouts of this round that have ended, however they did."""
        return Spent(
            usage=sum(self.used.values(), self.spent.usage),
            rollouts=self.spent.rollouts + len(self.used),
            borrowed=self.spent.borrowed + sum(index in self.lent for index in self.used),
            rounds=self.spent.rounds,
            seconds=self.spent.seconds + time.monotonic() - self.begun,
            seconds_to_first_visible=self.spent.seconds_to_first_visible,
        )

    @property
    def round(self) -> int:
        """The number of this round of the request."""
        return self.base.round + 1 if self.base else 1

    @property
    def turns_before(self) -> int:
        """How many turns the rollouts go on from."""
        return len(self.base.trajectory.turns) if self.base else 0

    @property
    def messages(self) -> Sequence[BaseMessage]:
        """The conversation so far."""
        return self.state.get("messages", ())


def _calls(message: BaseMessage) -> Any:
    return getattr(message, "tool_calls", None)
