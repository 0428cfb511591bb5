"""Scaling laws of runs that follow a known law: constants, intervals, the best allocation and refusals."""

import numpy as np
import pytest

from tasks.errors import BadInput
from tasks.ladder import fit, forecast
from tasks.ladder.fit import Run

SIZES, BUDGETS = (1e6, 2e6, 4e6, 8e6), (1e8, 2e8, 4e8, 1e9)


def known_loss(weights: float, tokens: float) -> float:
    """Chinchilla's law with E = 1.7, A = 400, a = .34, B = 410, b = .28."""
    return float(1.7 + 400 / weights**0.34 + 410 / tokens**0.28)


def runs(noise: float = 0.0, seed: int = 0) -> list[Run]:
    rng = np.random.default_rng(seed)
    return [Run(n, d, known_loss(n, d) * float(np.exp(rng.normal(0, noise)))) for n in SIZES for d in BUDGETS]


def test_the_fit_recovers_the_constants_of_the_law() -> None:
    constants = fit.fit(runs()).constants()
    expected = {"E": 1.7, "A": 400.0, "a": 0.34, "B": 410.0, "b": 0.28, "g": 1.0}
    assert constants == pytest.approx(expected, rel=0.02)


def test_the_fit_recovers_an_interaction_of_weights_and_tokens() -> None:
    """L = 1 + ((100 / N^.3)^2 + (100 / D^.25)^2)^(1/2) has g = 1/2."""
    rows = [Run(n, d, 1 + np.hypot(100 / n**0.3, 100 / d**0.25)) for n in SIZES for d in BUDGETS]
    assert fit.fit(rows).constants()["g"] == pytest.approx(0.5, rel=0.02)


def test_an_outlier_moves_the_fit_little() -> None:
    rows = runs()
    rows[5] = rows[5]._replace(loss=rows[5].loss * 1.2)
    assert float(fit.fit(rows).loss(8e7, 1e10)) == pytest.approx(known_loss(8e7, 1e10), rel=0.01)


def test_the_forecast_has_the_own_error_first_and_contains_the_truth() -> None:
    result = forecast.predict(runs(noise=0.001), 8e7, 1e10)
    assert next(iter(result)) == "own_error"
    assert result["own_error"] < 0.005
    assert result["loss"] == pytest.approx(known_loss(8e7, 1e10), rel=0.02)
    low, high = result["interval_95"]
    assert low < known_loss(8e7, 1e10) < high
    assert low < result["interval_80"][0] < result["interval_80"][1] < high
    assert result["flops"] == 6 * 8e7 * 1e10


def test_a_ladder_that_misses_its_top_rung_is_not_extrapolated() -> None:
    rows = [run._replace(loss=run.loss * (1.05 if run.weights == 8e6 else 1)) for run in runs()]
    with pytest.raises(BadInput, match=r"an error of 4\.\d+%, more than max_own_error 1\.00%"):
        forecast.predict(rows, 8e7, 1e10)


def test_the_best_allocation_is_that_of_the_closed_form() -> None:
    """N = (a A / (b B))^(1 / (a + b)) (C / 6)^(b / (a + b)); arXiv:2203.15556, equation 4."""
    law = fit.fit(runs())
    c, (weights, tokens) = law.constants(), forecast.best_allocation(law, 6e18)
    total = c["a"] + c["b"]
    expected = (c["a"] * c["A"] / (c["b"] * c["B"])) ** (1 / total) * 1e18 ** (c["b"] / total)
    assert weights == pytest.approx(expected, rel=0.02)
    assert forecast.compute(weights, tokens) == pytest.approx(6e18)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (runs()[:5], "at least 6 finished runs"),
        ([Run(1e6, d * 1e8, 3.0) for d in range(1, 9)], "of 1 sizes"),
        ([*runs(), Run(1e6, 1e8, -1.0)], "positive weights, tokens and loss"),
    ],
)
def test_unusable_runs_are_refused(rows: list[Run], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        fit.fit(rows)
