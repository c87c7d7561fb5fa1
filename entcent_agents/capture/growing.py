"""Log-probabilities that arrive piece by piece: each block becomes arrays when it is full, not all at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from entcent_agents.capture.alternatives import Other, OtherTokens, alternatives_of
from entcent_agents.capture.arrays import Columns, columns_of, token_bytes, whole_turn
from entcent_agents.capture.openai import LogprobEntry, NamedEntry, top_rows
from entcent_agents.errors import LogprobsMalformedError
from entcent_agents.logprobs import TokenLogprobs

BLOCK_ENTRIES: Final = 64
"""Decoded entries kept as objects at most; then their numbers go into an array and the objects away.

Few, because objects that live for long are what makes Python collect garbage from its whole heap, all at once.
"""


PART_TOKENS: Final = 2048
"""Scored at once: few enough not to be felt, enough for NumPy to be quick."""


class GrowingLogprobs:
    """The tokens of one choice so far; adding one costs the same however many there are.

    Their alternatives are kept where the entries have named ones.

    Log-probabilities that cannot be are told at the end: other choices of the answer go on arriving.
    """

    def __init__(self) -> None:
        self._tokens: list[bytes] = []
        self._waiting: list[LogprobEntry] = []
        self._rows: list[NDArray[np.float64]] = []
        self._sampled: list[float | None] = []
        self._ids: list[Any] = []
        self._others: list[Other] = []
        self._finds = OtherTokens()
        self._parts: list[Columns] = []
        self._top_k = 0
        self._malformed: LogprobsMalformedError | None = None

    def __len__(self) -> int:
        return len(self._tokens) + len(self._waiting)

    def add(self, entries: Sequence[LogprobEntry]) -> None:
        """Take the next tokens."""
        self._waiting.extend(entries)
        if len(self._waiting) >= BLOCK_ENTRIES:
            self._pack()
        if len(self._sampled) >= PART_TOKENS:
            self._score()

    def join(self, other: GrowingLogprobs) -> None:
        """Take all tokens of another, which must not be added to any more."""
        for each in (self, other):
            each._pack()
            each._score()
        self._tokens += other._tokens
        self._ids += other._ids
        self._others += other._others
        self._finds = other._finds
        self._parts += other._parts
        self._top_k = max(self._top_k, other._top_k)
        self._malformed = self._malformed or other._malformed

    def arrays(self) -> TokenLogprobs | None:
        """All of them; None without any.

        Raises:
            LogprobsMalformedError: On log-probabilities that cannot be.
        """
        self._pack()
        self._score()
        if self._malformed:
            raise self._malformed
        if not self._tokens:
            return None
        others = alternatives_of(self._others) if len(self._others) == len(self._tokens) else None
        return whole_turn(self._tokens, self._parts, self._top_k, self._ids, others)

    def _pack(self) -> None:
        """Numbers instead of objects."""
        entries, self._waiting = self._waiting, []
        if entries:
            self._rows.append(top_rows(entries))
            self._tokens += [token_bytes(entry.token, entry.bytes) for entry in entries]
            self._sampled += [entry.logprob for entry in entries]
            self._ids += [entry.id for entry in entries]
            self._others += [self._finds.of(entry) for entry in entries if isinstance(entry, NamedEntry)]

    def _score(self) -> None:
        """Scores instead of rows."""
        blocks, sampled = self._rows, self._sampled
        self._rows, self._sampled = [], []
        if not sampled:
            return
        k = max(block.shape[1] for block in blocks)
        rows = np.full((len(sampled), k), -np.inf)
        start = 0
        for block in blocks:
            rows[start : start + len(block), : block.shape[1]] = block
            start += len(block)
        try:
            self._parts.append(columns_of(rows, sampled))
        except LogprobsMalformedError as error:
            start = len(self._tokens) - len(sampled)
            self._malformed = self._malformed or LogprobsMalformedError(f"{error} (tokens counted from {start})")
        self._top_k = max(self._top_k, k)
