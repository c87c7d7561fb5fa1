"""What chat model integrations leave on an AIMessage → `TokenLogprobs`, whatever its shape.

All of them leave it under `logprobs`, in `response_metadata` or `additional_kwargs`: as dicts, as objects of a
provider's SDK, or, after a checkpoint, as the dicts that were made of these objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar, cast

import msgspec
from langchain_core.messages import AIMessage, BaseMessage

from entcent_agents.capture.completions import CompletionLogprobs, completion_logprobs
from entcent_agents.capture.llama import LlamaEntry, llama_logprobs
from entcent_agents.capture.openai import ChoiceLogprobs, choice_logprobs
from entcent_agents.errors import LogprobsMalformedError
from entcent_agents.logprobs import TokenLogprobs

RAW: Final = "logprobs"
"""The key under which raw log-probabilities sit."""

_ShapeT = TypeVar("_ShapeT")


def capture_logprobs(message: AIMessage) -> TokenLogprobs | None:
    """The log-probabilities that a chat model left on its message; None where it left none.

    Understands the chat shape of OpenAI (ChatOpenAI, ChatDeepSeek, ChatFireworks, ChatOpenRouter, ChatXAI,
    ChatLiteLLM, ChatHuggingFace, ChatLlamaCpp), the legacy arrays (ChatTogether) and flat lists of tokens (ChatOllama),
    before and after a checkpoint. The message stays as it is; see `strip_logprobs`.

    Raises:
        LogprobsMalformedError: On a shape that is none of these, or log-probabilities that cannot be.
    """
    for metadata in (message.response_metadata, message.additional_kwargs):
        raw = metadata.get(RAW)
        logprobs = None if raw is None else _arrays(raw)
        if logprobs is not None:
            return logprobs
    return None


def strip_logprobs(message: BaseMessage) -> None:
    """Take raw log-probabilities out of a message, in place."""
    message.response_metadata.pop(RAW, None)
    message.additional_kwargs.pop(RAW, None)


def _arrays(raw: Any) -> TokenLogprobs | None:
    if isinstance(raw, list | tuple):
        return llama_logprobs(_decoded(raw, list[LlamaEntry]))
    if _field(raw, "tokens") is not None:
        return completion_logprobs(_decoded(raw, CompletionLogprobs))
    return choice_logprobs(_decoded(raw, ChoiceLogprobs))


def _field(raw: Any, name: str) -> Any:
    return cast("Mapping[str, Any]", raw).get(name) if isinstance(raw, Mapping) else getattr(raw, name, None)


def _decoded(raw: Any, shape: type[_ShapeT]) -> _ShapeT:
    try:
        return msgspec.convert(raw, shape, from_attributes=True)
    except msgspec.ValidationError as error:
        raise LogprobsMalformedError(
            f"logprobs in an unknown shape ({error}); expected the OpenAI chat shape, legacy arrays or a list of tokens"
        ) from None
