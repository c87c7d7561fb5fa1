"""The signals beside the centroid against cases computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from entcent_agents.confidence import (
    DEFAULT_WINDOW,
    bottom_confidence,
    group_confidence,
    lowest_group_confidence,
    mean_confidence,
    mean_entropy,
    mean_logprob,
    peak_entropy,
    perplexity,
    self_certainty,
    sum_logprob,
    tail_confidence,
    tail_entropy,
)
from entcent_agents.errors import ConfigurationError, LogprobsMalformedError

ENTROPY_SIGNALS = [mean_entropy, tail_entropy, peak_entropy]
LOGPROB_SIGNALS = [mean_logprob, sum_logprob, perplexity]
WINDOWED = [lowest_group_confidence, bottom_confidence, tail_confidence]
CONFIDENCE_SIGNALS = [mean_confidence, *WINDOWED, lambda confidence: self_certainty(confidence, 4)]
CONFIDENCE = [4.0, 2.0, 6.0, 8.0]


def test_entropy_signals_by_hand():
    entropy = [0.0, 1.0, 2.0, 5.0]
    assert mean_entropy(entropy) == 2.0
    assert tail_entropy(entropy, 2) == 3.5
    assert peak_entropy(entropy) == pytest.approx(2.0 + 0.997 * 3.0)  # place 0.999 · 3 = 2.997


def test_logprob_signals_by_hand():
    assert mean_logprob([-1.0, -3.0]) == -2.0
    assert sum_logprob([-1.0, -3.0]) == -4.0
    assert perplexity([-1.0, -3.0]) == pytest.approx(math.e**2)
    assert perplexity([-9000.0]) == math.inf


def test_confidence_signals_by_hand():
    assert mean_confidence(CONFIDENCE) == 5.0
    np.testing.assert_allclose(group_confidence(CONFIDENCE, 2), [3.0, 4.0, 7.0])
    assert lowest_group_confidence(CONFIDENCE, 2) == pytest.approx(3.0)
    assert bottom_confidence(CONFIDENCE, 2) == pytest.approx(3.0)
    assert bottom_confidence(CONFIDENCE, 2, share=0.7) == pytest.approx(3.5)  # ⌊3 · 0.7⌋ = 2 groups
    assert bottom_confidence(CONFIDENCE, 2, share=1.0) == pytest.approx(14 / 3)
    assert tail_confidence(CONFIDENCE, 2) == 7.0
    assert self_certainty(CONFIDENCE, 4) == pytest.approx(5.0 - math.log(4))


def test_uniform_alternatives_have_no_self_certainty():
    assert self_certainty([math.log(20)] * 3, 20) == pytest.approx(0.0)


def test_a_trajectory_shorter_than_the_window_is_one_group():
    assert DEFAULT_WINDOW == 2048
    np.testing.assert_allclose(group_confidence(CONFIDENCE), [5.0])
    assert [signal(CONFIDENCE) for signal in WINDOWED] == [5.0, 5.0, 5.0]
    assert tail_entropy([1.0, 2.0]) == 1.5


def test_a_window_may_be_a_share_of_the_tokens_that_have_the_value():
    holes = [4.0, np.nan, 2.0, 6.0, np.nan, np.nan, 8.0]
    np.testing.assert_array_equal(group_confidence(holes, 0.5), group_confidence(CONFIDENCE, 2))
    assert tail_confidence(holes, 0.5) == 7.0
    np.testing.assert_allclose(group_confidence(CONFIDENCE, 0.01), CONFIDENCE)  # one token at least
    assert tail_confidence(CONFIDENCE, np.float64(0.3)) == tail_confidence(CONFIDENCE, np.int64(1)) == 8.0


@pytest.mark.parametrize("signal", [*ENTROPY_SIGNALS, *LOGPROB_SIGNALS, *CONFIDENCE_SIGNALS])
def test_without_a_value_there_is_no_signal(signal):
    assert signal([]) is None
    assert signal([np.nan, np.nan]) is None
    assert group_confidence([np.nan]).shape == (0,)


@pytest.mark.parametrize("signal", [*ENTROPY_SIGNALS, *CONFIDENCE_SIGNALS, group_confidence])
@pytest.mark.parametrize("values", [[1.0, -0.5], [np.inf], [[1.0]], 1.0])
def test_values_that_cannot_be_are_refused(signal, values):
    with pytest.raises(LogprobsMalformedError, match=r"finite nats from 0|expected \(tokens,\)"):
        signal(values)


@pytest.mark.parametrize("signal", LOGPROB_SIGNALS)
@pytest.mark.parametrize("values", [[-1.0, 0.7], [-np.inf], [np.nan, np.inf], [[-1.0]]])
def test_log_probabilities_that_cannot_be_are_refused(signal, values):
    with pytest.raises(LogprobsMalformedError, match=r"logprob ranges from|expected \(tokens,\)"):
        signal(values)
    assert signal([5e-5]) is not None  # a server's rounding


@pytest.mark.parametrize("window", [0, -1, 0.0, 1.0, 1.5, -0.5, math.nan, math.inf, True, "2048", None])
@pytest.mark.parametrize("signal", [*WINDOWED, group_confidence, tail_entropy])
def test_a_window_that_cannot_work_is_refused_with_its_value(signal, window):
    for values in (CONFIDENCE, []):
        with pytest.raises(ConfigurationError, match=f"window={window!r} "):
            signal(values, window)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, math.nan, True])
def test_a_share_that_cannot_work_is_refused_with_its_value(share):
    with pytest.raises(ConfigurationError, match=f"share={share!r} "):
        bottom_confidence(CONFIDENCE, 2, share=share)


@pytest.mark.parametrize("top_k", [0, -1, 2.5, True])
def test_a_number_of_alternatives_that_cannot_be_is_refused_with_its_value(top_k):
    with pytest.raises(ConfigurationError, match=f"top_k={top_k!r} "):
        self_certainty(CONFIDENCE, top_k)


def test_groups_stay_exact_over_a_million_tokens():
    confidence = np.random.default_rng(0).gamma(2.0, 5.0, 2**20)
    confidence[1000] = 9998.0
    groups = group_confidence(confidence, 2048)
    for start in [0, 1000, 1001, 2**19, len(groups) - 1]:
        assert groups[start] == pytest.approx(math.fsum(confidence[start : start + 2048]) / 2048, abs=1e-10)
