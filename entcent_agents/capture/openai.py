"""The OpenAI chat shape: `{"content": [{"token", "logprob", "bytes", "top_logprobs": [...]}]}`.

vLLM, llama.cpp, SGLang, DeepSeek and most gateways speak it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from entcent_agents.entropy import ABSENT_BELOW, token_distribution
from entcent_agents.errors import LogprobsMalformedError
from entcent_agents.logprobs import TokenLogprobs, token_offsets


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


def token_logprobs(entries: Sequence[LogprobEntry]) -> TokenLogprobs | None:
    """Arrays from decoded entries; None without entries.

    Raises:
        LogprobsMalformedError: On log-probabilities that cannot be.
    """
    if not entries:
        return None
    tokens = [_token_bytes(entry) for entry in entries]
    rows = _top_rows(entries)
    distribution = token_distribution(rows)
    sampled = np.array([np.nan if entry.logprob is None else entry.logprob for entry in entries])
    return TokenLogprobs(
        text=b"".join(tokens),
        offsets=token_offsets(tokens),
        logprob=np.where(sampled > ABSENT_BELOW, sampled, np.nan).astype(np.float32),
        entropy=distribution.entropy.astype(np.float32),
        residual=distribution.residual.astype(np.float32),
        confidence=distribution.confidence.astype(np.float32),
        top_k=rows.shape[1],
    )


def logprobs_of_metadata(metadata: Mapping[str, Any]) -> TokenLogprobs | None:
    """Arrays from an AIMessage's `response_metadata["logprobs"]`, as ChatOpenAI leaves it; None where there is none.

    Raises:
        LogprobsMalformedError: On another shape.
    """
    raw = metadata.get("logprobs")
    if raw is None:
        return None
    try:
        content = msgspec.convert(raw, ChoiceLogprobs, from_attributes=True).content
    except msgspec.ValidationError as error:
        raise LogprobsMalformedError(
            f"logprobs in an unknown shape ({error}); expected the OpenAI chat shape"
        ) from None
    return token_logprobs(content or ())


def _token_bytes(entry: LogprobEntry) -> bytes:
    return entry.token.encode("utf-8", "surrogatepass") if entry.bytes is None else bytes(entry.bytes)


def _top_rows(entries: Sequence[LogprobEntry]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Shape `(T, K)`, K the longest list, absent entries -inf."""
    lists = [entry.top_logprobs or () for entry in entries]
    lengths = np.fromiter(map(len, lists), np.intp, len(lists))
    rows = np.full((len(lists), int(lengths.max(initial=0))), -np.inf)
    present = np.arange(rows.shape[1]) < lengths[:, None]
    rows[present] = [np.nan if top.logprob is None else top.logprob for row in lists for top in row]
    return rows
