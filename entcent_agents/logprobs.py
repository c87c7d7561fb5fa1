"""Per-token log-probabilities of one turn, as compact read-only arrays."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from entcent_agents.errors import LogprobsMalformedError
from entcent_agents.segments import Segment, SegmentKind, token_kinds, token_segments

RECORD_VERSION: Final = 1
Float32Array = NDArray[np.float32]

_COLUMNS: Final = ("logprob", "entropy", "residual", "confidence")
_LAST_KIND: Final = max(SegmentKind)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Alternatives:
    """Of each of T tokens the likeliest other one: what a branch would have taken. Arrays are read-only.

    Attributes:
        text: Their UTF-8 bytes, one after the other; a token without an alternative has none.
        offsets: Where each starts in `text`, and the end of the last: shape `(T + 1,)`, int32.
        logprob: Their natural-log probabilities, shape `(T,)`, float32; NaN where there is no alternative.
        ids: Their numbers in the model's vocabulary, shape `(T,)`, int32, -1 where there is no alternative; None where
            the server does not say.
    """

    text: bytes
    offsets: NDArray[np.int32]
    logprob: Float32Array
    ids: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        _require_rows("alternatives", self.text, self.offsets, len(self.logprob))
        _require_column("alternatives.logprob", self.logprob, len(self.logprob), np.float32)
        if self.ids is not None:
            _require_column("alternatives.ids", self.ids, len(self.logprob), np.int32)

    def __len__(self) -> int:
        return len(self.logprob)

    def token(self, index: int) -> bytes:
        """The bytes of one alternative."""
        return self.text[int(self.offsets[index]) : int(self.offsets[index + 1])]

    def kept(self, kept: NDArray[np.bool_]) -> Self:
        """Those of the tokens that a mask of shape `(T,)` marks."""
        return replace(
            self,
            **_kept_text(self.text, self.offsets, kept),
            logprob=self.logprob[kept],
            ids=None if self.ids is None else self.ids[kept],
        )

    def followed_by(self, other: Self) -> Self:
        """Those of two stretches of tokens; without numbers where one has none."""
        ids = None if self.ids is None or other.ids is None else np.concatenate([self.ids, other.ids])
        return replace(
            self, **_joined_text(self, other), logprob=np.concatenate([self.logprob, other.logprob]), ids=ids
        )

    @classmethod
    def none_of(cls, tokens: int) -> Self:
        """Of tokens that nobody knows an alternative to."""
        return cls(
            text=b"",
            offsets=np.zeros(tokens + 1, np.int32),
            logprob=np.full(tokens, np.nan, np.float32),
            ids=np.full(tokens, -1, np.int32),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenLogprobs:
    """What scoring and branching need of the T tokens of one turn; arrays are read-only.

    A token without log-probabilities is *unscored*: its entropy is NaN. Unscored is not certain.

    Attributes:
        text: The UTF-8 bytes of all tokens, one after the other (a token may end inside a character).
        offsets: Where each token starts in `text`, and the end of the last: shape `(T + 1,)`, int32.
        logprob: Natural-log probability of the sampled token, shape `(T,)`, float32; NaN where the server gave none.
        entropy: Nats, of the renormalised top-k distribution, shape `(T,)`, float32; NaN where unscored.
        residual: Probability outside the top-k alternatives, shape `(T,)`, float32; NaN where unscored.
        confidence: Minus the mean of the top-k log-probabilities, nats, shape `(T,)`, float32; NaN where unscored.
        top_k: How many alternatives the server gave at most; scores of different k do not compare.
        kind: The `SegmentKind` of each token, shape `(T,)`, uint8. Default: read from the text; UNKNOWN without text.
        ids: The tokens' numbers in the model's vocabulary, shape `(T,)`, int32; None where the server does not say.
        alternatives: What might have stood there; None where nobody asked for them. No record has them.

    Example:
        >>> import numpy as np
        >>> from entcent_agents import TokenLogprobs
        >>> from entcent_agents.logprobs import token_offsets
        >>> tokens, nats = [b"Gen", b"too"], np.array([0.5, np.nan], np.float32)
        >>> columns = {"logprob": -nats, "entropy": nats.copy(), "residual": nats.copy(), "confidence": nats.copy()}
        >>> turn = TokenLogprobs(text=b"Gentoo", offsets=token_offsets(tokens), top_k=10, **columns)
        >>> len(turn), turn.scored_tokens
        (2, 1)
    """

    text: bytes
    offsets: NDArray[np.int32]
    logprob: Float32Array
    entropy: Float32Array
    residual: Float32Array
    confidence: Float32Array
    top_k: int
    kind: NDArray[np.uint8] = cast(Any, None)  # noqa: RUF009
    ids: NDArray[np.int32] | None = None
    alternatives: Alternatives | None = None

    def __post_init__(self) -> None:
        tokens = len(self.entropy)
        _require_rows("tokens", self.text, self.offsets, tokens)
        if cast("NDArray[np.uint8] | None", self.kind) is None:
            object.__setattr__(self, "kind", self._kinds_of_text())
        columns = [*((name, np.float32) for name in _COLUMNS), ("kind", np.uint8)]
        for name, dtype in columns if self.ids is None else [*columns, ("ids", np.int32)]:
            _require_column(name, getattr(self, name), tokens, dtype)
        if self.kind.max(initial=0) > _LAST_KIND:
            raise LogprobsMalformedError(f"kind has {self.kind.max()}; the last one is {_LAST_KIND}")
        if self.alternatives is not None and len(self.alternatives) != tokens:
            raise LogprobsMalformedError(f"{len(self.alternatives)} alternatives do not fit {tokens} tokens")

    def __len__(self) -> int:
        return len(self.entropy)

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which tokens carry a distribution, shape `(T,)`."""
        return np.isfinite(self.entropy)

    @property
    def scored_tokens(self) -> int:
        """How many tokens carry a distribution."""
        return int(np.count_nonzero(self.scored))

    def token(self, index: int) -> bytes:
        """The bytes of one token."""
        return self.text[int(self.offsets[index]) : int(self.offsets[index + 1])]

    def segments(self) -> tuple[Segment, ...]:
        """The turn in stretches of one kind, every token in one of them.

        Calls and paths are told where the text still tells them: not without text, nor after `only`.
        """
        segments = token_segments(self.text, self.offsets) if self.text else ()
        kinds = np.repeat([part.kind for part in segments], [part.end - part.start for part in segments])
        if np.array_equal(kinds, self.kind):
            return segments
        edges = [0, *(np.flatnonzero(np.diff(self.kind)) + 1).tolist(), len(self)]
        return tuple(Segment(SegmentKind(self.kind[start]), start, end) for start, end in pairwise(edges))

    def only(self, kinds: Collection[SegmentKind]) -> Self:
        """The tokens of these kinds, with all that is known of them."""
        return self._kept(np.isin(self.kind, [int(kind) for kind in kinds]))

    def head(self, tokens: int) -> Self:
        """The first tokens, at most that many, with all that is known of them."""
        return self._kept(np.arange(len(self)) < tokens)

    def followed_by(self, other: Self) -> Self:
        """Two stretches of one turn, their kinds read from the whole; without numbers where one has none."""
        ids = None if self.ids is None or other.ids is None else np.concatenate([self.ids, other.ids])
        alternatives = None
        if self.alternatives or other.alternatives:
            first, second = (each.alternatives or Alternatives.none_of(len(each)) for each in (self, other))
            alternatives = first.followed_by(second)
        return replace(
            self,
            **_joined_text(self, other),
            kind=cast(Any, None),
            ids=ids,
            alternatives=alternatives,
            top_k=max(self.top_k, other.top_k),
            **{name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in _COLUMNS},
        )

    def _kept(self, kept: NDArray[np.bool_]) -> Self:
        return replace(
            self,
            **_kept_text(self.text, self.offsets, kept),
            kind=self.kind[kept],
            ids=None if self.ids is None else self.ids[kept],
            alternatives=self.alternatives and self.alternatives.kept(kept),
            **{name: getattr(self, name)[kept] for name in _COLUMNS},
        )

    def _kinds_of_text(self) -> NDArray[np.uint8]:
        if not self.text:
            return np.zeros(len(self), np.uint8)
        return token_kinds(self.text, self.offsets)

    def to_dict(self, *, text: bool = True) -> dict[str, Any]:
        """Plain JSON-able form: arrays as base64 of little-endian numbers.

        Args:
            text: Whether to keep what the tokens say; without it the record says nothing of what was generated.
        """
        record: dict[str, Any] = {
            "version": RECORD_VERSION,
            "top_k": self.top_k,
            **{name: _encode(getattr(self, name), "<f4") for name in _COLUMNS},
            "kind": _encode(self.kind, "u1"),
        }
        if text:
            record |= {"text": base64.b64encode(self.text).decode(), "offsets": _encode(self.offsets, "<i4")}
        if text and self.ids is not None:
            record["ids"] = _encode(self.ids, "<i4")
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            LogprobsMalformedError: On another version, or arrays that do not fit each other.
        """
        if record.get("version") != RECORD_VERSION:
            raise LogprobsMalformedError(
                f"token log-probabilities of version {record.get('version')!r}; this release reads {RECORD_VERSION}"
            )
        try:
            columns: dict[str, Any] = {name: _decode(record[name], "<f4").astype(np.float32) for name in _COLUMNS}
            text = base64.b64decode(record["text"]) if "text" in record else b""
            if "offsets" in record:
                offsets = _decode(record["offsets"], "<i4").astype(np.int32)
            else:
                offsets = np.zeros(len(columns["entropy"]) + 1, np.int32)
            kind = _decode(record["kind"], "u1").astype(np.uint8) if "kind" in record else None
            ids = _decode(record["ids"], "<i4").astype(np.int32) if "ids" in record else None
            top_k = int(record["top_k"])
        except (KeyError, TypeError, ValueError) as error:
            raise LogprobsMalformedError(f"token log-probabilities that cannot be read: {error!r}") from error
        return cls(text=text, offsets=offsets, top_k=top_k, kind=cast(Any, kind), ids=ids, **columns)


def token_offsets(tokens: list[bytes]) -> NDArray[np.int32]:
    """Start of each token in their concatenation and the end of the last, shape `(T + 1,)`."""
    return _offsets(np.fromiter(map(len, tokens), np.int32, len(tokens)))


def _kept_text(text: bytes, offsets: NDArray[np.int32], kept: NDArray[np.bool_]) -> dict[str, Any]:
    """What is left of a row of tokens, as `text` and `offsets`."""
    lengths = np.diff(offsets)
    left = np.frombuffer(text, np.uint8)[np.repeat(kept, lengths)].tobytes()
    return {"text": left, "offsets": _offsets(lengths[kept])}


def _joined_text(first: TokenLogprobs | Alternatives, second: TokenLogprobs | Alternatives) -> dict[str, Any]:
    """Two rows of tokens as one, as `text` and `offsets`."""
    offsets = np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]])
    return {"text": first.text + second.text, "offsets": offsets}


def _require_rows(name: str, text: bytes, offsets: NDArray[np.int32], tokens: int) -> None:
    if offsets.shape != (tokens + 1,) or int(offsets[-1]) != len(text):
        raise LogprobsMalformedError(
            f"offsets of shape {offsets.shape} do not fit {tokens} {name} of {len(text)} bytes"
        )
    if offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise LogprobsMalformedError(f"offsets do not start at 0, or run backwards; {name} stand in a row")
    offsets.setflags(write=False)


def _require_column(name: str, column: NDArray[Any], tokens: int, dtype: Any) -> None:
    if column.shape != (tokens,) or column.dtype != dtype:
        raise LogprobsMalformedError(
            f"{name} has shape {column.shape} and type {column.dtype}; expected ({tokens},) and {np.dtype(dtype)}"
        )
    column.setflags(write=False)


def _offsets(lengths: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])


def _encode(array: ArrayLike, dtype: str) -> str:
    return base64.b64encode(np.asarray(array).astype(dtype).tobytes()).decode()


def _decode(text: str, dtype: str) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), dtype)
