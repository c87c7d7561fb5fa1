"""The rows of an `entropy_results.jsonl`, as the authors of Entropy Centroids write it.

The entropy is taken as recorded. The probabilities beside it are renormalised over the top k, so the sampled token's
log-probability, the residual mass and the confidence cannot be had from them: those columns are NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from entcent_agents.capture.arrays import token_bytes
from entcent_agents.errors import LogprobsMalformedError
from entcent_agents.logprobs import TokenLogprobs, token_offsets

DEFAULT_TOP_K: Final = 20
"""Their default, for files that keep no probabilities."""
MOST_NATS: Final = 100.0
"""No vocabulary allows an entropy near it."""


class EntropyRow(msgspec.Struct):
    """One generated token."""

    token: str
    entropy: float | None
    top_k_probs: list[float] | None = None


def recorded_entropies(rows: Sequence[EntropyRow]) -> TokenLogprobs | None:
    """Arrays with the recorded entropies, null as unscored; None without rows.

    Raises:
        LogprobsMalformedError: On an entropy that cannot be.
    """
    if not rows:
        return None
    tokens = [token_bytes(row.token) for row in rows]
    entropy = np.array([row.entropy for row in rows], np.float64)
    check_entropies(entropy)
    unknown = np.full(len(rows), np.nan, np.float32)
    return TokenLogprobs(
        text=b"".join(tokens),
        offsets=token_offsets(tokens),
        logprob=unknown,
        entropy=entropy.astype(np.float32),
        residual=unknown.copy(),
        confidence=unknown.copy(),
        top_k=max(len(row.top_k_probs or ()) for row in rows) or DEFAULT_TOP_K,
    )


def check_entropies(entropy: np.ndarray[tuple[int], np.dtype[np.floating]]) -> None:
    """Refuse entropies that cannot be; NaN is an unscored token.

    Raises:
        LogprobsMalformedError: On one that is negative, infinite or beyond any vocabulary.
    """
    wrong = (entropy < 0) | (entropy > MOST_NATS)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise LogprobsMalformedError(f"the entropy of token {index} is {entropy[index]:g} nats; expected 0 to ln k")
