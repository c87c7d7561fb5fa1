"""The legacy completions shape: parallel arrays `{"tokens", "token_logprobs", "top_logprobs"}`.

OpenAI's and vLLM's `/v1/completions` speak it; Together's chat completions too, often without `top_logprobs`.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from entcent_agents.capture.arrays import arrays_of, padded, token_bytes
from entcent_agents.errors import LogprobsMalformedError
from entcent_agents.logprobs import TokenLogprobs

_BYTES: Final = re.compile(r"bytes:((?:\\x[0-9a-fA-F]{2})+)")
"""How OpenAI writes a token that is no whole character."""


class CompletionLogprobs(msgspec.Struct):
    """The `logprobs` object of a choice; each list has one entry a token."""

    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float | None] | None] | None = None


def completion_logprobs(logprobs: CompletionLogprobs) -> TokenLogprobs | None:
    """Arrays from the decoded lists; None without tokens. Without `top_logprobs` every token is unscored.

    Raises:
        LogprobsMalformedError: On log-probabilities that cannot be, or lists of different lengths.
    """
    tokens, sampled = logprobs.tokens, logprobs.token_logprobs
    if not tokens:
        return None
    if sampled is None:
        raise LogprobsMalformedError("logprobs with tokens, but without token_logprobs")
    top = logprobs.top_logprobs or [None] * len(tokens)
    if not len(tokens) == len(sampled) == len(top):
        raise LogprobsMalformedError(
            f"{len(tokens)} tokens, {len(sampled)} token_logprobs and {len(top)} top_logprobs; expected as many of each"
        )
    rows = _evened(padded(list((row or {}).values()) for row in top), np.array(sampled, np.float64))
    return arrays_of([_said(token) for token in tokens], rows, sampled)


def _evened(rows: NDArray[np.float64], sampled: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows without the one entry more that some have, shape `(T, K)`.

    The sampled token is always listed, so a row has k + 1 entries where it is none of the top k: the last of them.
    """
    listed = np.isfinite(rows)
    lengths = listed.sum(axis=1)
    longest = lengths == rows.shape[1]
    lowest = np.where(listed, rows, np.inf).min(axis=1, initial=np.inf)
    if not (lengths == rows.shape[1] - 1).any() or not (sampled[longest] <= lowest[longest]).all():
        return rows
    outside = longest[:, None] & (rows == lowest[:, None])
    return -np.sort(-np.where(outside, -np.inf, rows), axis=1)[:, :-1]


def _said(token: str) -> bytes:
    escaped = _BYTES.fullmatch(token) if token.startswith("bytes:") else None
    return bytes.fromhex(escaped[1].replace(r"\x", "")) if escaped else token_bytes(token)
