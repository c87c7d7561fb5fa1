"""From a payload's lists to `TokenLogprobs`: what every shape shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from entcent_agents.entropy import ABSENT_BELOW, ROUNDING, token_distribution
from entcent_agents.errors import LogprobsMalformedError
from entcent_agents.logprobs import TokenLogprobs, token_offsets

Numbers = Sequence[float | None] | NDArray[np.float64]


def arrays_of(tokens: list[bytes], rows: NDArray[np.float64], sampled: Numbers) -> TokenLogprobs:
    """The arrays of T tokens.

    Args:
        tokens: What each says.
        rows: Natural-log probabilities of its alternatives, shape `(T, K)`; NaN and -inf are absent entries.
        sampled: That of the token itself, shape `(T,)`; NaN or None where it is not known.

    Raises:
        LogprobsMalformedError: On a positive value.
    """
    distribution = token_distribution(rows)
    own = np.array(sampled, np.float64)
    if np.nanmax(own, initial=-np.inf) > ROUNDING:
        index = int(np.argmax(own > ROUNDING))
        raise LogprobsMalformedError(
            f"the logprob of token {index} is {own[index]:g}; a natural-log probability is at most 0"
        )
    return TokenLogprobs(
        text=b"".join(tokens),
        offsets=token_offsets(tokens),
        logprob=np.where(own > ABSENT_BELOW, np.minimum(own, 0.0), np.nan).astype(np.float32),
        entropy=distribution.entropy.astype(np.float32),
        residual=distribution.residual.astype(np.float32),
        confidence=distribution.confidence.astype(np.float32),
        top_k=rows.shape[1],
    )


def padded(lists: Iterable[Sequence[float | None]]) -> NDArray[np.float64]:
    """Lists of different lengths as rows, shape `(T, K)`: K the longest, absent entries -inf, None as NaN."""
    lists = list(lists)
    lengths = np.fromiter(map(len, lists), np.intp, len(lists))
    rows = np.full((len(lists), int(lengths.max(initial=0))), -np.inf)
    rows[np.arange(rows.shape[1]) < lengths[:, None]] = np.array(list(chain.from_iterable(lists)), np.float64)
    return rows


def token_bytes(token: str, raw: Sequence[int] | None = None) -> bytes:
    """What a token says: its bytes where the server gives them, else its text."""
    return token.encode("utf-8", "surrogatepass") if raw is None else bytes(raw)
