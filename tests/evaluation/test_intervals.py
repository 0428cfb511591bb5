import math

import numpy as np
import pytest

from tasks.evaluation import intervals
from tasks.reports import Score, Z


def test_wilson_interval_by_hand() -> None:
    """8 of 10: center (0.8 + 0.19207) / 1.38415 = 0.7167, half 1.96 / 1.38415 * sqrt(0.016 + 0.0096) = 0.2266."""
    score = Score.of_share(8, 10)
    assert (score.value, score.n) == (0.8, 10)
    assert score.low == pytest.approx(0.4902, abs=1e-4)
    assert score.high == pytest.approx(0.9433, abs=1e-4)


def test_wilson_interval_is_open_at_the_ends() -> None:
    """All of n right: low = n / (n + z^2)."""
    score = Score.of_share(50, 50)
    assert score.value == score.high == 1.0
    assert score.low == pytest.approx(50 / (50 + Z**2), abs=1e-6)
    assert Score.of_share(0, 50).low == 0.0


def test_bootstrap_of_a_mean_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(7).normal(3.0, 2.0, 900)
    score, half = intervals.mean(values), 1.96 * values.std() / math.sqrt(900)
    assert score.value == pytest.approx(values.mean(), abs=1e-6)
    assert score.low == pytest.approx(values.mean() - half, abs=0.02)
    assert score.high == pytest.approx(values.mean() + half, abs=0.02)
    assert score == intervals.mean(values), "the same seed gives the same interval"


def test_ratio_weighs_rows_by_their_denominator() -> None:
    """(10 + 2) / (10 + 1): a mean of ratios would be (1 + 2) / 2."""
    assert intervals.ratio([10.0, 2.0], [10.0, 1.0]).value == pytest.approx(12 / 11, abs=1e-6)


def test_a_constant_has_no_interval_and_no_error() -> None:
    score = intervals.mean([0.5] * 20)
    assert score.low == score.value == score.high == 0.5
    assert intervals.standard_error([0.5] * 20) == 0.0
    assert intervals.standard_error([1.0]) == math.inf


def test_a_mean_of_like_values_in_the_unit_interval_stays_open() -> None:
    assert intervals.unit_mean([1.0] * 50) == Score.of_share(50, 50)
    assert intervals.unit_mean([0.0, 1.0] * 50) == intervals.mean([0.0, 1.0] * 50)


def test_standard_error_by_hand() -> None:
    """1, 2, 3: variance 1 with n - 1, so 1 / sqrt(3)."""
    assert intervals.standard_error([1.0, 2.0, 3.0]) == pytest.approx(1 / math.sqrt(3))


def test_transform_keeps_order_and_n() -> None:
    score = intervals.transform(intervals.rounded_score(0.0, -1.0, 1.0, 5), math.exp)
    assert score.low < score.value < score.high
    assert (score.value, score.n) == (1.0, 5)
