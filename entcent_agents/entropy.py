"""Token entropy from top-k log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from entcent_agents.errors import LogprobsMalformedError

FloatArray = NDArray[np.float64]

ABSENT_BELOW: Final = -9999.0
"""Servers write "no such entry" as -9999 (vLLM) or the lowest float (llama.cpp); all of these are absent."""
ROUNDING: Final = 1e-4
"""A log-probability may exceed 0 by this much through a server's float rounding; it is then read as 0."""
BLOCK_ENTRIES: Final = 1 << 16
"""Entries worked on at once: with their exponentials 1 MiB, which stays in a core's cache."""
FAINT: Final = 1e-100
"""Where the probabilities of a row sum to less, it is scaled up first: its exponentials may vanish."""


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

    Example:
        >>> import numpy as np
        >>> from entcent_agents import token_entropy
        >>> token_entropy(np.log([[0.5, 0.5], [0.98, 0.02]])).round(3).tolist()
        [0.693, 0.098]

    Source: arXiv 2604.26173; see docs/mathematics.md.
    """
    return _by_blocks(top_logprobs, _entropy)[0]


def token_distribution(top_logprobs: ArrayLike) -> TokenDistribution:
    """Entropy, residual mass and confidence of each token, in one pass over the rows.

    Args:
        top_logprobs: As for `token_entropy`, shape `(T, K)`.

    Raises:
        LogprobsMalformedError: On a positive value, or another shape.
    """
    return TokenDistribution(*_by_blocks(top_logprobs, _entropy, _residual, _confidence))


class _Block(NamedTuple):
    """Rows few enough for the cache.

    Attributes:
        logprobs: Shape `(B, K)`; 0 where absent.
        present: Which entries are not absent, shape `(B, K)`; None for all, which saves the masks.
        entries: How many those are, shape `(B,)`.
        mass: Their probabilities, shape `(B, K)`; 0 where absent.
        total: Sum of the row's probabilities, shape `(B,)`.
    """

    logprobs: FloatArray
    present: NDArray[np.bool_] | None
    entries: FloatArray
    mass: FloatArray
    total: FloatArray


def _by_blocks(top_logprobs: ArrayLike, *columns: Callable[[_Block], FloatArray]) -> list[FloatArray]:
    """Each column over all rows; what a row gives does not depend on the rows beside it."""
    rows = np.asarray(top_logprobs)
    if rows.dtype != np.float32:
        rows = rows.astype(np.float64, copy=False)
    if rows.ndim != 2:
        raise LogprobsMalformedError(f"top_logprobs has shape {rows.shape}; expected (tokens, k)")
    tokens, k = rows.shape
    values = [np.full(tokens, np.nan) for _ in columns]
    length = max(1, BLOCK_ENTRIES // max(k, 1))
    room = np.empty((min(length, tokens), k))
    for first in range(0, tokens if k else 0, length):
        span = slice(first, first + length)
        block = _block(np.ascontiguousarray(rows[span], dtype=np.float64), first, room)
        for value, column in zip(values, columns, strict=True):
            value[span] = column(block)
    return values


def _block(logprobs: FloatArray, first: int, room: FloatArray) -> _Block:
    mass, present, entries = room[: len(logprobs)], None, np.full(len(logprobs), float(logprobs.shape[1]))
    if not (logprobs.min() > ABSENT_BELOW and logprobs.max() <= 0.0):  # NaN too
        _refuse_positive(logprobs, first)
        present = logprobs > ABSENT_BELOW
        entries = _row_sums(present.astype(np.float64))
        logprobs = np.minimum(np.fmax(logprobs, ABSENT_BELOW), 0.0)  # finite, so that the mask can be a factor
        logprobs *= present
    np.exp(logprobs, out=mass)
    if present is not None:
        mass *= present
    return _Block(logprobs, present, entries, mass, _row_sums(mass))


def _entropy(block: _Block) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):  # a row without an entry: 0 / 0 is NaN
        entropy = np.log(block.total) - np.einsum("ij,ij->i", block.mass, block.logprobs) / block.total
    if block.total.min() < FAINT:
        faint = np.flatnonzero((block.total < FAINT) & (block.entries > 0.0))
        rows = block.logprobs if block.present is None else np.where(block.present, block.logprobs, -np.inf)
        entropy[faint] = token_entropy(rows[faint] - rows[faint].max(axis=1, keepdims=True))
    return np.clip(entropy, 0.0, math.log(block.logprobs.shape[1]), out=entropy)


def _residual(block: _Block) -> FloatArray:
    return np.where(block.entries > 0.0, np.clip(1.0 - block.total, 0.0, 1.0), np.nan)


def _confidence(block: _Block) -> FloatArray:
    with np.errstate(invalid="ignore"):
        return np.abs(_row_sums(block.logprobs)) / block.entries


def _row_sums(rows: FloatArray) -> FloatArray:
    return np.einsum("ij->i", rows)  # where rows are short, several times faster than sum(axis=1)


def _refuse_positive(logprobs: FloatArray, first: int) -> None:
    positive = logprobs > ROUNDING
    if positive.any():
        row, column = np.argwhere(positive)[0]
        raise LogprobsMalformedError(
            f"top_logprobs[{first + row}, {column}] is {logprobs[row, column]:g}; "
            "a natural-log probability is at most 0"
        )
