"""The body of a chat request: the model's settings, and those of one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from langchain_core.messages import BaseMessage

from entcent_agents.chat.constraints import call_format
from entcent_agents.chat.prompts import api_messages
from entcent_agents.chat.sampling import is_plain
from entcent_agents.chat.text_tools import STOP, as_text
from entcent_agents.errors import ConfigurationError

if TYPE_CHECKING:
    from entcent_agents.chat.model import ChatLogprobs

_PASSED_ON: Final = (
    "frequency_penalty",
    "logit_bias",
    "max_completion_tokens",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning_effort",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
    "verbosity",
)
"""Fields of the chat completions API that mean the same whatever else is asked, as the SDK takes them."""
_HEEDED: Final = frozenset(
    {
        *("model", "temperature", "top_logprobs", "top_p", "max_tokens", "extra_body", "response_format"),
        *("tools", "tool_choice", "parallel_tool_calls", "text_tools", "seed", "n"),
    }
)
"""Settings of a call that are used here or by the model."""
_LANGCHAINS: Final = frozenset(
    {"logprobs", "ls_structured_output_format", "stream", "strict", "structured_output_format"}
)
"""Given by or to LangChain, which uses them; log-probabilities are asked for in any case but `plain_sampling`."""


def chat_payload(
    model: ChatLogprobs,
    messages: Sequence[BaseMessage],
    stop: str | Sequence[str] | None,
    settings: Mapping[str, Any],
    *,
    watched: bool = False,
) -> dict[str, Any]:
    """The body, as the chat completions API has it, without seed and number of choices.

    Args:
        model: Whose settings count where the call has none.
        messages: The conversation.
        stop: Strings that end the turn.
        settings: Of this call: what `bind_tools`, `bind` and the caller gave.
        watched: Whether somebody reads along while the answer is written.

    Raises:
        ConfigurationError: On a setting that is not known.
    """
    _refuse_unknown(settings)
    text_tools: Sequence[Mapping[str, Any]] = settings.get("text_tools") or ()
    native, choice = settings.get("tools"), settings.get("tool_choice")
    forced = bool(text_tools) and choice == "required"
    response_format = call_format(text_tools) if forced else settings.get("response_format")
    if model.tool_calling == "text":
        messages = as_text(messages, text_tools, forced=forced)
    # A forced call ends by itself, and servers give no log-probabilities for the tokens of a stop sequence.
    wanted = [stop] if isinstance(stop, str) else stop or model.stop or ()
    stops = [*wanted, *((STOP,) if text_tools and not forced else ())]
    body: dict[str, Any] = {
        "model": settings.get("model", model.model),
        "messages": api_messages(messages),
        "temperature": settings.get("temperature", model.temperature),
        "logprobs": None if is_plain() else True,
        "top_logprobs": None if is_plain() else settings.get("top_logprobs", model.top_logprobs),
        "top_p": settings.get("top_p", model.top_p),
        "max_tokens": settings.get("max_tokens", model.max_tokens),
        "stop": stops or None,
        "tools": native,
        "tool_choice": choice if native else None,
        "parallel_tool_calls": settings.get("parallel_tool_calls") if native else None,
        "response_format": response_format,
        "extra_body": model.extra_body | settings.get("extra_body", {}) or None,
        **{name: settings.get(name) for name in _PASSED_ON},
    }
    body["stream"] = _is_streamed(model, body, watched=watched)
    if body["stream"]:
        body["stream_options"] = {"include_usage": True}
    return {key: value for key, value in body.items() if value is not None}


def _is_streamed(model: ChatLogprobs, body: Mapping[str, Any], *, watched: bool) -> bool:
    """Whether the answer is asked for piece by piece.

    llama.cpp refuses tools, streams and log-probabilities together. In a stream it lists no token whose text it leaves
    out (a fence around constrained JSON) or holds back, as a stop string might begin there: with tools in text, that is
    every line break, and the end.
    """
    if model.disable_streaming is True or body["tools"] or body["response_format"]:
        return False
    return watched or not body["stop"] or not body["logprobs"]


def _refuse_unknown(settings: Mapping[str, Any]) -> None:
    """A setting that is dropped without a word looks as if it had done something."""
    unknown = sorted(set(settings) - _HEEDED - _LANGCHAINS - set(_PASSED_ON))
    if unknown:
        raise ConfigurationError(
            f"a call has no setting {', '.join(unknown)}: give fields that only this server has as extra_body={{...}}"
        )
