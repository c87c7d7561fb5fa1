"""Lines that cannot be read: each has a line number and a reason, and harms no other line."""

from __future__ import annotations

import base64
import json
import re
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entcent_agents.errors import RecordingError
from entcent_agents.recordings import read_recordings
from tests.recordings.samples import ENTROPY_RESULTS, ONE_OF_EACH, encoded, one, read_all, written

LIMIT = 1 << 20
"""Longer lines are bad in these tests."""
GONE = object()


def at(shape: str, path: str, value: Any) -> bytes:
    """A valid line but for one field, which has another value, or is gone."""
    line = one(shape)
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    owner: Any = line
    for step in steps:
        owner = owner[step]
    assert isinstance(owner, list) or value is not GONE or last in owner
    if value is GONE:
        del owner[last]
    else:
        owner[last] = value
    return encoded(line)


def packed(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def starts(*numbers: int) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}i", *numbers)).decode()


CHOICE, BODY = "choices.0", "response.body.choices.0"
ENTRY = f"{CHOICE}.logprobs.content.1"
ARRAYS = f"{CHOICE}.logprobs"
PROBABILITIES = "completion_probabilities.1"
TURN = "rollout.turns.0"

MISSING = {
    "chat": [f"{CHOICE}.message", f"{ARRAYS}.content", f"{CHOICE}.message.tool_calls.0.function.name"],
    "batch": ["response.body", f"{BODY}.message", "response.body.choices", f"{BODY}.logprobs.content"],
    "completion": [f"{CHOICE}.text", f"{ARRAYS}.tokens", f"{ARRAYS}.token_logprobs"],
    "llama": ["content", f"{PROBABILITIES}.token"],
    "entropy_results": ["generated_text", "entropy_sequence.0.entropy", "entropy_sequence.3.token"],
    "rollout": [
        *("version", "task", "rollout", "rollout.version", "rollout.status", "rollout.turns", "rollout.usage"),
        *(f"{TURN}.message_id", f"{TURN}.generated_tokens", f"{TURN}.logprobs", "rollout.usage.model_calls"),
        *(f"{TURN}.logprobs.{name}" for name in ("version", "top_k", "entropy", "residual", "offsets")),
    ],
}
WRONG: dict[str, list[tuple[str, Any]]] = {
    "chat": [
        *[("choices", value) for value in ({}, "none", None, 1, [], [[]], ["a"])],
        *[
            (CHOICE + path, value)
            for path, value in ((".message", "hello"), (".message.content", 5), (".logprobs", []))
        ],
        *[(f"{ARRAYS}.content", value) for value in ("a", {}, [1], [["a", -1.0]])],
        *[(f"{ENTRY}.logprob", value) for value in ("-0.5", [], {}, True)],
        *[(f"{ENTRY}.bytes", value) for value in ("ab", [256], [-1], [1.5], ["a"])],
        *[(f"{ENTRY}.top_logprobs", value) for value in ({"a": -1.0}, [-1.0], "a", [{"logprob": "x"}])],
        *[(f"{CHOICE}.message.tool_calls", value) for value in ("add", [{}], [{"function": {"name": 5}}], [5])],
        *[(f"{CHOICE}.message.tool_calls.0.function.arguments", value) for value in (5, [1])],
        *[(f"{CHOICE}.message.function_call", value) for value in ("add", {}, {"name": None}, [])],
        *[("usage", value) for value in (5, "many", {"completion_tokens": -3}, {"prompt_tokens": "3"})],
        *[("usage.completion_tokens", value) for value in (1.5, "12", [])],
    ],
    "batch": [
        *[("response", value) for value in ("body", 5, [])],
        *[("response.body", value) for value in (None, "text", [], {}, {"object": "response", "output": []})],
        *[("response.status_code", value) for value in (500, 404, "200")],
        *[("error", value) for value in ({"code": "expired", "message": "too late"}, "too late")],
        (f"{BODY}.logprobs.content.0.logprob", "x"),
        ("response.body", ONE_OF_EACH["batch"]),
    ],
    "completion": [
        *[(f"{CHOICE}.text", value) for value in (5, ["a"])],
        *[(f"{ARRAYS}.tokens", value) for value in ("abc", [1, 2, 3], ["a"], ["a"] * 9)],
        *[(f"{ARRAYS}.token_logprobs", value) for value in ("abc", [-1.0], ["a", "b", "c"], {}, [-0.1] * 9)],
        *[(f"{ARRAYS}.top_logprobs", value) for value in ([-1.0] * 3, [{}], [{"a": "x"}] * 3, {"a": -1.0})],
    ],
    "llama": [
        *[("content", value) for value in (None, 5, ["a"])],
        *[("completion_probabilities", value) for value in ({}, "a", [5])],
        *[("tokens_predicted", value) for value in (-1, "2", 1.5)],
        *[(f"{PROBABILITIES}.{name}", value) for name, value in (("token", 5), ("logprob", "x"), ("bytes", [999]))],
        (f"{PROBABILITIES}.top_logprobs", [5]),
    ],
    "llama, probabilities": [
        *[(f"{PROBABILITIES}.prob", value) for value in (-0.5, 1.5, "half")],
        *[(f"{PROBABILITIES}.top_probs", value) for value in ([{"prob": -1.0}], [{"prob": 2.0}], [0.5], {})],
    ],
    "entropy_results": [
        *[("generated_text", value) for value in (None, 5)],
        *[("entropy_sequence", value) for value in ({}, "a", None, [1.0], [])],
        *[("entropy_sequence.2.entropy", value) for value in (-0.5, 1e30, "x", [1.0])],
        *[("entropy_sequence.2.token", value) for value in (None, 5)],
        *[("entropy_sequence.2.top_k_probs", value) for value in ("x", ["x"], 0.5)],
        *[("tokens", value) for value in (["a"], "abc", [])],
        *[("token_ids", value) for value in ([1], [1] * 8, ["a"] * 7)],
    ],
    "rollout": [
        *[("format", value) for value in ("entcent.trace", "entcent.rollouts")],
        *[("version", value) for value in (0, 2, "1", None)],
        *[("rollout", value) for value in (None, [], "packed", {})],
        *[("rollout.version", value) for value in (5, None)],
        *[("rollout.status", value) for value in ("won", None, 1)],
        *[("rollout.turns", value) for value in ({}, [5], [None], "turns")],
        *[("rollout.seconds", value) for value in ("1", None)],
        *[("rollout.usage", value) for value in ({}, None, {"prompt_tokens": 1})],
        *[(f"{TURN}.generated_tokens", value) for value in (-1, "2", 1.5)],
        *[(f"{TURN}.logprobs", value) for value in ([], "abc", {}, {"version": 9})],
        *[(f"{TURN}.logprobs.{name}", value) for name, value in (("version", 7), ("top_k", -1), ("top_k", "10"))],
        *[(f"{TURN}.logprobs.entropy", value) for value in ("A", "!!", 5, "AAAA", "AAAAAA==")],
        *[(f"{TURN}.logprobs.entropy", packed(*value)) for value in ((-1, 1), (1, float("inf")), (1, 2, 3))],
        (f"{TURN}.logprobs.logprob", packed(-1, 0.5)),
        *[(f"{TURN}.logprobs.offsets", starts(*value)) for value in ((0, 20, 9), (1, 4, 9), (0, 4, 8), (0, 9))],
    ],
}
POSITIVE = {
    "chat": [f"{ENTRY}.logprob", f"{ENTRY}.top_logprobs.0.logprob"],
    "batch": [f"{BODY}.logprobs.content.0.logprob", f"{BODY}.logprobs.content.2.top_logprobs.1.logprob"],
    "completion": [f"{ARRAYS}.token_logprobs.1", f"{ARRAYS}.top_logprobs.0.~"],
    "llama": [f"{PROBABILITIES}.logprob", f"{PROBABILITIES}.top_logprobs.0.logprob"],
}
UNKNOWN: dict[str, Any] = {
    "nothing": {},
    "a number": 5,
    "a string": "text",
    "null": None,
    "true": True,
    "an empty array": [],
    "an array of numbers": [1],
    "an array of arrays": [[[]]],
    "fields of something else": {"content": [{"type": "text", "text": "hello"}], "role": "assistant", "id": "msg"},
    "a prompt": {"messages": [{"role": "user", "content": "hello"}]},
    "an error": {"error": {"message": "rate limit", "code": 429}},
    "a request of a batch": {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {}},
    "a piece of a stream": {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "a"}}]},
    "the prompt among the tokens": {
        "usage": {"completion_tokens": 1},
        "choices": [{"text": "ab", "logprobs": {"tokens": ["a", "b"], "token_logprobs": [None, -1.0]}}],
    },
}
BYTES = {
    "binary": bytes(range(256)).replace(b"\n", b""),
    "zeros": b"\0" * 100,
    "UTF-16": encoded(ONE_OF_EACH["chat"]).decode().encode("utf-16")[:200].replace(b"\n", b""),
    "invalid UTF-8 in a field that is read": b'{"content": "\xff\xfe", "tokens_predicted": 1}',
    "invalid UTF-8 in a field that is not": b'{"content": "a", "tokens_predicted": 1, "x": "\xff"}',
    "invalid UTF-8 in a key": b'{"content": "a", "tokens_predicted": 1, "\xc3": 1}',
    "half a surrogate pair": b'{"content": "\\ud83d", "tokens_predicted": 1}',
    "a control character": b'{"content": "\x01", "tokens_predicted": 1}',
    "deep arrays": b"[" * 100_000,
    "deep arrays in a field": b'{"content": "a", "tokens_predicted": 1, "x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "deep objects": b'{"choices":' * 20_000 + b"1" + b"}" * 20_000,
    "10 MB of text": b"x" * 10_000_000,
    "10 MB of zeros": b"\0" * 10_000_000,
    "10 MB of valid JSON": encoded(one("llama", content="x" * 10_000_000)),
    "one bracket": b"{",
    "two on one line": encoded(ONE_OF_EACH["chat"]) * 2,
    "a comma after it": encoded(ONE_OF_EACH["chat"]) + b",",
    "single quotes": str(ONE_OF_EACH["llama"]).encode(),
    "a comment": b"# recorded in November",
    "an event of a stream": b"data: " + encoded(ONE_OF_EACH["chat"]),
    "a number out of range": b'{"content": "a", "completion_probabilities": [{"token": "a", "logprob": -1e999}]}',
    "digits": b'{"task": ' + b"9" * 10_000 + b', "content": "a", "tokens_predicted": 1}',
}
REWARDS: list[Any] = ["1", "good", {}, [], [1, 2, 3, 4, 5], ["1"], [[1]], {"value": 1}]
TASKS: list[Any] = [{}, ["a"], True, 1.5]


def cases() -> dict[str, bytes]:
    """Every malformed line, by what is wrong with it."""
    found: dict[str, bytes] = dict(BYTES)
    found |= {f"unknown: {name}": encoded(value) for name, value in UNKNOWN.items()}
    for shape in ONE_OF_EACH:
        whole = encoded(ONE_OF_EACH[shape])
        shares = [*(len(whole) * part // 8 for part in range(1, 8)), len(whole) - 1]
        found |= {f"{shape}: cut off after {cut} bytes": whole[:cut] for cut in shares}
        found |= {
            f"{shape}: {literal}": _with_literal(whole, literal) for literal in (b"NaN", b"Infinity", b"-Infinity")
        }
        found |= {f"{shape}: reward {value}": encoded(one(shape, reward=value)) for value in REWARDS}
        found |= {f"{shape}: reward {name}": _reward(shape, name) for name in (b"NaN", b"1e999")}
        found |= {f"{shape}: task {value}": encoded(one(shape, task=value)) for value in TASKS}
        found |= {f"{shape}: {path} gone": at(shape, path, GONE) for path in MISSING.get(shape, ())}
        found |= {f"{shape}: {path} = {value}"[:90]: at(shape, path, value) for path, value in WRONG.get(shape, ())}
        found |= {f"{shape}: {path} > 0": at(shape, path, 0.01) for path in POSITIVE.get(shape, ())}
    return found


def _with_literal(whole: bytes, literal: bytes) -> bytes:
    """The number in the middle of the line is none."""
    numbers = list(re.finditer(rb"(?<=[:\[] )-?\d[\d.e-]*", whole))
    middle = numbers[len(numbers) // 2]
    return whole[: middle.start()] + literal + whole[middle.end() :]


def _reward(shape: str, literal: bytes) -> bytes:
    return encoded(one(shape, reward="*")).replace(b'"*"', literal)


CASES = cases()


def test_there_are_enough_of_them_and_all_differ():
    assert len(CASES) >= 200
    names = {line: name for name, line in CASES.items()}
    assert [(name, names[line]) for name, line in CASES.items() if names[line] != name] == []


@pytest.mark.parametrize("line", CASES.values(), ids=CASES)
def test_a_bad_line_has_a_number_and_a_reason_and_harms_no_other(line, tmp_path):
    path = written(tmp_path / "f.jsonl", one("chat", task="before"), line, one("llama", task="after"))
    recordings, candidates = read_all(path, skip_bad=True, max_line_bytes=LIMIT)
    assert [(candidate.task, candidate.source) for candidate in candidates] == [
        ("before", f"{path}:1"),
        ("after", f"{path}:3"),
    ]
    (bad,) = recordings.bad_lines
    assert bad.source == f"{path}:2"
    assert len(bad.reason) > 15 and "\n" not in bad.reason and len(bad.reason) < 400
    with pytest.raises(RecordingError) as refusal:
        read_all(path, max_line_bytes=LIMIT)
    assert str(refusal.value) == f"{path}:2: {bad.reason} (--skip-bad goes on without this line)"


REASONS = {
    "binary": "not UTF-8 (byte 127",
    "invalid UTF-8 in a field that is not": "not UTF-8 (byte 46); expected JSON in UTF-8",
    "half a surrogate pair": "half a surrogate pair, or JSON that is cut off",
    "deep arrays in a field": "nested too deeply",
    "10 MB of valid JSON": "a line of more than 1,048,576 bytes; expected one recorded generation a line",
    "two on one line": "more after the end of the JSON",
    "unknown: nothing": "none of the known shapes: expected a chat.completion or text_completion response, a line of",
    "unknown: an error": "an error instead of a response: rate limit",
    "unknown: a piece of a stream": "a piece of a streamed response; expected whole responses",
    "unknown: the prompt among the tokens": "the prompt is among the tokens",
    "chat: b'NaN'": "NaN or Infinity (byte ",
    "chat: b'-Infinity'": "NaN or Infinity (byte ",
    "one bracket": "JSON that is cut off; expected one whole JSON object",
    "chat: choices = []": "no choices; expected one or more",
    "chat: choices.0.logprobs.content gone": "logprobs without tokens; expected content, or tokens and token_logprobs",
    "chat: choices.0.logprobs.content.1.logprob > 0": "the logprob of token 1 is 0.01; a natural-log probability is at",
    "chat: reward [1, 2, 3, 4, 5]": "5 rewards for 1 choices; expected one, or one for each choice",
    "chat: reward good": "Expected `bool | float | array | null`, got `str` - at `$.reward`",
    "batch: response.status_code = 500": "the request failed with status 500",
    "batch: error = too late": "the request failed: too late",
    "completion: choices.0.logprobs.tokens = ['a']": "1 tokens, 3 token_logprobs and 3 top_logprobs; expected as many",
    "llama, probabilities: completion_probabilities.1.prob = -0.5": "a probability of -0.5; expected 0 to 1",
    "entropy_results: entropy_sequence.2.entropy = -0.5": "the entropy of token 2 is -0.5 nats; expected 0 to ln k",
    "entropy_results: tokens = ['a']": "1 tokens and an entropy_sequence of 7; expected as many of each",
    "rollout: version = 2": "a record 'entcent.rollout' of version 2; this release reads 'entcent.rollout' of",
    "rollout: format = entcent.trace": "a record 'entcent.trace' of version 1; this release reads",
    "rollout: rollout.version = 5": "a rollout record of version 5; this release reads 1, 2, 3, 4",
    "rollout: rollout.turns.0.logprobs.version = 7": "token log-probabilities of version 7; this release reads 1",
}


@pytest.mark.parametrize(("name", "reason"), REASONS.items(), ids=REASONS)
def test_reasons_are_in_plain_words(name, reason, tmp_path):
    path = written(tmp_path / "f", CASES[name])
    recordings, _ = read_all(path, skip_bad=True, max_line_bytes=LIMIT)
    assert recordings.bad_lines[0].reason.startswith(reason)


def test_tiny_rounding_above_0_is_no_error(tmp_path):
    path = written(tmp_path / "f", at("chat", f"{ENTRY}.logprob", 0.00005))
    assert len(read_all(path)[1]) == 1


def test_all_bad_lines_are_listed_in_order(tmp_path):
    late = at("chat", "choices", 5)  # shows in the second pass
    path = written(tmp_path / "f", late, one("chat"), b"{", late, b"[]")
    with pytest.raises(RecordingError) as refusal:
        read_all(path)
    first, *listed = str(refusal.value).splitlines()
    assert first == "4 bad lines (--skip-bad goes on without them):"
    assert [line.partition(": ")[0].rpartition(":")[2] for line in listed] == ["1", "3", "4", "5"]


@pytest.mark.parametrize("line", [b"{", at("chat", "choices", 5)], ids=["first pass", "second pass"])
def test_at_most_twenty_bad_lines_are_looked_for(line, tmp_path):
    path = written(tmp_path / "f", one("chat"), *[line] * 500)
    with pytest.raises(RecordingError) as refusal:
        read_all(path)
    first, *listed = str(refusal.value).splitlines()
    assert first == "20 bad lines, and perhaps more (--skip-bad goes on without them):"
    assert listed[-1].startswith(f"{path}:21: ") and len(listed) == 20
    recordings, candidates = read_all(path, skip_bad=True)
    assert (len(candidates), len(recordings.bad_lines)) == (1, 500)


def test_no_task_is_given_once_a_bad_line_was_found(tmp_path):
    path = written(tmp_path / "f", *(one("chat", task=str(task)) for task in range(3)), b"x")
    tasks = iter(read_recordings([path]))
    with pytest.raises(RecordingError, match="f:4: "):
        next(tasks)


def test_a_task_keeps_the_candidates_that_can_be_read(tmp_path):
    good = ENTROPY_RESULTS[0]
    bad = good | {"entropy_sequence": good["entropy_sequence"][:3]}
    path = written(tmp_path / "f", good, bad, good, bad | {"original_id": "other"})
    recordings = read_recordings([path], skip_bad=True)
    for _ in range(2):  # bad lines of one iteration are not those of the next as well
        (found,) = recordings
        assert [(candidate.rollout.index, candidate.source[-2:]) for candidate in found] == [(0, ":1"), (1, ":3")]
        assert [bad_line.source[-2:] for bad_line in recordings.bad_lines] == [":2", ":4"]
    assert len(recordings) == 2  # one of them without a candidate


FUZZED = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
KEYS = st.sampled_from(
    "task id reward format version rollout choices message text content logprobs tokens token_logprobs top_logprobs "
    "token logprob bytes entropy_sequence entropy generated_text completion_probabilities prob top_probs usage "
    "custom_id response body status_code error turns".split()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=25
)


def reads_or_refuses(path, data: bytes, limit: int = 1000) -> None:
    path.write_bytes(data)
    try:
        recordings, _ = read_all(path, skip_bad=True, max_line_bytes=limit)
    except RecordingError:
        return
    assert all(re.fullmatch(rf"{re.escape(str(path))}:\d+", bad.source) for bad in recordings.bad_lines)


@FUZZED
@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_are_read_or_refused(data, tmp_path):
    reads_or_refuses(tmp_path / "f", data)


@FUZZED
@given(values=st.lists(VALUES, max_size=4), indent=st.sampled_from([None, 1]))
def test_arbitrary_json_is_read_or_refused(values, indent, tmp_path):
    reads_or_refuses(tmp_path / "f", "\n".join(json.dumps(value, indent=indent) for value in values).encode())


@FUZZED
@given(shape=st.sampled_from(sorted(ONE_OF_EACH)), data=st.data())
def test_damaged_lines_are_read_or_refused(shape, data, tmp_path):
    line = encoded(ONE_OF_EACH[shape])
    start = data.draw(st.integers(0, len(line)))
    end = data.draw(st.integers(start, min(len(line), start + 30)))
    reads_or_refuses(tmp_path / "f", line[:start] + data.draw(st.binary(max_size=10)) + line[end:], 1 << 20)
