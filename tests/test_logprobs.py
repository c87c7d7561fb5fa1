"""The kinds of tokens in the arrays of a turn: worked out, cut down, kept in records. Other columns: test_records."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from entcent_agents import TokenLogprobs
from entcent_agents.errors import LogprobsMalformedError
from entcent_agents.logprobs import token_offsets
from entcent_agents.segments import Segment, SegmentKind

UNKNOWN, MARKUP, REASONING, ANSWER, NAME, ARGUMENT = SegmentKind


def logprobs(tokens: list[bytes], **changes) -> TokenLogprobs:
    column = np.arange(len(tokens), dtype=np.float32)
    fields = {"text": b"".join(tokens), "offsets": token_offsets(tokens), "top_k": 5}
    columns = {"logprob": -column, "entropy": column, "residual": column, "confidence": column}
    return TokenLogprobs(**{**fields, **{key: value.copy() for key, value in columns.items()}, **changes})


TURN = [b"Sure", b".\n", b"<tool_call>", b'{"name": "', b"f", b'", "arguments": {"a": ', b"12", b"}}", b"</tool_call>"]
KINDS = [ANSWER, ANSWER, MARKUP, MARKUP, NAME, MARKUP, ARGUMENT, MARKUP, MARKUP]


def test_a_turn_knows_the_kinds_and_segments_of_its_tokens():
    turn = logprobs(TURN)
    assert turn.kind.tolist() == KINDS
    assert Segment(ARGUMENT, 6, 7, 0, ("a",)) in turn.segments()
    with pytest.raises(ValueError, match="read-only"):
        turn.kind[0] = 1


def test_only_keeps_everything_of_the_tokens_of_some_kinds():
    turn = logprobs(TURN)
    kept = turn.only({NAME, ARGUMENT})
    assert (kept.text, [kept.token(i) for i in range(len(kept))]) == (b"f12", [b"f", b"12"])
    for column in ("logprob", "entropy", "residual", "confidence"):
        assert abs(getattr(kept, column)).tolist() == [4, 6]
    assert (kept.kind.tolist(), kept.top_k) == ([NAME, ARGUMENT], 5)
    assert kept.segments() == (Segment(NAME, 0, 1), Segment(ARGUMENT, 1, 2))
    assert len(turn.only(())) == len(turn.only([REASONING])) == 0
    assert turn.only(list(SegmentKind)).segments() == turn.segments()


def test_a_record_keeps_the_kinds_with_and_without_text():
    turn = logprobs(TURN)
    for record in (turn.to_dict(), turn.to_dict(text=False)):
        assert TokenLogprobs.from_dict(json.loads(json.dumps(record))).kind.tolist() == KINDS
    bare = TokenLogprobs.from_dict(turn.to_dict(text=False))
    assert [part[:3] for part in bare.segments()][:2] == [(ANSWER, 0, 2), (MARKUP, 2, 4)]
    assert bare.only([ARGUMENT]).entropy.tolist() == [6]


def test_a_record_without_kinds_reads_them_from_its_text_or_knows_none():
    for text, expected in ((True, KINDS), (False, [UNKNOWN] * len(TURN))):
        record = logprobs(TURN).to_dict(text=text)
        del record["kind"]
        assert TokenLogprobs.from_dict(record).kind.tolist() == expected


@pytest.mark.parametrize(
    "change",
    [
        {"kind": np.zeros(3, np.uint8)},
        {"kind": np.zeros(len(TURN), np.int64)},
        {"kind": np.full(len(TURN), 6, np.uint8)},
        {"offsets": token_offsets(TURN)[::-1].copy()},
        {"offsets": np.array([0, 5, 4, *token_offsets(TURN)[3:]], np.int32)},
    ],
    ids=["too short", "int64", "no such kind", "backwards", "a step back"],
)
def test_kinds_and_offsets_that_cannot_be_are_refused(change):
    with pytest.raises(LogprobsMalformedError):
        replace(logprobs(TURN), **change)
