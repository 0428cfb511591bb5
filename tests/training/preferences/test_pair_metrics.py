"""Measures of held-out pairs, worked by hand."""

import numpy as np
import pytest

from tasks.training.preferences.pair_metrics import (
    by_length,
    by_reason,
    calibration_error,
    length_bias,
    proportion,
    right_way,
)


def test_a_tie_is_half_right():
    assert right_way(np.array([2.0, 0.0, -1.0])).tolist() == [1.0, 0.5, 0.0]


def test_wilson_interval():
    """8 of 10: the center is (.8 + z^2/20) / (1 + z^2/10) = .7167, the half-width .2265 (a textbook's example)."""
    score = proportion(np.array([1.0] * 8 + [0.0] * 2))
    assert (score.value, score.low, score.high, score.n) == (
        0.8,
        pytest.approx(0.4902, abs=1e-4),
        pytest.approx(0.9433, abs=1e-4),
        10,
    )


def test_accuracy_by_reason_and_by_length():
    margins = np.array([1.0, -1.0, 2.0])
    reasons = by_reason(margins, ["style", "style", ""])
    assert {name: score.value for name, score in reasons.items()} == {"style": 0.5, "unnamed": 1.0}
    lengths = by_length(margins, np.array([3, 3, 3]), np.array([2, 3, 4]))
    assert [score.value for score in lengths.values()] == [1.0, 0.0, 1.0]


def test_calibration():
    """All verdicts are sure to 3/4 (margin ln 3) and 3 of 4 are right: no error. All right: an error of 1/4."""
    margin = np.log(3)
    assert calibration_error(np.array([margin, margin, margin, -margin])) == pytest.approx(0.0, abs=1e-6)
    assert calibration_error(np.array([margin] * 4)) == pytest.approx(0.25, abs=1e-6)


def test_length_bias():
    """A score that is the length itself: 1. Unit margins on differences 3 and -1: (3 - 1) / sqrt(2 * 10)."""
    chosen, rejected = np.array([5, 2]), np.array([2, 3])
    assert length_bias((chosen - rejected).astype(float), chosen, rejected) == pytest.approx(1.0)
    assert length_bias(np.ones(2), chosen, rejected) == pytest.approx(2 / 20**0.5, abs=1e-6)
    assert length_bias(np.ones(2), chosen, chosen) == 0.0
