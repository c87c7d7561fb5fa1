"""Turns made by hand, token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from entcent_agents.logprobs import Alternatives, TokenLogprobs, token_offsets

TOP_K = 20
CALL = [
    "<tool_call>",
    "\n",
    '{"',
    "name",
    '": "',
    "find",
    "_all",
    '", "arguments": {"x": ',
    "4",
    "1",
    "}}",
    "\n",
    "</tool_call>",
]
"""A call, in the tokens of a usual tokenizer: the call begins at 0, its tool at 5, its argument at 8."""
DECIDING = (0, 5, 6, 8, 9)
"""Which tokens of it decide something."""


def turn(
    tokens: Sequence[str],
    entropy: Sequence[float],
    others: Sequence[str] | None = None,
    probability: Sequence[float] | float = 0.2,
    *,
    ids: Sequence[int] | None = None,
) -> TokenLogprobs:
    """A turn of these tokens; without `others` nobody asked what else might have stood there."""
    count = len(tokens)
    texts = [token.encode() for token in tokens]
    zeros = np.zeros(count, np.float32)
    alternatives = None
    if others is not None:
        other_texts = [other.encode() for other in others]
        logprob = np.log(np.broadcast_to(probability, count)).astype(np.float32)
        logprob[[not text for text in other_texts]] = np.nan
        alternatives = Alternatives(
            text=b"".join(other_texts),
            offsets=token_offsets(other_texts),
            logprob=logprob,
            ids=None if ids is None else np.array(ids, np.int32),
        )
    return TokenLogprobs(
        text=b"".join(texts),
        offsets=token_offsets(texts),
        logprob=zeros,
        entropy=np.array(entropy, np.float32),
        residual=zeros.copy(),
        confidence=zeros.copy(),
        top_k=TOP_K,
        alternatives=alternatives,
    )


def call(entropies: dict[int, float], others: dict[int, str] | None = None) -> TokenLogprobs:
    """`CALL` with these entropies, 0 elsewhere, and an alternative for every token."""
    return turn(
        CALL,
        [entropies.get(token, 0.0) for token in range(len(CALL))],
        [(others or {}).get(token, f"~{token}") for token in range(len(CALL))],
    )
