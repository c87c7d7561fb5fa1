"""Token entropy from top-k log-probabilities."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from entcent_agents.errors import LogprobsMalformedError

FloatArray = NDArray[np.float64]

ABSENT_BELOW: Final = -9999.0
"""Servers write "no such entry" as -9999 (vLLM) or the lowest float (llama.cpp); all of these are absent."""
ROUNDING: Final = 1e-4
"""A log-probability may exceed 0 by this much through a server's float rounding; it is then read as 0."""


class TokenDistribution(NamedTuple):
    """What the top-k rows say of each token; every array has shape `(T,)`, NaN where a row has no entry.

    Attributes:
        entropy: Nats, of the renormalised top-k distribution, in `[0, ln K]`.
        residual: Probability outside the top k, in `[0, 1]`.
        confidence: Minus the mean log-probability of the present entries, nats (arXiv 2508.15260).
    """

    entropy: FloatArray
    residual: FloatArray
    confidence: FloatArray


def token_entropy(top_logprobs: ArrayLike) -> FloatArray:
    """Shannon entropy of each token's renormalised top-k distribution, in nats.

    Args:
        top_logprobs: Natural-log probabilities, shape `(T, K)`, in any order; NaN and anything at or
            below -9999 is an absent entry.

    Returns:
        Shape `(T,)`, each in `[0, ln K]`; NaN where a row has no entry.

    Raises:
        LogprobsMalformedError: On a positive value, or another shape.

    Source: arXiv 2604.26173; see docs/mathematics.md.
    """
    return token_distribution(top_logprobs).entropy


def token_distribution(top_logprobs: ArrayLike) -> TokenDistribution:
    """Entropy, residual mass and confidence of each token, in one pass over the rows.

    Args:
        top_logprobs: As for `token_entropy`, shape `(T, K)`.

    Raises:
        LogprobsMalformedError: On a positive value, or another shape.
    """
    rows = _validated(top_logprobs)
    if rows.shape[1] == 0:
        unscored = np.full(len(rows), np.nan)
        return TokenDistribution(unscored, unscored.copy(), unscored.copy())
    present = np.isfinite(rows)
    top = np.where(present, rows, -np.inf).max(axis=1)
    scored = np.isfinite(top)
    shift = np.where(scored, top, 0.0)
    mass = np.exp(np.where(present, rows - shift[:, None], -np.inf))  # e^(l - top), 0 where absent
    total = np.where(scored, mass.sum(axis=1), 1.0)
    weighted = (mass * np.where(present, rows - shift[:, None], 0.0)).sum(axis=1)
    entropy = np.maximum(np.log(total) - weighted / total, 0.0)
    residual = np.clip(1.0 - np.exp(shift) * total, 0.0, 1.0)
    confidence = -np.where(present, rows, 0.0).sum(axis=1) / np.maximum(present.sum(axis=1), 1)
    return TokenDistribution(*(np.where(scored, column, np.nan) for column in (entropy, residual, confidence)))


def _validated(top_logprobs: ArrayLike) -> FloatArray:
    rows = np.asarray(top_logprobs, dtype=np.float64)
    if rows.ndim != 2:
        raise LogprobsMalformedError(f"top_logprobs has shape {rows.shape}; expected (tokens, k)")
    if rows.size and np.nanmax(rows, initial=-np.inf) > ROUNDING:
        row, column = np.argwhere(rows > ROUNDING)[0]
        raise LogprobsMalformedError(
            f"top_logprobs[{row}, {column}] is {rows[row, column]:g}; a natural-log probability is at most 0"
        )
    absent = ~(rows > ABSENT_BELOW)  # NaN too
    return np.where(absent, -np.inf, np.minimum(rows, 0.0))
