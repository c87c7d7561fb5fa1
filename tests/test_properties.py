"""What holds of the mathematics for any input."""

from __future__ import annotations

import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from entcent_agents import entropy as entropy_module
from entcent_agents.centroid import entropy_centroid
from entcent_agents.confidence import group_confidence
from entcent_agents.entropy import BLOCK_ENTRIES, token_distribution, token_entropy
from entcent_agents.errors import ConfigurationError, LogprobsMalformedError
from entcent_agents.phases import PhaseConfig, high_entropy_phases, percentile, scored_values

rows = hnp.arrays(np.float64, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=st.floats(-30, 0))
gapped_rows = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 20), st.integers(1, 6)),
    elements=st.floats(-30, 0) | st.sampled_from([np.nan, -np.inf, -9999.0, -9998.0, -800.0, -250.0, -200.0, 5e-5]),
)
entropies = hnp.arrays(np.float64, st.integers(1, 200), elements=st.floats(0, 3))
steps = hnp.arrays(np.int64, st.integers(1, 200), elements=st.integers(0, 12)).map(lambda n: n / 4)
thresholds = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(lambda n: (max(n) / 4, min(n) / 4))
configs = st.builds(
    PhaseConfig,
    top_percent=st.sampled_from([1, 3, 5, 20]),
    bottom_percent=st.sampled_from([30, 50, 80]),
    consecutive_low=st.integers(1, 6),
)


@given(rows, st.randoms())
def test_entropy_lies_between_zero_and_ln_k_whatever_the_order(rows, random):
    entropy = token_entropy(rows)
    assert ((entropy >= 0) & (entropy <= math.log(rows.shape[1]))).all()
    order = random.sample(range(rows.shape[1]), rows.shape[1])
    np.testing.assert_allclose(token_entropy(rows[:, order]), entropy, atol=1e-12)


@given(gapped_rows)
def test_columns_equal_the_formulas_read_one_token_at_a_time(rows):
    found = token_distribution(rows)
    for i, row in enumerate(rows):
        present = np.minimum(row[row > -9999], 0.0)
        if not len(present):
            assert np.isnan([column[i] for column in found]).all()
            continue
        share = np.exp(present - present.max()) / np.exp(present - present.max()).sum()
        assert found.entropy[i] == pytest.approx(-(share * np.log(np.maximum(share, 1e-300))).sum(), abs=1e-12)
        assert found.residual[i] == pytest.approx(max(0.0, 1.0 - np.exp(present).sum()), abs=1e-12)
        assert found.confidence[i] == pytest.approx(-present.mean())


@given(gapped_rows, st.integers(1, 40))
def test_where_blocks_end_does_not_matter(rows, entries):
    whole = token_distribution(rows)
    with mock.patch.object(entropy_module, "BLOCK_ENTRIES", entries):
        for column, in_blocks in zip(whole, token_distribution(rows), strict=True):
            np.testing.assert_array_equal(in_blocks, column)


@pytest.mark.parametrize("k", [1, 2, 5, 20, 33])
@pytest.mark.parametrize("unusual", [np.nan, -np.inf, -800.0, 5e-5])
def test_entropies_of_a_concatenation_are_the_concatenated_entropies(k, unusual):
    length = BLOCK_ENTRIES // k + 3
    rows = np.random.default_rng(k).uniform(-12, 0, (length, k))
    rows[length // 2, 0] = unusual
    whole = token_entropy(rows)
    for cut in (1, 2, length // 3, length - 4, length - 1):
        np.testing.assert_array_equal(np.concatenate([token_entropy(rows[:cut]), token_entropy(rows[cut:])]), whole)


@given(entropies, st.floats(0, 100))
def test_percentiles_are_those_of_numpy_to_the_bit(values, percent):
    assert percentile(values, percent) == np.percentile(values, percent)


def phases_one_token_at_a_time(entropy, config, thresholds=None):
    """The definition, read literally."""
    high, low = thresholds or np.percentile(entropy, (100 - config.top_percent, config.bottom_percent))
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


@given(entropies | steps, configs)
def test_phases_equal_the_definition_read_one_token_at_a_time(entropy, config):
    assert high_entropy_phases(entropy, config) == phases_one_token_at_a_time(entropy, config)


@given(steps, configs, thresholds)
def test_phases_at_fixed_thresholds_equal_the_definition_too(entropy, config, thresholds):
    found = high_entropy_phases(entropy, config, thresholds)
    assert found == phases_one_token_at_a_time(entropy, config, thresholds)


@given(steps, configs, thresholds | st.none())
def test_phases_are_in_order_and_apart_and_inside_the_trajectory(entropy, config, thresholds):
    end = 0
    for phase in high_entropy_phases(entropy, config, thresholds):
        assert phase.start >= end
        assert phase.length >= 1
        end = phase.start + phase.length
    assert end <= len(entropy)


@given(entropies | steps, configs, thresholds | st.none())
def test_a_centroid_lies_strictly_inside_the_trajectory_or_does_not_exist(entropy, config, thresholds):
    centroid = entropy_centroid(entropy, config, thresholds)
    assert (centroid is None) == (high_entropy_phases(entropy, config, thresholds) == ())
    assert centroid is None or 0.0 < centroid < 1.0


@given(steps, configs, thresholds, st.integers(0, 50), st.data())
def test_a_confident_tail_lowers_the_centroid(entropy, config, thresholds, more, data):
    low = int(thresholds[1] * 4)
    length = config.consecutive_low + more
    tail = data.draw(hnp.arrays(np.int64, length, elements=st.integers(0, low)))
    before = entropy_centroid(entropy, config, thresholds)
    after = entropy_centroid(np.concatenate([entropy, tail / 4]), config, thresholds)
    assert (before is None and after is None) or after < before


@given(steps, configs, thresholds | st.none(), st.data())
def test_unscored_tokens_leave_the_centroid_alone(entropy, config, thresholds, data):
    places = data.draw(st.lists(st.integers(0, len(entropy)), max_size=20))
    holes = np.insert(entropy, places, np.nan)
    assert entropy_centroid(holes, config, thresholds) == entropy_centroid(entropy, config, thresholds)


@given(steps, configs, st.integers(-8, 8))
def test_the_scale_of_entropy_does_not_move_the_centroid(entropy, config, power):
    assert entropy_centroid(entropy * 2.0**power, config) == entropy_centroid(entropy, config)


@given(hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 30)), st.integers(1, 70))
def test_group_confidence_is_the_mean_of_each_window(confidence, window):
    width = min(window, len(confidence))
    naive = [confidence[i : i + width].mean() for i in range(len(confidence) - width + 1)]
    np.testing.assert_allclose(group_confidence(confidence, window), naive, atol=1e-12)


