"""The likeliest other token at each place, from entries whose alternatives have names: what branches take."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, NamedTuple

import numpy as np

from entcent_agents.capture.arrays import token_bytes, vocabulary_numbers
from entcent_agents.capture.openai import NamedEntry, NamedTop
from entcent_agents.entropy import ABSENT_BELOW
from entcent_agents.logprobs import Alternatives, token_offsets

_REPLACED: Final = "\ufffd"
"""Stands for bytes that are no whole character; where the server gives no bytes, nobody knows which."""


_alternatives: ContextVar[bool] = ContextVar("alternatives", default=False)


def keeps_alternatives() -> bool:
    """Whether answers asked for here keep what else might have stood at each token."""
    return _alternatives.get()


@contextmanager
def keep_alternatives(wanted: bool = True) -> Generator[None]:
    """Keep the alternatives of answers that are asked for inside, if that is wanted: branches are made of them."""
    token = _alternatives.set(wanted)
    try:
        yield
    finally:
        _alternatives.reset(token)


class Other(NamedTuple):
    """One alternative; see `Alternatives`."""

    said: bytes = b""
    logprob: float = math.nan
    id: object = None


class OtherTokens:
    """Finds the likeliest other token of each of a row of entries, one that says something.

    llama.cpp lists text that it held back with a later token: entries say nothing then, and a later one says more than
    its token. What was held back stands before each of the alternatives, as a branch begins with the listed text before
    it. Where nobody knows what was held back there is no alternative.
    """

    def __init__(self) -> None:
        self._held: bytes | None = b""

    def of(self, entry: NamedEntry) -> Other:
        """The next entry's."""
        listed, tops = token_bytes(entry.token, entry.bytes), entry.top_logprobs or ()
        own = next((_said(top) for top in tops if top.id == entry.id), None) if entry.id is not None else listed
        if listed:
            before, self._held = self._before(listed, own), b""
        else:
            before = self._held
            self._held = None if own is None or before is None else before + own
        if before is None:
            return Other()
        own = listed.removeprefix(before) if own is None else own
        others = [(top, said) for top in tops if _likely(top) and (said := _said(top)) and said != own]
        if not others:
            return Other()
        top, said = max(others, key=lambda other: other[0].logprob or 0.0)
        return Other(before + said, min(top.logprob or 0.0, 0.0), top.id)

    def _before(self, listed: bytes, own: bytes | None) -> bytes | None:
        """What of a listed text is not the token's own; None where that is not known."""
        if own is None:
            return self._held if self._held is not None and listed.startswith(self._held) else None
        return listed[: len(listed) - len(own)] if listed.endswith(own) else None


def alternatives_of(others: Sequence[Other]) -> Alternatives:
    """Arrays of one alternative a token; with numbers where those of all are known."""
    numbers = vocabulary_numbers([other.id for other in others if other.said])
    ids = None
    if numbers is not None:
        ids = np.full(len(others), -1, np.int32)
        ids[[bool(other.said) for other in others]] = numbers
    said = [other.said for other in others]
    return Alternatives(
        text=b"".join(said),
        offsets=token_offsets(said),
        logprob=np.array([other.logprob for other in others], np.float32),
        ids=ids,
    )


def _likely(top: NamedTop) -> bool:
    return top.logprob is not None and top.logprob > ABSENT_BELOW


def _said(top: NamedTop) -> bytes | None:
    """What an alternative says; None where that is not known."""
    return None if top.bytes is None and _REPLACED in top.token else token_bytes(top.token, top.bytes)
