"""llama.cpp's own shape: `"completion_probabilities": [{"token", "bytes", "logprob", "top_logprobs": [...]}]`.

With `post_sampling_probs` it has probabilities instead: `prob` and `top_probs`. Servers from before that option wrote
`content` for the token and `probs` for its alternatives, and nothing for the sampled token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from entcent_agents.capture.arrays import Numbers, arrays_of, padded, token_bytes
from entcent_agents.capture.openai import TopLogprob
from entcent_agents.errors import LogprobsMalformedError
from entcent_agents.logprobs import TokenLogprobs


class TopProbability(msgspec.Struct):
    """One alternative after sampling."""

    prob: float | None = None


class LlamaEntry(msgspec.Struct):
    """One generated token, in any of the three forms."""

    token: str | None = None
    content: str | None = None
    bytes: list[Annotated[int, msgspec.Meta(ge=0, le=255)]] | None = None
    logprob: float | None = None
    top_logprobs: list[TopLogprob] | None = None
    prob: float | None = None
    top_probs: list[TopProbability] | None = None
    probs: list[TopProbability] | None = None

    @property
    def post_sampling(self) -> bool:
        """Whether it has probabilities."""
        return self.prob is not None or self.top_probs is not None or self.probs is not None


def llama_logprobs(entries: Sequence[LlamaEntry]) -> TokenLogprobs | None:
    """Arrays from decoded entries; None without entries.

    Raises:
        LogprobsMalformedError: On log-probabilities or probabilities that cannot be, or a token without text.
    """
    if not entries:
        return None
    tokens = [_said(entry) for entry in entries]
    if any(entry.post_sampling for entry in entries):
        rows = padded([top.prob for top in entry.top_probs or entry.probs or ()] for entry in entries)
        return arrays_of(tokens, _logarithms(rows), _logarithms([entry.prob for entry in entries]))
    rows = padded([top.logprob for top in entry.top_logprobs or ()] for entry in entries)
    return arrays_of(tokens, rows, [entry.logprob for entry in entries])


def _said(entry: LlamaEntry) -> bytes:
    text = entry.content if entry.token is None else entry.token
    if text is None:
        raise LogprobsMalformedError("a token without text; expected token, or content")
    return token_bytes(text, entry.bytes)


def _logarithms(probabilities: Numbers) -> NDArray[np.float64]:
    """Natural logarithms; 0, None and the padding of a row are absent."""
    values = np.array(probabilities, np.float64)
    if np.any((values < 0) & np.isfinite(values)):
        raise LogprobsMalformedError(f"a probability of {np.nanmin(values[np.isfinite(values)]):g}; expected 0 to 1")
    return np.log(values, out=np.full(values.shape, -np.inf), where=values > 0)
