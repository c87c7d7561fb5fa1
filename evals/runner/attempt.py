"""One rollout on its way: what the model was told and wrote, the world it acts on, and how it ended."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Final

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_openai_messages,
)
from langchain_core.messages.tool import tool_call

from entcent_agents.outcomes import outcome_key
from entcent_agents.trajectory import Branch, Rollout, Status, Trajectory, Usage
from evals.runner.models import Answer
from evals.store import StoredRollout
from evals.suites.protocol import (
    Allowance,
    Answered,
    Call,
    Message,
    Reply,
    Score,
    Suite,
    Task,
    ToolSpec,
    World,
    respond,
)

_DIGEST_BYTES: Final = 16


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One rollout of a task; it is driven from outside, by `prompt` and `take`.

    Attributes:
        index: Its number among the rollouts of the task.
        suite: Where the task is from.
        task: What is to be done.
        world: What its calls act on.
        instruction: A system message of the run.
        branch: Where it left another; None where it was begun anew.
    """

    index: int
    suite: Suite
    task: Task
    world: World
    instruction: str | None = None
    status: Status | None = None
    error: str | None = None
    seed: int | None = None
    branch: Branch | None = None
    messages: list[BaseMessage] = field(init=False)
    tools: tuple[ToolSpec, ...] = field(init=False)
    replies: list[Reply] = field(default_factory=list[Reply])
    _trajectory: Trajectory = field(default_factory=Trajectory)
    _usage: Usage = field(default_factory=Usage)
    _allowance: Allowance = field(init=False)
    _started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        said = [SystemMessage(self.instruction)] if self.instruction else []
        self.messages = [*said, *_spoken(self.task.messages)]
        self.tools = self.suite.tools(self.task, self.world)
        self._allowance = Allowance(self.task)

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be asked."""
        return self.status is not None

    @property
    def prompt(self) -> str:
        """Digest of everything that the model is told next; equal prompts share a request."""
        told = [convert_to_openai_messages(self.messages), [tool.as_openai() for tool in self.tools]]
        return blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=_DIGEST_BYTES).hexdigest()

    def take(self, answer: Answer) -> None:
        """Go on with what the model wrote, to its next prompt or to the end.

        Raises nothing: what a suite's world cannot bear fails this rollout alone.
        """
        self._trajectory = self._trajectory.append(answer.turn)
        self.count(answer)
        calls = answer.message.tool_calls
        reply = Reply(
            text=str(answer.message.text),
            calls=tuple(Call(name=call["name"], arguments=call["args"]) for call in calls),
        )
        self.replies.append(reply)
        if not self._allowance.permits(reply):
            self.status, self.error = "unfinished", f"still at it after {len(self.replies)} replies"
            return
        try:
            said = respond(self.task, self.world, reply)
            self._go_on(reply, said)
        except Exception as error:  # a world that breaks is this rollout's end
            self.fail(error)

    def count(self, answer: Answer) -> None:
        """Add what an answer used, whether it is taken or not."""
        self._usage += Usage(
            prompt_tokens=answer.prompt_tokens,
            generated_tokens=answer.turn.generated_tokens - answer.turn.reused_tokens,
            reused_tokens=answer.turn.reused_tokens,
            model_calls=1,
        )

    def with_next(self, answer: Answer, index: int) -> Rollout:
        """What a selector is to see of it with this answer, as a candidate of this number."""
        calls = [(call["name"], call["args"]) for call in answer.message.tool_calls]
        return Rollout(
            index=index,
            thread_id="",
            status="finished",
            trajectory=self._trajectory.append(answer.turn),
            vote_key=outcome_key(calls, str(answer.message.text)),
        )

    def branched(self, index: int, branch: Branch, seed: int | None) -> Attempt:
        """Another one that has come as far as this one, before it takes its next answer.

        Its turns up to here are reused, and its time began with theirs.

        Args:
            index: Its number.
            branch: Where it leaves this one.
            seed: Of the request for its own answer.
        """
        other = copy(self)
        other.index, other.branch, other.seed = index, branch, seed
        other.world = self.suite.fork(self.world)
        other.messages, other.replies = [*self.messages], [*self.replies]
        other._allowance = copy(self._allowance)
        turns = (replace(turn, reused_tokens=turn.generated_tokens) for turn in self._trajectory.turns)
        other._trajectory = Trajectory(turns=tuple(turns))
        other._usage = Usage(reused_tokens=sum(turn.reused_tokens for turn in other._trajectory.turns))
        return other

    def fail(self, error: Exception) -> None:
        """End it by an error."""
        self.status, self.error = "failed", f"{type(error).__name__}: {error}"

    def judged(self) -> StoredRollout:
        """It and what the checker says of it; the reward of one that failed is 0."""
        assert self.status is not None
        seconds = time.perf_counter() - self._started
        score, error = self._score()
        return StoredRollout(
            suite=self.task.suite,
            category=self.task.category,
            task=self.task.id,
            rollout=Rollout(
                index=self.index,
                thread_id="",
                status=self.status,
                trajectory=self._trajectory,
                usage=self._usage,
                seconds=seconds,
                error=error,
                vote_key=self._outcome(),
                branch=self.branch,
            ),
            reward=None if score is None else score.reward,
            reason="" if score is None else score.reason,
            derived={} if score is None else score.derived,
            replies=[_plain(reply) for reply in self.replies],
            seed=self.seed,
            ended_at=time.time(),
        )

    def _go_on(self, reply: Reply, said: Sequence[Message]) -> None:
        if not said:
            self.status = "finished"
            return
        # Ids of ours, the same for all rollouts: equal conversations are equal prompts.
        ids = [f"call_{len(self.replies)}_{place}" for place in range(len(reply.calls))]
        calls = [
            tool_call(name=call.name, args=dict(call.arguments), id=name)
            for call, name in zip(reply.calls, ids, strict=True)
        ]
        self.messages.append(AIMessage(content=reply.text, tool_calls=calls))
        self.messages += _spoken(said, ids)
        if not reply.calls:
            self.tools = self.suite.tools(self.task, self.world)

    def _score(self) -> tuple[Score | None, str | None]:
        """What the checker says, None where it broke; and what went wrong, if anything did."""
        try:
            score = self.suite.score(self.task, self.world, self.replies)
        except Exception as error:  # a checker that breaks says nothing of the rollout
            return None, f"the checker failed: {type(error).__name__}: {error}"
        if self.status == "failed":
            score = replace(score, reward=0.0, reason=self.error or score.reason)
        return score, self.error

    def _outcome(self) -> str | None:
        """What votes compare: all calls in their order, else the last words."""
        if not self.replies:
            return None
        if isinstance(self.suite, Answered):
            return self.suite.outcome(self.task, self.replies)
        calls = [(call.name, call.arguments) for reply in self.replies for call in reply.calls]
        return outcome_key(calls, self.replies[-1].text)


def _spoken(messages: Iterable[Message], call_ids: Sequence[str] = ()) -> list[BaseMessage]:
    ids = iter(call_ids)
    return [_message(message, ids) for message in messages]


def _message(message: Message, ids: Any) -> BaseMessage:
    match message["role"]:
        case "system":
            return SystemMessage(message["content"])
        case "assistant":
            return AIMessage(message["content"])
        case "tool":
            return ToolMessage(message["content"], name=message.get("name"), tool_call_id=next(ids))
        case _:
            return HumanMessage(message["content"])


def _plain(reply: Reply) -> Mapping[str, Any]:
    return {"text": reply.text, "calls": [[call.name, dict(call.arguments)] for call in reply.calls]}
