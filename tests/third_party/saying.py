"""What the scripted models of these graphs say: rollout 2 is the one that is sure of itself in the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from langchain_core.messages import BaseMessage

from entcent_agents.testing import ScriptedChat, ScriptedTurn

BEST: Final = 2
ROLLOUTS: Final = 4
_QUIET: Final = [0.02] * 120
_BURSTS: Final = ([1.5] * 5 + [0.02] * 5) * 3
_EARLY: Final = _BURSTS + _QUIET[30:]
_LATE: Final = _QUIET[30:] + _BURSTS


def says(index: int, text: str, *calls: tuple[str, dict[str, Any]], first: bool = False) -> ScriptedTurn:
    """A turn of one rollout: the best hesitates as its first one begins, and the others as each of theirs ends."""
    early = _EARLY if first else _QUIET
    return ScriptedTurn(text=text, tool_calls=calls, entropy=early if index == BEST else _LATE)


def model_of(script: Callable[[int, Sequence[BaseMessage]], ScriptedTurn]) -> ScriptedChat:
    """A model that says, in rollout i, what the script says for i."""
    return ScriptedChat(scripts=[lambda messages, index=index: script(index, messages) for index in range(ROLLOUTS)])


def said_since_asked(messages: Sequence[BaseMessage]) -> int:
    """How many turns came after the last message of a person."""
    kinds = [message.type for message in messages]
    last = len(kinds) - 1 - kinds[::-1].index("human")
    return kinds[last:].count("ai")
