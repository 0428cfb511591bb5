"""Metrics of a reward model, worked by hand."""

from typing import Any

import numpy as np
import pytest

from tasks.reports import Score
from tasks.reward_metrics import calibration_error, correctness, length_bias, metrics


def value(columns: Any, statistic: Any) -> Any:
    """A metric without an interval."""
    return float(statistic(columns.sum(axis=0)))


def measure(margins: Any, reasons: Any, chosen: Any, rejected: Any) -> Any:
    return metrics(np.array(margins), reasons, np.array(chosen), np.array(rejected), Score.of_share, value)


def test_a_tie_is_half_correct() -> None:
    assert correctness(np.array([2.0, 0.0, -1.0])).tolist() == [1.0, 0.5, 0.0]


def test_exact_interval() -> None:
    """8 of 10: the interval of Clopper and Pearson is .4439 to .9748 (tables of the binomial distribution)."""
    score = Score.of_share(8, 10)
    assert (score.value, score.n) == (0.8, 10)
    assert (score.low, score.high) == pytest.approx((0.4439, 0.9748), abs=1e-4)


def test_accuracy_by_reason_and_by_length() -> None:
    scores = measure([1.0, -1.0, 2.0], ["style", "style", ""], [3, 3, 3], [2, 3, 4])
    assert scores["accuracy"].value == pytest.approx(2 / 3, abs=1e-6)
    by_reason = {name: score.value for name, score in scores["accuracy_by_reason"].items()}
    assert by_reason == {"style": 0.5, "unnamed": 1.0}
    by_length = {name: score.value for name, score in scores["accuracy_by_length"].items()}
    assert by_length == {"chosen_shorter": 1.0, "same_length": 0.0, "chosen_longer": 1.0}


def test_calibration() -> None:
    """All margins are ln 3, a confidence of 3/4, and 3 of 4 are correct: no error. All correct: an error of 1/4."""
    margin = np.log(3)
    assert value(*calibration_error(np.array([margin, margin, margin, -margin]))) == pytest.approx(0.0, abs=1e-6)
    assert value(*calibration_error(np.array([margin] * 4))) == pytest.approx(0.25, abs=1e-6)


def test_length_bias() -> None:
    """A score that is the length itself: 1. Unit margins on differences 3 and -1: (3 - 1) / sqrt(2 * 10)."""
    difference = np.array([3.0, -1.0])
    assert value(*length_bias(difference, difference)) == pytest.approx(1.0)
    assert value(*length_bias(np.ones(2), difference)) == pytest.approx(2 / 20**0.5, abs=1e-6)
    assert value(*length_bias(np.ones(2), np.zeros(2))) == 0.0
