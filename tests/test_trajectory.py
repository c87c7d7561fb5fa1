"""Trajectories: turn by turn is as at once, unscored tokens count as generated, parts of them stand alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from entcent_agents.logprobs import TokenLogprobs, token_offsets
from entcent_agents.segments import SegmentKind
from entcent_agents.signals import SIGNALS, SignalSettings, signal_table, signal_value
from entcent_agents.testing import scripted_logprobs
from entcent_agents.trajectory import Trajectory, Turn

entropies = arrays(np.float32, st.integers(1, 40), elements=st.floats(0, 2, width=32))


def turn(entropy: np.ndarray, generated: int = 0) -> Turn:
    return Turn(message_id="m", generated_tokens=generated or len(entropy), logprobs=scripted_logprobs(entropy))


@settings(deadline=None)
@given(rows=st.lists(entropies, min_size=1, max_size=5), window=st.sampled_from([2, 7, 0.25]))
def test_turn_by_turn_is_as_at_once(rows: list[np.ndarray], window: int | float):
    measured = SignalSettings(window=window)
    live = Trajectory()
    for row in rows:
        live = live.append(turn(row))
        _ = signal_table([live], settings=measured)  # what was worked out before must not stay
    at_once = Trajectory(turns=(turn(np.concatenate(rows)),))
    for name in SIGNALS:
        assert signal_value(live, name, measured) == signal_value(at_once, name, measured)


@given(entropies, st.data())
def test_unscored_tokens_leave_the_centroid_and_lower_the_coverage(entropy: np.ndarray, data: st.DataObject):
    holes = data.draw(st.lists(st.integers(0, len(entropy)), min_size=1, max_size=5))
    whole, holed = (Trajectory(turns=(turn(row),)) for row in (entropy, np.insert(entropy, holes, np.nan)))
    assert holed.centroid() == whole.centroid()
    assert holed.coverage < whole.coverage == 1.0
    assert holed.scored_tokens == whole.scored_tokens
    lost = Trajectory(turns=(turn(entropy), Turn(message_id="m", generated_tokens=len(holes))))
    assert (lost.centroid(), lost.coverage) == (whole.centroid(), len(entropy) / (len(entropy) + len(holes)))


def test_a_trajectory_of_some_kinds_of_tokens_counts_those_alone():
    tokens = [b"Let me look.", b'{"name": "', b"find", b'", "arguments": {"x": ', b"4", b"1", b"}}"]
    entropy = np.array([1, 0, 0.5, 0, 2, np.nan, 0], np.float32)
    logprobs = TokenLogprobs(
        text=b"".join(tokens),
        offsets=token_offsets(tokens),
        logprob=-entropy,
        entropy=entropy,
        residual=np.zeros_like(entropy),
        confidence=entropy,
        top_k=2,
    )
    trajectory = Trajectory(turns=(Turn(message_id="a", generated_tokens=7, logprobs=logprobs),))
    arguments = trajectory.only({SegmentKind.TOOL_ARGUMENT})
    assert arguments.entropy.tolist() == [2.0]
    assert (arguments.generated_tokens, arguments.coverage) == (2, 0.5)
    assert trajectory.only({SegmentKind.TOOL_NAME, SegmentKind.ANSWER}).entropy.tolist() == [1.0, 0.5]
    assert trajectory.only({SegmentKind.REASONING}).generated_tokens == 0


def test_tokens_that_were_never_listed_count_in_every_part_by_its_share():
    tokens = [b'{"name": "', b"find", b'", "arguments": {"x": ', b"41", b"}}"]
    arrays = scripted_logprobs([1.0] * 5)
    assert arrays is not None
    call = TokenLogprobs(
        text=b"".join(tokens),
        offsets=token_offsets(tokens),
        logprob=arrays.logprob,
        entropy=arrays.entropy,
        residual=arrays.residual,
        confidence=arrays.confidence,
        top_k=10,
    )
    lost = tuple(Turn(message_id=f"{i}", generated_tokens=500) for i in range(5))
    trajectory = Trajectory(turns=(Turn(message_id="m", generated_tokens=5, logprobs=call), *lost))
    argument = trajectory.only({SegmentKind.TOOL_ARGUMENT})
    assert argument.generated_tokens == 1 + 2500 // 5
    assert argument.coverage < 0.01
    assert Trajectory(turns=lost).only({SegmentKind.ANSWER}).generated_tokens == 2500


def test_coverage_never_exceeds_one_where_a_server_counts_less_than_it_lists():
    listed = Trajectory(turns=(turn(np.array([1, 2, np.nan, np.nan, np.nan], np.float32), generated=2),))
    assert (listed.generated_tokens, listed.coverage) == (5, 0.4)
    assert listed.coverage_of("logprob") <= 1.0
