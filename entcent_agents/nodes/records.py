"""Recording the rollouts of a round that was committed: in a thread, and without a word to the request if it fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage, RemoveMessage, ToolMessage, convert_to_messages
from langgraph.types import Overwrite

from entcent_agents.recordings.keeping import RecordedRound, Records
from entcent_agents.rollouts.packing import unpack
from entcent_agents.trajectory import Rollout

_LOGGER: Final = logging.getLogger(__name__)


async def record(records: Records, round: RecordedRound, asked: Sequence[Any]) -> None:
    """Add a round to the records; where that fails, it is logged.

    Args:
        records: Where to.
        round: What was selected and from which rollouts.
        asked: The conversation that they began with.
    """

    def messages(rollout: Rollout) -> list[dict[str, Any]]:
        return [_plain(message) for message in [*convert_to_messages(asked), *added_messages(rollout)]]

    try:
        await asyncio.to_thread(records.add, round, messages)
    except Exception as error:  # the commit stands; what the error says may quote what was to be redacted
        reason = type(error).__name__
        _LOGGER.warning("the rollouts of %s were not recorded in %s: %s", round.task, records.folder, reason)


def added_messages(rollout: Rollout) -> Iterable[BaseMessage]:
    """What a rollout adds to the conversation; nothing is kept of one that cannot be committed."""
    update = unpack(rollout.output)["state"].get("messages", ()) if rollout.output else ()
    found = update.value if isinstance(update, Overwrite) else update
    found = [found] if isinstance(found, BaseMessage) else found
    return (message for message in found if isinstance(message, BaseMessage) and not isinstance(message, RemoveMessage))


def _plain(message: BaseMessage) -> dict[str, Any]:
    """Who says what, arguments as they are: text in JSON in text could not be redacted."""
    plain: dict[str, Any] = {"type": message.type, "content": message.content}
    if message.name:
        plain["name"] = message.name
    if isinstance(message, AIMessage) and message.tool_calls:
        plain["tool_calls"] = [{key: call[key] for key in ("name", "args", "id")} for call in message.tool_calls]
    if isinstance(message, ToolMessage):
        plain["tool_call_id"] = message.tool_call_id
    return plain
