"""A request for each candidate: what middleware further in changes in it, no other candidate sees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from langchain.agents.middleware import ModelRequest
from langchain_core.messages import BaseMessage
from langgraph.runtime import Runtime


def own_request(request: ModelRequest[Any], runtime: Runtime[Any]) -> ModelRequest[Any]:
    """A copy of a request whose messages, state, tools and settings may be changed in place.

    Lists, dicts and messages are copied all the way down. Objects in them are shared: the model, tools, the response
    format, the artifacts of tools.

    Args:
        request: What all candidates are asked.
        runtime: The candidate's own.
    """
    copies: dict[int, Any] = {}  # the messages of the state are often those of the request, and stay so
    return replace(
        request,
        messages=_own(request.messages, copies),
        system_message=_own(request.system_message, copies),
        tools=_own(request.tools, copies),
        tool_choice=_own(request.tool_choice, copies),
        state=_own(request.state, copies),
        model_settings=_own(request.model_settings, copies),
        runtime=runtime,
    )


def _own(value: Any, copies: dict[int, Any]) -> Any:
    """A copy of it; of what was copied already, that copy."""
    key = id(value)
    if key in copies:
        return copies[key]
    if type(value) is list:
        copies[key] = copied = list[Any]()
        copied.extend(_own(each, copies) for each in cast("list[Any]", value))
        return copied
    if type(value) is dict:
        copies[key] = made = dict[Any, Any]()
        made.update((name, _own(each, copies)) for name, each in cast("dict[Any, Any]", value).items())
        return made
    if isinstance(value, BaseMessage):
        copies[key] = said = value.model_copy()
        fields = [(name, field) for name, field in vars(value).items() if type(field) in (list, dict)]
        vars(said).update((name, _own(field, copies)) for name, field in fields if name != "artifact")
        return said
    return value
