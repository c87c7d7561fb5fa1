"""From a payload's lists to `TokenLogprobs`: what every shape shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from entcent_agents.entropy import ABSENT_BELOW, ROUNDING, token_distribution
from entcent_agents.errors import LogprobsMalformedError
from entcent_agents.logprobs import Alternatives, Float32Array, TokenLogprobs, token_offsets

NO_ENTROPY: Final = 1e-12
UNSEEN: Final = 0.01
"""Where the one alternative of a token leaves more probability than this, the others are missing, not impossible."""

_LARGEST_ID: Final = int(np.iinfo(np.int32).max)

Numbers = Sequence[float | None] | NDArray[np.float64]


class Columns(NamedTuple):
    """The scores of T tokens, each of shape `(T,)`, float32; see `TokenLogprobs`."""

    logprob: Float32Array
    entropy: Float32Array
    residual: Float32Array
    confidence: Float32Array


def arrays_of(tokens: list[bytes], rows: NDArray[np.float64], sampled: Numbers) -> TokenLogprobs:
    """The arrays of T tokens.

    Args:
        tokens: What each says.
        rows: Natural-log probabilities of its alternatives, shape `(T, K)`; NaN and -inf are absent entries.
        sampled: That of the token itself, shape `(T,)`; NaN or None where it is not known.

    Raises:
        LogprobsMalformedError: On a positive value.
    """
    return whole_turn(tokens, [columns_of(rows, sampled)], rows.shape[1])


def columns_of(rows: NDArray[np.float64], sampled: Numbers) -> Columns:
    """The scores of T tokens, as for `arrays_of`.

    A token with a single alternative and probability to spare is unscored: one entry, renormalised, has entropy 0,
    which would make certainty of what the server left out.

    Raises:
        LogprobsMalformedError: On a positive value.
    """
    distribution = token_distribution(rows)
    unseen = (distribution.entropy < NO_ENTROPY) & (distribution.residual > UNSEEN)
    own = np.array(sampled, np.float64)
    if np.nanmax(own, initial=-np.inf) > ROUNDING:
        index = int(np.argmax(own > ROUNDING))
        raise LogprobsMalformedError(
            f"the logprob of token {index} is {own[index]:g}; a natural-log probability is at most 0"
        )
    return Columns(
        np.where(own > ABSENT_BELOW, np.minimum(own, 0.0), np.nan).astype(np.float32),
        *(np.where(unseen, np.nan, each).astype(np.float32) for each in distribution),
    )


def whole_turn(
    tokens: list[bytes],
    parts: Sequence[Columns],
    top_k: int,
    ids: Sequence[Any] = (),
    alternatives: Alternatives | None = None,
) -> TokenLogprobs:
    """A turn of scores that were computed part by part; its tokens have numbers where all of them are known."""
    columns = parts[0] if len(parts) == 1 else Columns(*map(np.concatenate, zip(*parts, strict=True)))
    return TokenLogprobs(
        text=b"".join(tokens),
        offsets=token_offsets(tokens),
        top_k=top_k,
        ids=vocabulary_numbers(ids),
        alternatives=alternatives,
        **columns._asdict(),
    )


def vocabulary_numbers(ids: Sequence[Any]) -> NDArray[np.int32] | None:
    """Numbers of tokens; None where one of them is missing, or no such number ("tok_1", say, at some gateways)."""
    if not ids or None in ids or set(map(type, ids)) != {int} or min(ids) < 0 or max(ids) > _LARGEST_ID:
        return None
    return np.array(ids, np.int32)


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
