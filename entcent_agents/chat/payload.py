"""The body of a chat request: the model's settings, and those of one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage

from entcent_agents.chat.constraints import call_format
from entcent_agents.chat.prompts import api_messages
from entcent_agents.chat.text_tools import STOP, as_text

if TYPE_CHECKING:
    from entcent_agents.chat.model import ChatLogprobs


def chat_payload(
    model: ChatLogprobs, messages: Sequence[BaseMessage], stop: list[str] | None, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The body, as the chat completions API has it, without seed and number of choices.

    Args:
        model: Whose settings count where the call has none.
        messages: The conversation.
        stop: Strings that end the turn.
        settings: Of this call: what `bind_tools`, `bind` and the caller gave.
    """
    text_tools: Sequence[Mapping[str, Any]] = settings.get("text_tools") or ()
    native, choice = settings.get("tools"), settings.get("tool_choice")
    forced = bool(text_tools) and choice == "required"
    response_format = call_format(text_tools) if forced else settings.get("response_format")
    if model.tool_calling == "text":
        messages = as_text(messages, text_tools, forced=forced)
    # A forced call ends by itself, and servers give no log-probabilities for the tokens of a stop sequence.
    stops = [*(stop or model.stop or ()), *((STOP,) if text_tools and not forced else ())]
    body: dict[str, Any] = {
        "model": settings.get("model", model.model),
        "messages": api_messages(messages),
        "temperature": settings.get("temperature", model.temperature),
        "logprobs": True,
        "top_logprobs": model.top_logprobs,
        # llama.cpp refuses tools, streaming and log-probabilities together, and streams none for those tokens of a
        # constrained reply that it leaves out of the text (a fence around the JSON).
        "stream": not native and not response_format,
        "top_p": settings.get("top_p", model.top_p),
        "max_tokens": settings.get("max_tokens", model.max_tokens),
        "stop": stops or None,
        "tools": native,
        "tool_choice": choice if native else None,
        "parallel_tool_calls": settings.get("parallel_tool_calls") if native else None,
        "response_format": response_format,
        "extra_body": model.extra_body | settings.get("extra_body", {}) or None,
    }
    if body["stream"]:
        body["stream_options"] = {"include_usage": True}
    return {key: value for key, value in body.items() if value is not None}
