"""OpenTelemetry spans of rounds, by the semantic conventions for generative AI, and our own attributes: `entcent.`.

    invoke_workflow AGENT      one round of a request: its rollouts, the selection, the commit
    └── invoke_agent AGENT     one rollout
        ├── chat MODEL         a model call
        └── execute_tool TOOL  a tool call, and in it whatever the tool does

Spans are held back until the round is settled, so that those of losers can be marked, or left out.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Tracer, TracerProvider

from entcent_agents.telemetry.calls import Attributes, CallSpans, error_of, mark_error
from entcent_agents.telemetry.lines import error_name
from entcent_agents.telemetry.waiting import Waiting
from entcent_agents.trajectory import Rollout

_MOST_WAITING: Final = 1024
"""Rounds whose selector has not come yet; of more, the oldest are settled without one."""


class Spans:
    """Makes OpenTelemetry spans of rounds, rollouts, model calls and tool calls; without a word of their content.

    Args:
        tracer_provider: Whose spans they are; default: the global one.
        losers: Whether rollouts that were not selected leave spans. With False their spans are begun, and never
            exported; those of a round without a winner are.

    Attributes:
        waiting: Spans of rounds whose selector has not come yet, by the beginning of the threads of their rollouts.
    """

    def __init__(self, *, tracer_provider: TracerProvider | None = None, losers: bool = True) -> None:
        self.losers = losers
        self._tracer = trace.get_tracer("entcent_agents", tracer_provider=tracer_provider)
        self.waiting: Waiting[RoundSpans] = Waiting[RoundSpans](_MOST_WAITING, lambda spans: spans.settle(()))

    def begin(self, *, request: str, round: int, agent: str, thread: str | None) -> RoundSpans:
        """The spans of a round that begins.

        Args:
            request: What the rounds of a request have in common.
            round: Its number.
            agent: The agent's name.
            thread: The user's thread, if there is one.
        """
        common: Attributes = {"entcent.request": request, "entcent.round": round}
        if thread is not None:
            common["gen_ai.conversation.id"] = thread
        return RoundSpans(self._tracer, agent, common, losers=self.losers)


class RoundSpans:
    """The spans of one round.

    Args:
        tracer: Makes them.
        agent: The agent's name.
        common: Attributes of every span.
        losers: Whether those of losers are exported.
    """

    def __init__(self, tracer: Tracer, agent: str, common: Attributes, *, losers: bool) -> None:
        self._tracer = tracer
        self._agent = agent
        self._common = common
        self._losers = losers
        operation: Attributes = {"gen_ai.operation.name": "invoke_workflow", "gen_ai.workflow.name": agent}
        self._span = tracer.start_span(f"invoke_workflow {agent}", attributes=operation | common)
        self._over: dict[int, tuple[Span, int, CallSpans]] = {}
        self._records: dict[int, Rollout] = {}
        self._winner: int | None = None
        self._settled = False

    @contextmanager
    def rollout(self, index: int) -> Generator[CallSpans]:
        """Follow a rollout; its span is the current one meanwhile.

        Args:
            index: The rollout's.
        """
        common: Attributes = {**self._common, "entcent.rollout": index}
        operation: Attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": self._agent}
        span = self._tracer.start_span(
            f"invoke_agent {self._agent}",
            trace.set_span_in_context(self._span),
            SpanKind.INTERNAL,
            attributes=operation | common,
        )
        calls = CallSpans(self._tracer, trace.set_span_in_context(span), common)
        error = None
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield calls
        except BaseException as stop:
            error = error_of(stop)
            raise
        finally:
            calls.close()
            mark_error(span, error)
            self._over[index] = (span, time.time_ns(), calls)
            if self._settled:  # nobody waited for it
                self._end(index)

    def settle(
        self,
        rollouts: Sequence[Rollout],
        selection: dict[str, Any] | None = None,
        stop: BaseException | None = None,
    ) -> None:
        """End all spans, those of rollouts that still run when these end.

        Args:
            rollouts: Their records, as far as there are any.
            selection: What was selected and committed; None where nothing was.
            stop: What ended the round instead.
        """
        self._records = {rollout.index: rollout for rollout in rollouts}
        if selection is not None:
            self._winner = selection["winner"]
            chosen: Attributes = {"entcent.winner": selection["winner"], "entcent.selector": selection["selector"]}
            self._span.set_attributes(chosen)
        self._settled = True
        for index in [*self._over]:
            self._end(index)
        mark_error(self._span, error_of(stop))
        self._span.end()

    def _end(self, index: int) -> None:
        own, over, calls = self._over.pop(index)
        if self._winner not in (None, index) and not self._losers:
            return
        if (record := self._records.get(index)) is not None:
            own.set_attributes(_measures(record))
            if record.status == "failed":
                mark_error(own, error_name(record.error) or "_OTHER")
        for span, at in [*calls.over, (own, over)]:
            if self._winner is not None:
                span.set_attribute("entcent.selected", index == self._winner)
            span.end(at)


def _measures(rollout: Rollout) -> Attributes:
    trajectory, usage = rollout.trajectory, rollout.usage
    values: dict[str, Any] = {
        "entcent.status": rollout.status,
        "entcent.error": error_name(rollout.error),
        "entcent.coverage": trajectory.coverage,
        "entcent.centroid": trajectory.centroid(),
        "entcent.mean_entropy": trajectory.mean_entropy,
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.generated_tokens,
    }
    return {name: value for name, value in values.items() if value is not None}
