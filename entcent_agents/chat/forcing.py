"""Which call a branch stands for, and the request that forces it: for servers that go on from no prefix."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from entcent_agents.branching import BranchPoint
from entcent_agents.chat.completion import Completion
from entcent_agents.chat.constraints import call_format, native_tool_choice
from entcent_agents.chat.messages import ai_message
from entcent_agents.chat.text_tools import STOP, read_calls
from entcent_agents.errors import ConfigurationError
from entcent_agents.logprobs import TokenLogprobs

_NAME_SO_FAR: Final = re.compile(r"([\w.\-]+)([^\w.\-]*)\Z")
"""The beginning of a name at the end of a text, and what closes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedCalls:
    """A request with its choice of tools.

    Attributes:
        payload: The request.
        tools: The tools of which one is to be called; none: an answer is wanted.
        text_tools: Names of the tools whose calls are text.
    """

    payload: Mapping[str, Any]
    tools: tuple[str, ...]
    text_tools: tuple[str, ...]

    def obeyed(self, completion: Completion) -> bool:
        """Whether the answer is what was wanted: servers may ignore a choice of tools."""
        calls = ai_message(completion, self.text_tools).tool_calls
        return not calls if not self.tools else bool(calls) and calls[0]["name"] in self.tools


def wanted_calls(
    payload: Mapping[str, Any],
    turn: TokenLogprobs,
    point: BranchPoint,
    text_tools: Sequence[Mapping[str, Any]] = (),
) -> WantedCalls:
    """What the branch at a point calls, as a request.

    At a tool's name that is the tool which the alternative begins to name, and not the parent's. At the choice between
    a call and an answer it is what the parent did not choose. Calls in text are held to the tools' schemas, the prompt
    stays as it is.

    Args:
        payload: The request that the turn answered.
        turn: The parent's tokens.
        point: Where, and what instead.
        text_tools: The tools that the payload describes in its text.

    Raises:
        ConfigurationError: Where no choice of tools stands for the alternative.
    """
    tools = text_tools or payload.get("tools") or ()
    names = tuple(tool["function"]["name"] for tool in tools)
    called = [call["name"] for call in read_calls(turn.text.decode(errors="replace"), names).valid]
    if point.decision == "tool":
        begun = (turn.head(point.token).text + point.alternative).decode(errors="replace")
        wanted = tuple(name for name in names if name not in called and _begins(begun, name))[:1]
    elif point.decision == "call" and names:
        wanted = () if called else names
    else:
        raise ConfigurationError("no choice of tools stands for another value of an argument")
    if point.decision == "tool" and not wanted:
        raise ConfigurationError("the alternative begins the name of no other tool")
    if text_tools:
        return _as_text(payload, wanted, text_tools)
    choice = "none" if not wanted else wanted[0] if point.decision == "tool" else "required"
    return WantedCalls(payload={**payload, "tool_choice": native_tool_choice(choice)}, tools=wanted, text_tools=())


def _as_text(payload: Mapping[str, Any], wanted: tuple[str, ...], tools: Sequence[Mapping[str, Any]]) -> WantedCalls:
    """Held to a call's schema; such a reply ends by itself, and in a stream tokens may go unlisted."""
    if not wanted:
        raise ConfigurationError("no constraint keeps calls out of a text")
    chosen = [tool for tool in tools if tool["function"]["name"] in wanted]
    stops = [stop for stop in payload.get("stop") or () if stop != STOP]
    left_out = ("stop", "stream", "stream_options")
    body = {key: value for key, value in payload.items() if key not in left_out}
    body |= {"response_format": call_format(chosen), "stream": False} | ({"stop": stops} if stops else {})
    return WantedCalls(payload=body, tools=wanted, text_tools=tuple(tool["function"]["name"] for tool in tools))


def _begins(begun: str, name: str) -> bool:
    """Whether a text ends in the beginning of a name, or in the whole of it and what closes it."""
    so_far = _NAME_SO_FAR.search(begun)
    return so_far is not None and (name == so_far[1] if so_far[2] else name.startswith(so_far[1]))
