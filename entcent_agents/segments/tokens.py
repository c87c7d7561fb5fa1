"""Which tokens of a model turn are reasoning, answer, tool names, tool arguments or markup."""

from __future__ import annotations

from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from entcent_agents.segments.lenient_json import Path
from entcent_agents.segments.spans import SegmentKind, Span, turn_spans

_RANKS: Final = (
    (SegmentKind.MARKUP,),
    (SegmentKind.REASONING, SegmentKind.ANSWER),
    (SegmentKind.TOOL_NAME,),
    (SegmentKind.TOOL_ARGUMENT,),
)
"""From the least specific: a token that lies across several spans belongs to the last rank, and there to the first."""

_NO_BYTES: Final = Span(0, 0, SegmentKind.MARKUP)


class Segment(NamedTuple):
    """A stretch of tokens of one kind.

    Attributes:
        kind: What they are.
        start: The first token.
        end: Behind the last token.
        call: Which tool call of the turn they are within, from 0; None outside calls.
        path: Where an argument sits in the arguments' JSON: keys and list positions; empty elsewhere.
    """

    kind: SegmentKind
    start: int
    end: int
    call: int | None = None
    path: Path = ()


def token_segments(text: bytes, offsets: ArrayLike) -> tuple[Segment, ...]:
    """The segments of a turn: disjoint, in order, every token in one of them.

    Args:
        text: The UTF-8 bytes of all tokens, one after the other; a token may end inside a character.
        offsets: Where each token starts in `text`, and the end of the last: shape `(T + 1,)`.
    """
    spans, owners = _owners(text, offsets)
    if not len(owners):
        return ()
    segments: list[Segment] = []
    edges = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist(), len(owners)]
    for start, end in pairwise(edges):
        _, _, kind, call, path = spans[int(owners[start])]
        last = segments[-1] if segments else None
        if last and (last.kind, last.call, last.path) == (kind, call, path):
            segments[-1] = last._replace(end=end)
        else:
            segments.append(Segment(kind, start, end, call, path))
    return tuple(segments)


def token_kinds(text: bytes, offsets: ArrayLike) -> NDArray[np.uint8]:
    """The `SegmentKind` of each token, shape `(T,)`.

    Args:
        text: As for `token_segments`.
        offsets: As for `token_segments`.
    """
    spans, owners = _owners(text, offsets)
    return np.fromiter((span.kind for span in spans), np.uint8, len(spans))[owners]


def _owners(text: bytes, offsets: ArrayLike) -> tuple[list[Span], NDArray[np.intp]]:
    """The spans, and which of them each token belongs to, shape `(T,)`; the last one is for tokens of no bytes."""
    decoded = text.decode("utf-8", "surrogateescape")
    spans = turn_spans(decoded)
    positions = _byte_positions(decoded, text)
    span_starts = positions[np.fromiter((span.start for span in spans), np.intp, len(spans))]
    span_ends = positions[np.fromiter((span.end for span in spans), np.intp, len(spans))]
    edges = np.clip(np.asarray(offsets, np.int64), 0, len(text))
    starts, ends = edges[:-1], edges[1:]
    owners = np.full(len(starts), len(spans), np.intp)
    for rank in _RANKS:
        chosen = np.array([index for index, span in enumerate(spans) if span.kind in rank], np.intp)
        if not len(chosen):
            continue
        # The first span of this rank that ends behind the token's start: the token touches it, or none of the rank.
        first = np.searchsorted(span_ends[chosen], starts, "right")
        found = chosen[np.minimum(first, len(chosen) - 1)]
        touched = (first < len(chosen)) & (starts < ends) & (span_starts[found] < ends)
        owners[touched] = found[touched]
    return [*spans, _NO_BYTES], owners


def _byte_positions(decoded: str, text: bytes) -> NDArray[np.intp]:
    """Where each character starts in the bytes, and where the last ends."""
    if len(decoded) == len(text):
        return np.arange(len(text) + 1, dtype=np.intp)
    codes = np.frombuffer(decoded.encode("utf-32-le", "surrogatepass"), "<u4")
    widths = 1 + (codes >= 0x80).astype(np.intp) + (codes >= 0x800) + (codes >= 0x10000)
    widths[(codes >= 0xDC80) & (codes <= 0xDCFF)] = 1  # a byte that is no UTF-8
    return np.concatenate([np.zeros(1, np.intp), np.cumsum(widths)])
