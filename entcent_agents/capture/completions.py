"""The legacy completions shape: parallel arrays `{"tokens", "token_logprobs", "top_logprobs"}`.

OpenAI's and vLLM's `/v1/completions` speak it; Together's chat completions too, often without `top_logprobs`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from entcent_agents.capture.arrays import arrays_of, padded, token_bytes
from entcent_agents.errors import LogprobsMalformedError
from entcent_agents.logprobs import TokenLogprobs

_BYTES: Final = re.compile(r"bytes:((?:\\x[0-9a-fA-F]{2})+)")
"""How OpenAI writes a token that is no whole character."""
_CUSTOMARY: Final = (5, 10, 20)
"""What is asked for, where nothing else tells k from k + 1."""


class CompletionLogprobs(msgspec.Struct):
    """The `logprobs` object of a choice; each list has one entry a token."""

    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float | None] | None] | None = None


def alternatives_asked(choices: Sequence[CompletionLogprobs]) -> int:
    """The k of a response, from all its choices; 0 where no alternatives are listed.

    The sampled token is always listed, so a row has k + 1 entries where it is none of the top k. A row in which it is
    not the last has none more. Where it is the last in every row and all are as long, k + 1 is told from k by what is
    customarily asked for.
    """
    surely, perhaps, shortest = 0, 0, None
    for choice in choices:
        for sampled, row in zip(choice.token_logprobs or (), choice.top_logprobs or (), strict=False):
            if not row:
                continue
            shortest = len(row) if shortest is None else min(shortest, len(row))
            known = [value for value in row.values() if value is not None]
            if sampled is not None and known and sampled > min(known):
                surely = max(surely, len(row))
            else:
                perhaps = max(perhaps, len(row))
    if not surely and shortest == perhaps and perhaps - 1 not in _CUSTOMARY:
        return perhaps
    return max(surely, perhaps - 1)


def completion_logprobs(logprobs: CompletionLogprobs, asked: int | None = None) -> TokenLogprobs | None:
    """Arrays from the decoded lists; None without tokens. Without `top_logprobs` every token is unscored.

    Args:
        logprobs: Of one choice.
        asked: The k of its response. Default: as `alternatives_asked` finds it in this choice alone.

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
    rows = padded(list((row or {}).values()) for row in top)
    rows = _highest(rows, alternatives_asked([logprobs]) if asked is None else asked)
    return arrays_of([_said(token) for token in tokens], rows, sampled)


def _highest(rows: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """The k highest entries of each row, shape `(T, min(k, K))`."""
    if rows.shape[1] <= k:
        return rows
    return -np.sort(-np.where(np.isnan(rows), -np.inf, rows), axis=1)[:, :k]


def _said(token: str) -> bytes:
    escaped = _BYTES.fullmatch(token) if token.startswith("bytes:") else None
    return bytes.fromhex(escaped[1].replace(r"\x", "")) if escaped else token_bytes(token)
