"""Records: what is written is what is read, and what was said stays out unless asked for."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from entcent_agents.errors import LogprobsMalformedError, RecordingError
from entcent_agents.logprobs import TokenLogprobs, token_offsets
from entcent_agents.testing import scripted_logprobs
from entcent_agents.trajectory import Rollout, Trajectory, Turn, Usage

SAID = [b"secret", b" \xe2\x98", b"\x83 word"]


def logprobs(**changes) -> TokenLogprobs:
    column = np.array([0.1, np.nan, 2.0], np.float32)
    fields = {
        "text": b"".join(SAID),
        "offsets": token_offsets(SAID),
        "logprob": -column,
        "entropy": column.copy(),
        "residual": column / 10,
        "confidence": column * 2,
        "top_k": 5,
    }
    return TokenLogprobs(**(fields | changes))


def rollout() -> Rollout:
    turns = (
        Turn(message_id="a", generated_tokens=4, logprobs=logprobs()),
        Turn(message_id="b", generated_tokens=2),
    )
    return Rollout(
        index=3,
        thread_id="t:3",
        status="finished",
        trajectory=Trajectory(turns=turns),
        usage=Usage(prompt_tokens=7, generated_tokens=6, model_calls=2),
        seconds=1.5,
        error=None,
        vote_key="k",
        forks={"files": "ref"},
        output="packed",
    )


def through_json(record: dict) -> dict:
    return json.loads(json.dumps(record, allow_nan=False))


def test_token_logprobs_survive_json_exactly():
    before = logprobs()
    after = TokenLogprobs.from_dict(through_json(before.to_dict()))
    for name in ("logprob", "entropy", "residual", "confidence", "offsets"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        assert getattr(after, name).dtype == getattr(before, name).dtype
    assert (after.text, after.top_k, len(after)) == (before.text, 5, 3)
    assert [after.token(i) for i in range(3)] == SAID
    assert after.scored_tokens == 2


def test_no_tokens_are_a_record_too():
    empty = np.empty(0, np.float32)
    before = logprobs(
        text=b"", offsets=token_offsets([]), logprob=empty, entropy=empty, residual=empty, confidence=empty
    )
    assert len(TokenLogprobs.from_dict(through_json(before.to_dict()))) == 0


def test_a_rollout_survives_json():
    record = through_json(rollout().to_dict())
    after = Rollout.from_dict(record)
    assert through_json(after.to_dict()) == record
    assert after.usage == rollout().usage
    assert after.trajectory.coverage == rollout().trajectory.coverage == 2 / 6
    assert [turn.message_id for turn in after.trajectory.turns] == ["a", "b"]


def test_records_of_another_version_are_refused():
    with pytest.raises(LogprobsMalformedError, match="version 2"):
        TokenLogprobs.from_dict(logprobs().to_dict() | {"version": 2})
    with pytest.raises(LogprobsMalformedError, match="version None"):
        TokenLogprobs.from_dict({})
    with pytest.raises(RecordingError, match="version 5; this release reads 1, 2, 3, 4"):
        Rollout.from_dict(rollout().to_dict() | {"version": 5})


def test_records_of_the_first_version_are_read():
    record = rollout().to_dict() | {"version": 1}
    del record["plain"]
    assert Rollout.from_dict(record).to_dict() == rollout().to_dict()


@pytest.mark.parametrize(
    "change",
    [{"entropy": "AAAA"}, {"entropy": "AAAAAA=="}, {"logprob": "!"}, {"offsets": "AAAAAA=="}, {"top_k": None}],
    ids=["broken number", "too few", "not base64", "offsets that do not fit", "no k"],
)
def test_a_damaged_record_is_refused_in_our_words(change):
    with pytest.raises(LogprobsMalformedError):
        TokenLogprobs.from_dict(logprobs().to_dict() | change)


def test_a_record_that_lacks_a_column_is_refused():
    record = logprobs().to_dict()
    del record["residual"]
    with pytest.raises(LogprobsMalformedError, match="residual"):
        TokenLogprobs.from_dict(record)


@pytest.mark.parametrize("name", ["logprob", "entropy", "residual", "confidence", "offsets"])
def test_arrays_are_read_only(name):
    for record in (logprobs(), TokenLogprobs.from_dict(logprobs().to_dict())):
        with pytest.raises(ValueError, match="read-only"):
            getattr(record, name)[0] = 1


@pytest.mark.parametrize(
    "change",
    [
        {"logprob": np.zeros(2, np.float32)},
        {"residual": np.zeros(3, np.float64)},
        {"confidence": np.zeros((3, 1), np.float32)},
        {"offsets": np.zeros(3, np.int32)},
        {"text": b"other"},
    ],
    ids=["too short", "float64", "two dimensions", "offsets too short", "another text"],
)
def test_arrays_that_do_not_fit_each_other_are_refused(change):
    with pytest.raises(LogprobsMalformedError):
        logprobs(**change)


def test_without_text_a_record_contains_nothing_of_what_was_said():
    without = logprobs().to_dict(text=False)
    assert not {"text", "offsets"} & set(without)
    after = TokenLogprobs.from_dict(through_json(without))
    assert (after.text, after.token(0), len(after)) == (b"", b"", 3)
    said = base64.b64encode(b"secret").decode().rstrip("=")
    for record in (without, rollout().trajectory.turns[0].to_dict(), rollout().to_dict()):
        assert said[:7] not in json.dumps(record) and "secret" not in json.dumps(record)
    assert said[:7] in json.dumps(rollout().trajectory.turns[0].to_dict(text=True))


def turn(entropy: list[float], generated: int = 0, top_k: int = 10) -> Turn:
    return Turn(message_id="m", generated_tokens=generated, logprobs=scripted_logprobs(entropy, top_k))


def test_coverage_is_scored_over_generated_tokens_of_all_turns():
    assert Trajectory(turns=(turn([1.0, 1.0], 4), turn([], 4))).coverage == 0.25
    assert Trajectory(turns=(turn([1.0, 1.0], 1),)).coverage == 1.0
    assert Trajectory(turns=(turn([1.0, float("nan")], 2),)).coverage == 0.5
    assert Trajectory().coverage == 0.0


def test_entropy_runs_over_the_turns_without_unscored_tokens():
    trajectory = Trajectory(turns=(turn([1.0, float("nan")]), turn([]), turn([0.5])))
    assert trajectory.entropy.tolist() == [1.0, 0.5]
    assert trajectory.mean_entropy == 0.75
    assert Trajectory().mean_entropy is None


def test_turns_of_different_k_do_not_compare_and_unscored_ones_do_not_count():
    assert Trajectory(turns=(turn([1.0]), turn([2.0]))).top_k == 10
    assert Trajectory(turns=(turn([1.0]), turn([2.0], top_k=5))).top_k == 0
    assert Trajectory(turns=(turn([1.0]), turn([float("nan")], top_k=5))).top_k == 10
    assert Trajectory(turns=(turn([]),)).top_k is None


def test_usage_adds_up():
    one = Usage(prompt_tokens=1, generated_tokens=2, model_calls=1)
    assert one + one == Usage(prompt_tokens=2, generated_tokens=4, model_calls=2)
