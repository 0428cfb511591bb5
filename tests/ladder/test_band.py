"""The band of a learning curve, from rungs whose losses are 5 % higher before their learning rate decays."""

from pathlib import Path

import pytest

from tasks.ladder import band, tasks
from tests.ladder.test_fit import known_loss, runs


def test_the_band_is_between_decayed_and_constant_rates(tmp_path: Path) -> None:
    stable = [tasks.StablePoint(run.weights, 0.8 * run.tokens, 1.05 * known_loss(run.weights, 0.8 * run.tokens))
              for run in runs()]  # fmt: skip
    result = tasks.register(runs(noise=0.001), stable, 8e7, 1e10, 0.01, tmp_path)
    assert result["curve"]["mean"] == pytest.approx(0.0488, abs=0.002)  # log 1.05
    low, high = band.interval(result, 5e9) or (0, 0)
    decayed = known_loss(8e7, 5e9)
    assert 0.97 * decayed < low < decayed
    assert 1.045 * decayed < high < 1.09 * decayed
    assert band.interval(result, 0.7e8) is None  # no rung has shown a stable part as short as this
    assert band.interval(result, 1e10) is None  # the end, which the forecast itself is about


def test_an_alarm_says_on_which_side_the_curve_is(tmp_path: Path) -> None:
    stable = [tasks.StablePoint(run.weights, run.tokens / 2, 1.05 * known_loss(run.weights, run.tokens / 2))
              for run in runs()]  # fmt: skip
    tasks.register(runs(noise=0.001), stable, 8e7, 1e10, 0.01, tmp_path)
    result = tasks.forecast_of(tmp_path, 8.01e7, 1e10)
    assert result is not None
    decayed = known_loss(8e7, 5e9)
    assert tasks.alarm(result, 5e9, 1.03 * decayed) is None
    assert "above the band" in (tasks.alarm(result, 5e9, 1.2 * decayed) or "")
    assert "it has read validation documents" in (tasks.alarm(result, 5e9, 0.9 * decayed) or "")
    assert tasks.forecast_of(tmp_path, 9e7, 1e10) is None
    assert tasks.forecast_of(tmp_path / "other", 8e7, 1e10) is None
