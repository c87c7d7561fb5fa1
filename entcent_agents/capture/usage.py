"""What model calls used, as their chat models tell it, and what they may use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from langchain_core.messages import AIMessage
from langchain_core.outputs import Generation, LLMResult

from entcent_agents.budget import Prices
from entcent_agents.errors import causes_of, http_status
from entcent_agents.trajectory import Usage

SHARING: Final = "entcent"
"""`ls_provider` of the chat model whose calls may share a request."""
_LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "num_predict")
"""How chat models call the most tokens of one answer."""
_UNREACHED: Final = ("ConnectError", "ConnectTimeout", "ConnectionRefusedError", "gaierror", "NewConnectionError")
"""Exceptions of HTTP clients and the system that come before anything is sent."""
_BY_GATEWAYS: Final = frozenset({408, 499, 502, 504, *range(520, 528)})
"""Statuses that say that an answer did not come through, and not that there was none."""


def counted_usage(generation: Generation) -> Usage | None:
    """The tokens of a generation by the server's count; None where it gave none."""
    message = getattr(generation, "message", None)
    found = message.usage_metadata if isinstance(message, AIMessage) else None
    if found is None:
        return None
    whole: int | None = getattr(generation, "whole_prompt_tokens", None)  # of a share, which may be 0
    if not (found["input_tokens"] if whole is None else whole):
        return None
    return Usage(
        prompt_tokens=found["input_tokens"],
        cached_tokens=found.get("input_token_details", {}).get("cache_read") or 0,
        generated_tokens=found["output_tokens"],
    )


def whole_prompt_tokens(generation: Generation, told: Mapping[str, Any]) -> int | None:
    """The tokens of the prompt that a generation answers, by the server's count; None: nobody knows.

    Args:
        generation: Of a chat model that may share requests, its message has a share of the prompt.
        told: What LangChain tells the callbacks of the call's start.
    """
    whole: int | None = getattr(generation, "whole_prompt_tokens", None)
    counted = counted_usage(generation)
    if whole is not None or counted is None:
        return whole or None
    return None if _told(told, "metadata").get("ls_provider") == SHARING else counted.prompt_tokens


def generations_of(response: LLMResult) -> Iterator[Generation]:
    """All of a response, batches flattened."""
    return (generation for batch in response.generations for generation in batch)


def may_have_generated(error: BaseException) -> bool:
    """Whether the server may have generated, and bills, tokens in a call that ended so.

    Not where it was not reached, or answered with an HTTP error of its own; where a gateway says that no answer came
    through, it may have. Read from attributes and class names, so that no client has to be imported.
    """
    for link in causes_of(error):
        if (status := http_status(link)) is not None:
            return status in _BY_GATEWAYS
        if not getattr(link, "reached", True) or type(link).__name__ in _UNREACHED:
            return False
    return True


def most_generated_tokens(told: Mapping[str, Any]) -> int | None:
    """The most tokens that a call generates, all its choices together; None where nothing limits them.

    Args:
        told: What LangChain tells the callbacks of the call's start.
    """
    settings, metadata = _told(told, "invocation_params"), _told(told, "metadata")
    found = [*(settings.get(name) for name in _LIMITS), metadata.get("ls_max_tokens")]
    limits = [limit for limit in found if isinstance(limit, int) and limit > 0]
    choices = settings.get("n")
    return max(limits) * (choices if isinstance(choices, int) else 1) if limits else None


def model_name(told: Mapping[str, Any]) -> str:
    """The name of the model that a call asks; told as for `most_generated_tokens`."""
    settings, metadata = _told(told, "invocation_params"), _told(told, "metadata")
    found = (metadata.get("ls_model_name"), settings.get("model"), settings.get("model_name"))
    return next((str(name) for name in found if name), "")


def price_of(told: Mapping[str, Any], prices: Mapping[str, Prices]) -> Prices | None:
    """What the model of a call costs, if that is known; told as for `most_generated_tokens`."""
    return prices.get(model_name(told)) if prices else None


def _told(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return told.get(name) or {}
