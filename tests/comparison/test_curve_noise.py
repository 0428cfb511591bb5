"""Signal and noise of the last checkpoints: a line has no noise, and runs with few evaluations are left out."""

import pytest

from tasks.comparison import curve_noise, markdown

KEY = ("sft", "validation_loss")


def test_the_noise_is_about_the_line_of_the_last_evaluations() -> None:
    """Values 0 1 0 1 about their line (slope .2): residuals -.2 .6 -.6 .2, variance .8 / 2 = .4."""
    noisy, straight = [(10.0, 0.0), (20.0, 1.0), (30.0, 0.0), (40.0, 1.0)], [(10.0 * i, 3.5 - i) for i in range(4)]
    (ratio,) = curve_noise.ratios({"a": {KEY: noisy}, "b": {KEY: straight}})
    assert ratio.means == (0.5, 2.0)
    assert ratio.signal == 1.5
    assert ratio.noise == pytest.approx((0.4 / 2) ** 0.5)
    assert ratio.value == pytest.approx(1.5 / 0.2**0.5)


def test_runs_with_few_evaluations_have_no_ratio() -> None:
    points = [(float(i), float(i)) for i in range(8)]
    curves = {"a": {KEY: points}, "b": {KEY: points[:3]}, "c": {("sft", "loss"): points}}
    assert curve_noise.ratios(curves) == []
    (ratio,) = curve_noise.ratios({**curves, "d": {KEY: points}})
    assert ratio.means == (4.5, None, None, 4.5)
    assert ratio.value is None
    assert "| sft | validation_loss | 4.5 |" in markdown([], {"a|x": {KEY: points}, "b": {KEY: points}})
