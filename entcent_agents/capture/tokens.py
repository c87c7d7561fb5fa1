"""Token counts for when the server does not tell."""

from __future__ import annotations

import math
from functools import cache
from typing import Final

import tiktoken

BYTES_PER_TOKEN: Final = 4.0
"""The stated estimate where no tokenizer is at hand: about four bytes of UTF-8 a token."""


def estimated_tokens(text: str, model: str = "") -> int:
    """Tokens in `text`: tiktoken's count for OpenAI models where its vocabulary is at hand, else bytes over 4."""
    encoding = _encoding(model)
    if encoding is not None:
        return len(encoding.encode_ordinary(text))
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN)


@cache
def _encoding(model: str) -> tiktoken.Encoding | None:
    try:
        return tiktoken.encoding_for_model(model)
    except Exception:  # unknown model, or a vocabulary that cannot be fetched: tiktoken raises what requests raises
        return None
