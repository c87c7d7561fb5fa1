"""The mathematics against the golden cases, hand-computed cases and properties."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from entcent_agents.centroid import centroid_from_starts, centroid_moment, centroid_raw, entropy_centroid
from entcent_agents.entropy import token_distribution, token_entropy
from entcent_agents.errors import ConfigurationError, LogprobsMalformedError
from entcent_agents.phases import PhaseConfig, high_entropy_phases

DATA = Path(__file__).parent / "data"
GOLDEN_PHASES = [json.loads(line) for line in (DATA / "phases.jsonl").read_text().splitlines()]
GOLDEN_ENTROPY = [json.loads(line) for line in (DATA / "token_entropy.jsonl").read_text().splitlines()]

entropies = hnp.arrays(np.float64, st.integers(1, 200), elements=st.floats(0, 3))


def config_of(case: dict) -> PhaseConfig:
    return PhaseConfig(
        top_percent=case["top_percent"],
        bottom_percent=case["bottom_percent"],
        consecutive_low=case["consecutive_low"],
    )


def test_there_are_as_many_golden_cases_as_were_computed():
    assert (len(GOLDEN_PHASES), len(GOLDEN_ENTROPY)) == (120, 60)


@pytest.mark.parametrize("case", GOLDEN_PHASES, ids=range(len(GOLDEN_PHASES)))
def test_phases_and_centroids_equal_the_golden_cases(case):
    entropy, config = case["entropy"], config_of(case)
    assert [list(phase) for phase in high_entropy_phases(entropy, config)] == case["phases"]
    assert entropy_centroid(entropy, config) == pytest.approx(case["centroid"], abs=1e-9)
    assert centroid_from_starts(entropy, config) == pytest.approx(case["centroid_from_starts"], abs=1e-9)
    assert centroid_moment(entropy, config) == pytest.approx(case["moment"], abs=1e-9)
    assert centroid_raw(entropy) == pytest.approx(case["raw_centroid"], abs=1e-9)


def test_token_entropy_equals_the_golden_cases():
    for case in GOLDEN_ENTROPY:
        assert token_entropy([case["top_logprobs"]])[0] == pytest.approx(case["entropy"], abs=1e-9)


def test_ragged_golden_cases_in_one_padded_call_give_the_same():
    width = max(len(case["top_logprobs"]) for case in GOLDEN_ENTROPY)
    rows = np.full((len(GOLDEN_ENTROPY), width), -np.inf)
    for row, case in zip(rows, GOLDEN_ENTROPY, strict=True):
        row[: len(case["top_logprobs"])] = case["top_logprobs"]
    np.testing.assert_allclose(token_entropy(rows), [case["entropy"] for case in GOLDEN_ENTROPY], atol=1e-9)


def test_uniform_and_certain_rows_by_hand():
    uniform = np.log(np.full((1, 4), 0.25))
    assert token_entropy(uniform)[0] == pytest.approx(np.log(4))
    assert token_entropy([[0.0, -np.inf]])[0] == 0.0
    half = token_distribution(np.log([[0.25, 0.25]]))
    assert half.entropy[0] == pytest.approx(np.log(2))
    assert half.residual[0] == pytest.approx(0.5)
    assert half.confidence[0] == pytest.approx(np.log(4))


@pytest.mark.parametrize("absent", [np.nan, -9999.0, -3.4028234663852886e38, -np.inf])
def test_an_absent_entry_changes_nothing_and_a_row_of_them_is_unscored(absent):
    assert token_entropy([[np.log(0.5), np.log(0.5), absent]])[0] == pytest.approx(np.log(2))
    assert np.isnan(token_entropy([[absent, absent]])[0])


def test_a_positive_log_probability_is_refused_with_its_place():
    with pytest.raises(LogprobsMalformedError, match=r"\[1, 0\] is 0.7"):
        token_entropy([[-1.0], [0.7]])
    with pytest.raises(LogprobsMalformedError, match="shape"):
        token_entropy([-1.0, -2.0])


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=st.floats(-30, 0)))
def test_entropy_lies_between_zero_and_ln_k_whatever_the_order(rows):
    entropy = token_entropy(rows)
    assert (entropy >= 0).all() and (entropy <= np.log(rows.shape[1]) + 1e-9).all()
    np.testing.assert_allclose(token_entropy(rows[:, ::-1]), entropy, atol=1e-9)


def phases_one_token_at_a_time(entropy, config):
    """The definition, read literally."""
    high, low = np.percentile(entropy, (100 - config.top_percent, config.bottom_percent))
    phases, start, run = [], None, 0
    for i, value in enumerate(entropy):
        if start is None:
            if value >= high and value > low:
                start, run = i, 0
            continue
        run = run + 1 if value <= low else 0
        if run == config.consecutive_low:
            phases.append((start, i - run + 1 - start))
            start = None
    if start is not None:
        phases.append((start, len(entropy) - start))
    return tuple(phases)


@given(entropies, st.sampled_from([1, 3, 5, 20]), st.sampled_from([30, 50, 80]), st.integers(1, 5))
def test_phases_equal_the_definition_read_one_token_at_a_time(entropy, top, bottom, low):
    config = PhaseConfig(top_percent=top, bottom_percent=bottom, consecutive_low=low)
    assert tuple(map(tuple, high_entropy_phases(entropy, config))) == phases_one_token_at_a_time(entropy, config)


@given(entropies)
def test_a_centroid_lies_strictly_inside_the_trajectory_or_does_not_exist(entropy):
    centroid = entropy_centroid(entropy)
    assert centroid is None or 0.0 < centroid < 1.0


def test_equal_entropies_and_no_tokens_give_no_phase_and_no_centroid():
    assert high_entropy_phases(np.ones(50)) == ()
    assert entropy_centroid(np.ones(50)) is None
    assert entropy_centroid([]) is None
    assert centroid_raw(np.zeros(5)) is None


def test_unscored_tokens_take_no_position():
    entropy = np.array([0.1, 2.0, 0.1, 0.1, 0.1, 1.9, 0.1, 0.1])
    holes = np.insert(entropy, [0, 3, 5], np.nan)
    assert high_entropy_phases(holes) == high_entropy_phases(entropy)
    assert entropy_centroid(holes) == entropy_centroid(entropy)


def test_fixed_thresholds_replace_the_percentiles():
    assert high_entropy_phases([0.0, 1.0, 0.0, 0.0], thresholds=(0.9, 0.5)) == ((1, 1),)
    with pytest.raises(ConfigurationError, match="below the low one"):
        high_entropy_phases([1.0], thresholds=(0.1, 0.5))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"top_percent": 30, "bottom_percent": 80}, "overlap"),
        ({"top_percent": -1}, "percentage"),
        ({"consecutive_low": 0}, "at least 1"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(settings, said):
    with pytest.raises(ConfigurationError, match=said):
        PhaseConfig(**settings)


def test_negative_entropy_is_refused():
    with pytest.raises(LogprobsMalformedError, match="nats from 0"):
        high_entropy_phases([-0.5, 1.0])
