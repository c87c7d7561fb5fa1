"""Bodies and events as bytes: decoded in slices, whatever stands in the tokens' text."""

from __future__ import annotations

import asyncio
import json
import random

import msgspec
import numpy as np
import pytest

from entcent_agents.capture.growing import GrowingLogprobs
from entcent_agents.capture.openai import LogprobEntry, TopLogprob, token_logprobs
from entcent_agents.chat import wire

NASTY = ["}]}]", "}]},", '}]},{"token":"', '"logprobs":{"content":[', "\\", '"', "NaN", "-Infinity", "{[", "é☃", "\n"]
LAYOUTS = {"compact": {"separators": (",", ":")}, "spaced": {}, "indented": {"indent": 1}}


def entry(rng: random.Random, place: int) -> dict:
    top = [
        {"token": rng.choice(NASTY), "logprob": -rng.random() - 2, "bytes": [1]} for _ in range(rng.choice((2, 2, 3)))
    ]
    return {"token": f"{place}{rng.choice(NASTY)}", "logprob": -1.0, "top_logprobs": top}


def body(rng: random.Random, lengths: list[int | None]) -> dict:
    """A body with so many tokens a choice; None: without log-probabilities."""
    return {
        "choices": [
            {
                "index": i,
                "message": {"content": "".join(NASTY), "tool_calls": None},
                "logprobs": None if n is None else {"content": [entry(rng, j) for j in range(n)], "refusal": None},
                "finish_reason": "stop",
            }
            for i, n in enumerate(lengths)
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }


async def pieces(data: bytes, size: int):
    for start in range(0, len(data), size):
        yield data[start : start + size]


def logprobs_of(decoded: wire.Decoded) -> list:
    sliced = iter(decoded.logprobs)
    found = []
    for choice in decoded.payload.choices:
        growing = GrowingLogprobs()
        if choice.logprobs and choice.logprobs.content is not None:
            growing = next(sliced, growing)
            growing.add(choice.logprobs.content)
        found.append(growing.arrays())
    return found


def assert_equal(found, expected) -> None:
    assert (found is None) == (expected is None)
    if found is not None:
        assert found.text == expected.text
        np.testing.assert_array_equal(found.entropy, expected.entropy)
        np.testing.assert_array_equal(found.logprob, expected.logprob)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("seed", range(6))
async def test_slices_give_what_the_whole_gives(monkeypatch, layout, seed):
    rng = random.Random(seed)
    monkeypatch.setattr(wire, "SLICE_BYTES", rng.choice((300, 1000, 5000)))
    said = body(rng, rng.choice(([40], [30, 0, 50], [None, 60], [7, None, 20, 33])))
    data = json.dumps(said, ensure_ascii=rng.random() < 0.5, **layout).encode()
    decoded = await wire.decoded_body(pieces(data, rng.choice((1, 97, 4096))))
    whole = msgspec.json.decode(data, type=wire.Payload)
    contents = [choice.logprobs and choice.logprobs.content for choice in whole.choices]
    for found, content in zip(logprobs_of(decoded), contents, strict=True):
        assert_equal(found, token_logprobs(content or ()))
    assert [choice.message for choice in decoded.payload.choices] == [choice.message for choice in whole.choices]
    assert decoded.payload.usage == whole.usage


@pytest.mark.parametrize("form", ["body", "event"])
async def test_no_more_than_a_slice_is_decoded_at_once_and_others_run_in_between(monkeypatch, form):
    sizes: list[int] = []
    decoded_at_once = wire._decoded
    monkeypatch.setattr(
        wire, "_decoded", lambda decoder, data: (sizes.append(len(data)), decoded_at_once(decoder, data))[1]
    )
    data = json.dumps(body(random.Random(0), [20_000, 5_000])).encode()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticker = asyncio.create_task(tick())
    decoded = await (wire.decoded_event(data) if form == "event" else wire.decoded_body(pieces(data, 1 << 16)))
    ticker.cancel()
    assert [len(found) for found in logprobs_of(decoded)] == [20_000, 5_000]
    assert max(sizes) <= 2 * wire.SLICE_BYTES
    assert ticks >= len(data) // wire.SLICE_BYTES


async def test_an_event_that_comes_in_many_pieces_is_put_together_once():
    data = b"x" * 1_000_000
    stream = b": comment\n\ndata: " + data + b"\r\n\r\ndata:[DONE]\n\ndata:  last\n\n"
    assert [event async for event in wire.event_data(pieces(stream, 100))] == [data, b"last"]


@pytest.mark.parametrize("end", [b"", b"\r", b"\n", b"\n\n"])
@pytest.mark.parametrize("last", [b'{"a": "b"}', b'{"a": NaN}', b"[DONE]"])
async def test_the_last_event_needs_no_line_break_at_its_end(last, end):
    stream = b'data: {"a": 1}\n\ndata: ' + last + end
    events = [b'{"a": 1}', last][: 1 if last == b"[DONE]" else 2]
    for size in (1, 7, 1000):
        assert [event async for event in wire.event_data(pieces(stream, size))] == events


@pytest.mark.parametrize("cut", [b"da", b"data:", b'data: {"a": 1', b'data: {"a": {}', b'data: {"a": "}'])
async def test_a_line_that_is_cut_off_is_no_event(cut):
    assert [event async for event in wire.event_data(pieces(b"data: 1\n\n" + cut, 3))] == [b"1"]


async def test_nan_in_text_stays_text():
    data = b'{"choices": [{"message": {"content": "NaN \\" -Infinity"}, "logprobs": {"content": [{"logprob": NaN}]}}]}'
    decoded = await wire.decoded_body(pieces(data, 10))
    (choice,) = decoded.payload.choices
    assert choice.message.content == 'NaN " -Infinity'
    assert choice.logprobs.content[0].logprob is None


def test_growing_arrays_are_those_of_the_whole_whatever_the_number_of_alternatives():
    rng = random.Random(1)
    entries = [
        LogprobEntry(f"t{i}", -1.0, None, [TopLogprob(-rng.random() - 2) for _ in range(rng.choice((2, 5)))])
        for i in range(5000)
    ]
    growing, other = GrowingLogprobs(), GrowingLogprobs()
    for start in range(0, 4000, 7):
        growing.add(entries[start : min(start + 7, 4000)])
    other.add(entries[4000:])
    growing.join(other)
    assert len(growing) == 5000
    assert growing.arrays().top_k == 5
    assert_equal(growing.arrays(), token_logprobs(entries))
