"""A round as operators see it: it begins, its rollouts end, and it is committed or stops."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from langchain_core.callbacks import BaseCallbackHandler
from langgraph.errors import GraphBubbleUp

from entcent_agents.telemetry.lines import log_commit, log_rollout, log_stop
from entcent_agents.trajectory import Rollout, Spent

if TYPE_CHECKING:  # OpenTelemetry is an extra
    from entcent_agents.telemetry.spans import RoundSpans, Spans


@dataclass(slots=True)
class Round:
    """One round under way.

    Attributes:
        request: What the rounds of a request have in common.
        number: The number of this round, from 1.
        spans: Its spans; None where nobody asked for them.
        rollouts: Their records, once they have ended.
    """

    request: str
    number: int
    spans: RoundSpans | None = None
    rollouts: Sequence[Rollout] = ()

    def committed(self, selection: dict[str, Any]) -> None:
        """Its winner was committed; `selection` is as in the channel of that name."""
        log_commit(self.rollouts, selection, request=self.request, round=self.number)
        self._settle(selection, None)

    def stopped(self, stop: BaseException, spent: Spent) -> None:
        """It ended without a commit; where it only asks or hands over, that is no failure."""
        if not isinstance(stop, GraphBubbleUp):
            log_stop(self.rollouts, stop, spent, request=self.request, round=self.number)
        self._settle(None, stop)

    def unselected(self) -> None:
        """Its rollouts have ended, and no selector will come."""
        self._settle(None, None)

    def _settle(self, selection: dict[str, Any] | None, stop: BaseException | None) -> None:
        if self.spans is None:
            return
        try:
            self.spans.settle(self.rollouts, selection, stop)
        except Exception:  # of a span processor; neither a commit nor an error may be lost for it
            _LOGGER.exception("spans were not ended")


_LOGGER: Final = logging.getLogger(__name__)
_ROUND: Final[ContextVar[Round | None]] = ContextVar("_ROUND", default=None)
_FOLLOWING: Final[ContextVar[BaseCallbackHandler | None]] = ContextVar("_FOLLOWING", default=None)


@contextmanager
def observed_round(
    spans: Spans | None,
    config: Mapping[str, Any],
    *,
    request: str,
    number: int,
    key: str,
    agent: str,
    selected: bool,
    spent: Callable[[], Spent],
) -> Generator[Round]:
    """Observe the rollouts of a round; its `rollouts` are to be set as soon as they are known.

    Args:
        spans: Makes its spans.
        config: Of the node.
        request: What the rounds of a request have in common.
        number: The number of this round.
        key: What its selector finds it by.
        agent: The agent's name.
        selected: Whether a selector comes and settles it.
        spent: What the request has used; asked for where the round ends in an error.
    """
    observed = Round(request, number)
    if spans is not None:
        thread = config.get("configurable", {}).get("thread_id")
        observed.spans = spans.begin(request=request, round=number, agent=agent, thread=thread and str(thread))
    token = _ROUND.set(observed)
    try:
        yield observed
    except BaseException as stop:
        observed.stopped(stop, spent())
        raise
    finally:
        _ROUND.reset(token)
    if spans is not None and observed.spans is not None:
        if selected:
            spans.waiting.put(key, observed.spans)
        else:
            observed.unselected()


async def observed_rollout(index: int, running: Awaitable[Rollout]) -> Rollout:
    """Await a rollout of the round that is observed."""
    observed = _ROUND.get()
    if observed is None:
        return await running
    with nullcontext() if observed.spans is None else observed.spans.rollout(index) as calls:
        token = _FOLLOWING.set(calls)
        try:
            rollout = await running
        finally:
            _FOLLOWING.reset(token)
    log_rollout(rollout, request=observed.request, round=observed.number)
    return rollout


def observing_handlers() -> list[BaseCallbackHandler]:
    """What is to follow the calls of the rollout that is awaited here."""
    calls = _FOLLOWING.get()
    return [] if calls is None else [calls]
