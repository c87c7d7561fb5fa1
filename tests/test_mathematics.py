"""Entropies, phases and centroids against the golden cases and hand-computed ones; test_properties.py has the rest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from entcent_agents.centroid import centroid_from_starts, centroid_moment, centroid_raw, entropy_centroid
from entcent_agents.entropy import token_distribution, token_entropy
from entcent_agents.errors import ConfigurationError, LogprobsMalformedError
from entcent_agents.phases import PhaseConfig, high_entropy_phases

DATA = Path(__file__).parent / "data"
GOLDEN_PHASES = [json.loads(line) for line in (DATA / "phases.jsonl").read_text().splitlines()]
GOLDEN_ENTROPY = [json.loads(line) for line in (DATA / "token_entropy.jsonl").read_text().splitlines()]


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


def test_rows_whose_exponentials_vanish_keep_their_entropy():
    low = token_distribution([[-5000.0, -5000.0, np.nan], [-9998.0, -np.inf, -np.inf], [np.log(0.5), -5000.0, 0.0]])
    np.testing.assert_allclose(low.entropy, [np.log(2), 0.0, token_entropy([[np.log(0.5), 0.0]])[0]])
    np.testing.assert_allclose(low.confidence, [5000.0, 9998.0, (np.log(2) + 5000.0) / 3])
    np.testing.assert_array_equal(low.residual, [1.0, 1.0, 0.0])


def test_rounding_above_zero_is_read_as_zero_and_the_input_is_left_alone():
    rows = np.array([[5e-5, -1.0], [np.nan, -2.0]])
    before = rows.copy()
    assert token_entropy(rows)[0] == token_entropy([[0.0, -1.0]])[0]
    np.testing.assert_array_equal(rows, before)


def test_any_numbers_in_any_layout_give_the_same():
    rows = np.random.default_rng(0).uniform(-9, 0, (50, 7)).astype(np.float32)
    wide = rows.astype(np.float64)
    np.testing.assert_array_equal(token_entropy(rows), token_entropy(wide))
    np.testing.assert_array_equal(token_entropy(np.asfortranarray(wide)), token_entropy(wide))
    assert token_entropy([[0, -1], [None, 0]])[1] == 0.0
    assert token_entropy(np.empty((0, 5))).shape == (0,)
    assert np.isnan(token_distribution(np.empty((3, 0)))).all()


def test_a_positive_log_probability_is_refused_with_its_place():
    with pytest.raises(LogprobsMalformedError, match=r"\[1, 0\] is 0.7"):
        token_entropy([[-1.0], [0.7]])
    with pytest.raises(LogprobsMalformedError, match="shape"):
        token_entropy([-1.0, -2.0])


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
    for thresholds in [(0.1, 0.5), (np.nan, 0.5), (0.5, np.nan)]:
        with pytest.raises(ConfigurationError, match="below the low one"):
            high_entropy_phases([1.0], thresholds=thresholds)


def test_centroids_take_fixed_thresholds_too():
    entropy, thresholds = [0.0, 1.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0], (0.9, 0.5)
    assert entropy_centroid(entropy) == 4.5 / 8
    assert entropy_centroid(entropy, thresholds=thresholds) == (1.5 + 4.5) / (8 * 2)
    assert centroid_from_starts(entropy, thresholds=thresholds) == (1 + 4) / (8 * 2)
    assert centroid_moment(entropy, thresholds=thresholds) == (1 + 4) / 8


def test_a_start_on_the_low_threshold_is_none():
    assert high_entropy_phases([0.5, 0.6, 0.5, 0.5], thresholds=(0.5, 0.5)) == ((1, 1),)


def test_shares_that_make_up_a_hundred_do_not_cross_by_rounding():
    assert 100.0 - 2.067 < 97.933
    config = PhaseConfig(top_percent=2.067, bottom_percent=97.933)
    assert high_entropy_phases(np.arange(100.0), config) == ((97, 3),)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"top_percent": 30, "bottom_percent": 80}, "overlap"),
        ({"top_percent": -1}, "percentage"),
        ({"top_percent": float("nan")}, "top_percent=nan"),
        ({"bottom_percent": True}, "bottom_percent=True"),
        ({"bottom_percent": "80"}, "bottom_percent='80'"),
        ({"consecutive_low": 0}, "at least 1"),
        ({"consecutive_low": 2.0}, "consecutive_low=2.0"),
        ({"consecutive_low": True}, "consecutive_low=True"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(settings, said):
    with pytest.raises(ConfigurationError, match=said):
        PhaseConfig(**settings)


def test_negative_entropy_is_refused():
    with pytest.raises(LogprobsMalformedError, match="nats from 0"):
        high_entropy_phases([-0.5, 1.0])
