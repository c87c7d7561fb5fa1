"""The OpenAI chat shape: `{"content": [{"token", "logprob", "bytes", "top_logprobs": [...]}]}`.

vLLM, llama.cpp, SGLang, DeepSeek and most gateways speak it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from entcent_agents.capture.arrays import arrays_of, padded, token_bytes
from entcent_agents.logprobs import TokenLogprobs


class TopLogprob(msgspec.Struct):
    """One alternative; what it says is not needed for scoring and not even decoded."""

    logprob: float | None = None


class LogprobEntry(msgspec.Struct):
    """One generated token."""

    token: str = ""
    logprob: float | None = None
    bytes: list[Annotated[int, msgspec.Meta(ge=0, le=255)]] | None = None
    top_logprobs: list[TopLogprob] | None = None


class ChoiceLogprobs(msgspec.Struct):
    """The `logprobs` object of a choice."""

    content: list[LogprobEntry] | None = None
    reasoning_content: list[LogprobEntry] | None = None
    """DeepSeek's tokens of reasoning, which come before the answer's."""
    refusal: list[LogprobEntry] | None = None
    """OpenAI's tokens of a refusal, which stand where the answer would."""


def token_logprobs(entries: Sequence[LogprobEntry]) -> TokenLogprobs | None:
    """Arrays from decoded entries; None without entries.

    Raises:
        LogprobsMalformedError: On log-probabilities that cannot be.
    """
    if not entries:
        return None
    return arrays_of(
        [token_bytes(entry.token, entry.bytes) for entry in entries],
        padded([top.logprob for top in entry.top_logprobs or ()] for entry in entries),
        [entry.logprob for entry in entries],
    )


def choice_logprobs(choice: ChoiceLogprobs) -> TokenLogprobs | None:
    """Arrays of all tokens of a choice, in the order they were generated; None without any.

    Raises:
        LogprobsMalformedError: On log-probabilities that cannot be.
    """
    return token_logprobs([*(choice.reasoning_content or ()), *(choice.content or ()), *(choice.refusal or ())])
