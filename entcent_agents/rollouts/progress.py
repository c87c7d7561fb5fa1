"""Follows a rollout through its callbacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any, Final, cast
from uuid import UUID

from entcent_agents.capture.handlers import ModelAndToolHandler
from entcent_agents.chat.sampling import token_listener
from entcent_agents.rollouts.events import BRANCH_EVENT, EVENT, BranchEvent, Progress, State
from entcent_agents.trajectory import Branch, Turn

_NAMES: Final = tuple(field.name for field in fields(Progress))


class ProgressReporter(ModelAndToolHandler):
    """Follows one rollout through its callbacks and tells `write` of every change.

    Args:
        rollout: Its index.
        round: The number of its round.
        write: Takes an event; LangGraph's stream writer, as a rule.

    Attributes:
        arrived: Told of tokens that arrive, and for which call.
    """

    hears_starts = True

    def __init__(self, rollout: int, round: int, write: Callable[[Any], None]) -> None:
        self.arrived: Callable[[UUID, int], None] | None = None
        self._now = Progress(rollout=rollout, round=round)
        self._finished_turns = 0  # tokens of the turns that are over
        self._write = write

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A turn begins; what the model is asked next in this context, this call asks."""
        token_listener.set(partial(self._on_tokens_of, run_id))
        self._tell(state="thinking", turns=self._now.turns + 1)

    def on_tool_start(self, serialized: dict[str, Any] | None, input_str: str, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool runs."""
        self._tell(state="tool", tool=(serialized or {}).get("name", kwargs.get("name")))

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """The tool is done."""
        self._tell(state="thinking", tool=None)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """The tool raised."""
        self._tell(state="thinking", tool=None)

    def on_tokens(self, tokens: int) -> None:
        """Tokens of the running turn arrived."""
        self._tell(tokens=self._now.tokens + tokens)

    def _on_tokens_of(self, run_id: UUID, tokens: int) -> None:
        if self.arrived:
            self.arrived(run_id, tokens)
        self.on_tokens(tokens)

    def on_turn(self, turn: Turn) -> None:
        """A turn is over; now its tokens are known for sure."""
        self._finished_turns += turn.generated_tokens - turn.reused_tokens
        self._tell(tokens=self._finished_turns)

    def pause(self, error: BaseException, pause_seconds: float) -> None:
        """A model call failed and will be made again."""
        self._tell(state="waiting", tool=None)

    def branched(self, branch: Branch) -> None:
        """The rollout is a branch."""
        event = BranchEvent(
            type=BRANCH_EVENT, rollout=self._now.rollout, round=self._now.round, **cast(Any, branch.to_dict())
        )
        self._write(event)

    def end(self, state: State) -> None:
        """The rollout is over."""
        self._tell(state=state, tool=None)

    def _tell(self, **changes: Any) -> None:
        self._now = replace(self._now, **changes)
        self._write({"type": EVENT} | {name: getattr(self._now, name) for name in _NAMES})