@given(entropies, st.floats(0, 100))
def test_our_percentile_is_numpys_to_the_bit(values: np.ndarray, share: float):
    assert percentile(values, share) == np.percentile(values, share)


@pytest.mark.parametrize("top, bottom", [(0.0, 100.0), (100.0, 0.0), (0.5, 99.5)])
def test_shares_from_0_to_100_are_allowed_where_they_do_not_overlap(top: float, bottom: float):
    PhaseConfig(top_percent=top, bottom_percent=bottom)
    for wrong in ({"top_percent": 100.5, "bottom_percent": 0}, {"top_percent": top + 0.5, "bottom_percent": bottom}):
        with pytest.raises(ConfigurationError):
            PhaseConfig(**wrong)


def test_refusals_say_what_was_seen_and_what_was_expected():
    with pytest.raises(ConfigurationError, match=r"overlap: together they must not exceed 100$"):
        PhaseConfig(top_percent=50, bottom_percent=60)
    with pytest.raises(LogprobsMalformedError, match=r"^entropy has shape \(1, 1\); expected \(tokens,\)$"):
        high_entropy_phases([[1.0]])
    with pytest.raises(LogprobsMalformedError, match=r"a natural-log probability is at most 0$"):
        token_entropy([[0.5]])
    for values in ([-1.0], [np.inf], [1.0, -0.5, 2.0], [1.0, np.inf]):
        with pytest.raises(LogprobsMalformedError, match="entropy"):
            high_entropy_phases(values)
    for values in ([1.0], [-np.inf], [-1.0, -np.inf]):
        with pytest.raises(LogprobsMalformedError, match=r"logprob.* to "):
            scored_values(values, "logprob", highest=0.0)
    assert scored_values([0.0, -1.0], "logprob", highest=0.0).tolist() == [0.0, -1.0]


def test_rounding_of_a_server_is_read_as_0_up_to_its_limit():
    assert token_entropy([[1e-4, -20.0]])[0] < 1e-6
    with pytest.raises(LogprobsMalformedError):
        token_entropy([[1.1e-4, -20.0]])


def test_our_percentile_is_numpys_to_the_bit_on_rough_numbers():
    rng = np.random.default_rng(0)
    for length in range(2, 60):
        values = rng.exponential(size=length)
        for share in (50.0, 99.9, *(100.0 * rng.random(20))):
            assert percentile(values, share) == np.percentile(values, share)


def test_rounding_never_makes_an_entropy_negative():
    single = -30.0 * np.random.default_rng(0).random((100_000, 1))
    assert token_entropy(single).min() == 0.0


def test_numbers_of_any_kind_are_worked_with_in_double_precision():
    for values in (np.array([1.0, 0.1], np.float32), [1, 0]):
        assert scored_values(values, "entropy", lowest=0.0).dtype == np.float64


def test_the_bounds_in_a_refusal_are_those_that_were_asked_for():
    with pytest.raises(LogprobsMalformedError, match=r"from 0$"):
        scored_values([-1.0], "entropy", lowest=0.0)
    with pytest.raises(LogprobsMalformedError, match=r"expected finite nats from -5 to 0$"):
        scored_values([1.0], "logprob", lowest=-5.0, highest=0.0)
    with pytest.raises(ConfigurationError, match=r"top_percent=100.5 is not a percentage"):
        PhaseConfig(top_percent=100.5, bottom_percent=0.0)
