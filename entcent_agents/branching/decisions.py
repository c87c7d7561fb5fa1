"""Which tokens of a turn decide something: whether a tool is called, which one, and with what."""

from __future__ import annotations

from itertools import groupby
from typing import Final, NamedTuple

from entcent_agents.logprobs import TokenLogprobs
from entcent_agents.segments import SegmentKind
from entcent_agents.trajectory import Decision

_OF_CALLS: Final[dict[SegmentKind, Decision]] = {
    SegmentKind.TOOL_NAME: "tool",
    SegmentKind.TOOL_ARGUMENT: "argument",
}
_SAID: Final = (SegmentKind.REASONING, SegmentKind.ANSWER)


class DecisionToken(NamedTuple):
    """A token that decides something.

    Attributes:
        token: Its index in the turn, from 0.
        decision: What it decides.
        kind: What it belongs to.
    """

    token: int
    decision: Decision
    kind: SegmentKind


class _Stretch(NamedTuple):
    """Tokens of one kind in a row, whichever calls and arguments they are within."""

    kind: SegmentKind
    start: int
    end: int


def decision_tokens(logprobs: TokenLogprobs) -> tuple[DecisionToken, ...]:
    """The tokens of a turn that decide something, in order, each once.

    - `call`: where calls begin, the turn begins with them or they follow reasoning or an answer, the first token of
      their markup; where an answer begins the turn, or follows its reasoning, the first token of the answer. A further
      call right behind another is no such place.
    - `tool`: every token of a tool's name.
    - `argument`: every token of the value of an argument.

    Tokens of white space alone begin nothing. Where nobody knows what the tokens are, none decides anything.
    """
    stretches = _stretches(logprobs)
    found: list[DecisionToken] = []
    for index, stretch in enumerate(stretches):
        if decision := _OF_CALLS.get(stretch.kind):
            found += [DecisionToken(token, decision, stretch.kind) for token in range(stretch.start, stretch.end)]
            continue
        token = _beginning(logprobs, stretches, index)
        if token is not None:
            found.append(DecisionToken(token, "call", stretch.kind))
    return tuple(found)


def _stretches(logprobs: TokenLogprobs) -> list[_Stretch]:
    stretches: list[_Stretch] = []
    for kind, parts in groupby(logprobs.segments(), key=lambda segment: segment.kind):
        first, *rest = parts
        stretches.append(_Stretch(kind, first.start, (rest[-1] if rest else first).end))
    return stretches


def _beginning(logprobs: TokenLogprobs, stretches: list[_Stretch], index: int) -> int | None:
    """The token of a stretch with which calls or the answer begin; None where they begin elsewhere."""
    stretch, before = stretches[index], stretches[:index]
    if stretch.kind == SegmentKind.ANSWER:
        spoken = {other.kind for other in before} - {SegmentKind.MARKUP}
        return _first_visible(logprobs, stretch.start, stretch.end) if spoken <= {SegmentKind.REASONING} else None
    if stretch.kind != SegmentKind.MARKUP or index + 1 == len(stretches) or stretches[index + 1].kind not in _OF_CALLS:
        return None
    if not before:
        return _first_visible(logprobs, 0, stretch.end)
    if before[-1].kind not in _SAID:
        return None
    start = stretch.start
    if before[-1].kind == SegmentKind.REASONING:
        start = _behind_closing_tag(logprobs, start, stretch.end)
    return _first_visible(logprobs, start, stretch.end)


def _behind_closing_tag(logprobs: TokenLogprobs, start: int, end: int) -> int:
    """The first token behind the tag that ends reasoning: `</think>`, `[/THINK]`."""
    ends = (token + 1 for token in range(start, end) if any(mark in logprobs.token(token) for mark in (b">", b"]")))
    return next(ends, end)


def _first_visible(logprobs: TokenLogprobs, start: int, end: int) -> int | None:
    return next((token for token in range(start, end) if logprobs.token(token).strip() or not logprobs.text), None)
