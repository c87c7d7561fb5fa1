"""What a rollout adds to the agent's state, as updates of the channels of the graph around it."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from typing import Any, Final, cast

from langchain_core.messages import AIMessage, BaseMessage, RemoveMessage, ToolMessage
from langgraph.channels.last_value import LastValue
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.types import Overwrite

from entcent_agents.capture.messages import strip_logprobs
from entcent_agents.rollouts.isolation import Channel

_NOTHING: Final[Any] = cast(Any, LastValue(object).checkpoint())
"""What LangGraph's channels call the value of an empty channel."""
Messages = Sequence[BaseMessage]


def state_updates(
    channels: Mapping[str, Channel], before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, Any]:
    """What has to be written to channels to take a state from `before` to `after`, as little as their reducers allow.

    A difference is better than a value: what other branches of the graph write meanwhile to a channel with a reducer
    stays. So updates are tried on copies of the channels, and the first that leads to the value is taken.

    Args:
        channels: Those that are written to; a key that has none is left out.
        before: State at the fork point.
        after: State at the end.
    """
    for message in after.get("messages", ()):
        strip_logprobs(message)
    return {
        key: _update(channels[key], before.get(key, _NOTHING), value)
        for key, value in after.items()
        if key in channels and not (key in before and _equal(before[key], value))
    }


def is_answered(messages: Messages, schemas: Collection[str] = ()) -> bool:
    """Whether no tool call among them is without its result; whether that is an answer, only the graph can know.

    Args:
        messages: What was said.
        schemas: Names of calls that are an answer themselves.
    """
    answered = {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
    calls = [call for message in messages if isinstance(message, AIMessage) for call in message.tool_calls]
    return answered.issuperset(call["id"] for call in calls if call["name"] not in schemas)


def _update(channel: Channel, before: Any, after: Any) -> Any:
    for update in (*_differences(before, after), after, *_replacements(after)):
        with suppress(Exception):  # a reducer that cannot take this kind of update
            # Reducers may change what they are given; the mark of an empty channel has to stay itself.
            tried = channel.from_checkpoint(before if before is _NOTHING else copy(before))
            tried.update([update])
            if _equal(tried.get(), after):
                return update
    return after


def _differences(before: Any, after: Any) -> Generator[Any]:
    """Updates that would do for a reducer that adds, appends or merges."""
    if isinstance(before, list) and isinstance(after, list):
        yield cast("list[Any]", after)[len(cast("list[Any]", before)) :]
        if _are_messages(cast("list[Any]", after)):
            known = {message.id: message for message in cast("list[BaseMessage]", before)}
            yield [message for message in cast("list[BaseMessage]", after) if known.get(message.id) != message]
    elif isinstance(before, dict) and isinstance(after, dict):
        old = cast("dict[Any, Any]", before)
        new = cast("dict[Any, Any]", after)
        yield {key: value for key, value in new.items() if key not in old or not _equal(old[key], value)}
    elif isinstance(before, set | int | float) and isinstance(after, set | int | float) and not isinstance(after, bool):
        yield cast(Any, after) - cast(Any, before)


def _replacements(after: Any) -> Generator[Any]:
    """Updates that put the value in the place of another; removals first, as messages behind them are streamed."""
    if isinstance(after, list) and _are_messages(cast("list[Any]", after)):
        yield [RemoveMessage(id=REMOVE_ALL_MESSAGES), *cast("list[Any]", after)]
    yield Overwrite(after)


def _are_messages(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, BaseMessage) for value in values)


def _equal(one: Any, other: Any) -> bool:
    """Equality, and false where it has no answer, as between arrays."""
    if one is other:
        return True
    try:
        return bool(one == other)
    except Exception:
        return False
