"""Conversations as the chat completions API takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, convert_to_openai_messages


def api_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """The messages of a request's body; images, audio and files of users in the API's form.

    Results of tools are text there: what else they hold follows them as a user's message.

    Raises:
        ValueError: On a content block that lacks what its type needs.
    """
    sent: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []
    for message in convert_to_openai_messages([_sendable(message) for message in messages]):
        if message["role"] != "tool":
            sent += _shown_by_user(shown)
            shown = []
        else:
            message.pop("name", None)  # known by the call's id; OpenAI has no such field
            shown += _taken_from(message)
        sent.append(message)
    return sent + _shown_by_user(shown)


def _sendable(message: BaseMessage) -> BaseMessage:
    """What a model said is text there, also where it was kept in blocks; its calls stand apart, its reasoning stays.

    Streams of version 3 and `output_version="v1"` keep blocks, with calls among them that servers refuse.
    """
    if not isinstance(message, AIMessage) or isinstance(message.content, str):
        return message
    return message.model_copy(update={"content": str(message.text)})


def _taken_from(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a tool's result that are no text; it is left with its text."""
    if isinstance(result["content"], str):
        return []
    parts: list[dict[str, Any]] = result["content"]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    result["content"] = "\n".join(texts) or "The next message shows it."
    return [part for part in parts if part["type"] != "text"]


def _shown_by_user(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": parts}] if parts else []
