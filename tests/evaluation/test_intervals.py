import math

import numpy as np
import pytest

from tasks.evaluation import intervals
from tasks.reports import Score


def test_the_interval_of_a_share_is_exact() -> None:
    """8 of 10: P(X >= 8 | low) = P(X <= 8 | high) = 0.025."""

    def probability(counts: range, share: float) -> float:
        return sum(math.comb(10, k) * share**k * (1 - share) ** (10 - k) for k in counts)

    score = Score.of_share(8, 10)
    assert (score.value, score.n) == (0.8, 10)
    assert probability(range(8, 11), score.low) == pytest.approx(0.025, abs=1e-5)
    assert probability(range(9), score.high) == pytest.approx(0.025, abs=1e-5)


def test_the_interval_of_a_share_is_open_at_the_ends() -> None:
    """All of n right: low ** n = 0.025."""
    score = Score.of_share(50, 50)
    assert score.value == score.high == 1.0
    assert score.low == pytest.approx(0.025 ** (1 / 50), abs=1e-6)
    none = Score.of_share(0, 50)
    assert none.low == 0.0
    assert none.high == pytest.approx(1 - score.low, abs=1e-6)


def test_a_baseline_is_written_beside_the_score() -> None:
    score = Score.of_share(3, 4).compared_with("chance", 0.25)
    assert (score.value, score.baseline, score.baseline_name) == (0.75, 0.25, "chance")


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


def test_a_mean_of_equal_values_in_the_unit_interval_stays_open() -> None:
    assert intervals.unit_mean([1.0] * 50) == Score.of_share(50, 50)
    assert intervals.unit_mean([0.0, 1.0] * 50) == Score.of_share(50, 100), "zeros and ones are shares"
    assert intervals.unit_mean([0.0, 0.5] * 50) == intervals.mean([0.0, 0.5] * 50)


def test_few_values_have_the_interval_of_student() -> None:
    """1, 2, 3: standard error 1 / sqrt(3), and 4.303 is the quantile of t with two degrees of freedom."""
    score = intervals.mean([1.0, 2.0, 3.0])
    assert score.high - score.value == pytest.approx(4.3027 / math.sqrt(3), abs=1e-3)
    assert intervals.mean([2.0]) == Score(2.0, 2.0, 2.0, 1)


def test_standard_error_by_hand() -> None:
    """1, 2, 3: variance 1 with n - 1, so 1 / sqrt(3)."""
    assert intervals.standard_error([1.0, 2.0, 3.0]) == pytest.approx(1 / math.sqrt(3))


def test_transform_keeps_order_and_n() -> None:
    score = intervals.transform(intervals.rounded_score(0.0, -1.0, 1.0, 5), math.exp)
    assert score.low < score.value < score.high
    assert (score.value, score.n) == (1.0, 5)
