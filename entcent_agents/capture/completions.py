"""The legacy completions shape: parallel arrays `{"tokens", "token_logprobs", "top_logprobs"}`.

OpenAI's and vLLM's `/v1/completions` speak it; Together's chat completions too, often without `top_logprobs`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from entcent_agents.capture.arrays import token_bytes
from entcent_agents.capture.openai import LogprobEntry, NamedEntry, NamedTop, TopLogprob, token_logprobs
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
    return token_logprobs(completion_entries(logprobs, asked))


def completion_entries(logprobs: CompletionLogprobs, asked: int | None, *, named: bool = False) -> list[LogprobEntry]:
    """The decoded lists token by token, as the chat shape has them: what a stream adds one by one.

    Args:
        logprobs: Of one choice, or of one event.
        asked: As for `completion_logprobs`.
        named: Whether what the alternatives say is to be kept.

    Raises:
        LogprobsMalformedError: On lists of different lengths.
    """
    asked = alternatives_asked([logprobs]) if asked is None else asked
    listed = zip(*_parallel(logprobs), strict=True)
    if named:
        return [NamedEntry(token, value, _numbers(token), _named_tops(row, asked)) for token, value, row in listed]
    return [
        LogprobEntry("", value, list(_said(token)), [TopLogprob(each) for _, each in _highest_of(row, asked)])
        for token, value, row in listed
    ]


def _named_tops(row: dict[str, float | None] | None, asked: int) -> list[NamedTop]:
    return [NamedTop(value, token, _numbers(token)) for token, value in _highest_of(row, asked)]


def _parallel(
    logprobs: CompletionLogprobs,
) -> tuple[Sequence[str], Sequence[float | None], Sequence[dict[str, float | None] | None]]:
    tokens, sampled = logprobs.tokens, logprobs.token_logprobs
    if not tokens:
        return (), (), ()
    if sampled is None:
        raise LogprobsMalformedError("logprobs with tokens, but without token_logprobs")
    top = logprobs.top_logprobs or [None] * len(tokens)
    if not len(tokens) == len(sampled) == len(top):
        raise LogprobsMalformedError(
            f"{len(tokens)} tokens, {len(sampled)} token_logprobs and {len(top)} top_logprobs; expected as many of each"
        )
    return tokens, sampled, top


def _highest_of(row: dict[str, float | None] | None, k: int) -> list[tuple[str, float | None]]:
    """The k highest entries of a row; the sampled token comes beside them where it is none of them."""
    items = list((row or {}).items())
    return items if len(items) <= k else sorted(items, key=lambda item: math.inf if item[1] is None else -item[1])[:k]


def _numbers(token: str) -> list[int] | None:
    """The bytes; None where a token is no whole character and the server does not say which bytes it is."""
    return None if "\ufffd" in token else list(_said(token))


def _said(token: str) -> bytes:
    escaped = _BYTES.fullmatch(token) if token.startswith("bytes:") else None
    return bytes.fromhex(escaped[1].replace(r"\x", "")) if escaped else token_bytes(token)
