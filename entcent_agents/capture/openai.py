"""The OpenAI chat shape: `{"content": [{"token", "logprob", "bytes", "top_logprobs": [...]}]}`.

vLLM, llama.cpp, SGLang, DeepSeek and most gateways speak it too. The objects hold no cycles, so that the garbage
collector need not walk the hundreds of thousands of them that a long turn decodes to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from entcent_agents.capture.arrays import arrays_of, padded, token_bytes
from entcent_agents.logprobs import TokenLogprobs


class TopLogprob(msgspec.Struct, gc=False):
    """One alternative; what it says is not needed for scoring and not even decoded."""

    logprob: float | None = None


class LogprobEntry(msgspec.Struct, gc=False):
    """One generated token."""

    token: str = ""
    logprob: float | None = None
    bytes: list[Annotated[int, msgspec.Meta(ge=0, le=255)]] | None = None
    top_logprobs: list[TopLogprob] | None = None
    id: Any = None
    """The token's number in the vocabulary; llama.cpp gives it. What others may mean by it must not cost the answer."""


class NamedTop(TopLogprob, gc=False):
    """One alternative with what it says, for those who branch; about as much work as all else of an entry."""

    token: str = ""
    bytes: list[Annotated[int, msgspec.Meta(ge=0, le=255)]] | None = None
    id: Any = None


class NamedEntry(LogprobEntry, gc=False):
    """One generated token, its alternatives with what they say."""

    top_logprobs: list[NamedTop] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]


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
        top_rows(entries),
        [entry.logprob for entry in entries],
    )


def top_rows(entries: Sequence[LogprobEntry]) -> NDArray[np.float64]:
    """The alternatives of each token as a row, shape `(T, K)`; -inf where there are fewer, NaN where one is null."""
    alternatives = [entry.top_logprobs or () for entry in entries]
    lengths = set(map(len, alternatives))
    if len(lengths) == 1 and 0 not in lengths:  # the rule, and much of the time that a long turn takes
        flat = [top.logprob for each in alternatives for top in each]
        return np.array(flat, np.float64).reshape(len(alternatives), -1)
    return padded([top.logprob for top in each] for each in alternatives)


def choice_logprobs(choice: ChoiceLogprobs) -> TokenLogprobs | None:
    """Arrays of all tokens of a choice, in the order they were generated; None without any.

    Raises:
        LogprobsMalformedError: On log-probabilities that cannot be.
    """
    return token_logprobs([*(choice.reasoning_content or ()), *(choice.content or ()), *(choice.refusal or ())])
