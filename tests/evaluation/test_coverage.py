"""How often 95 % intervals contain the true value: exactly for shares, in simulations for means."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from tasks.evaluation import intervals
from tasks.reports import Score

Draw = Callable[[np.random.Generator, int], npt.NDArray[np.float64]]
NUM_SIMULATIONS = 300


@pytest.mark.parametrize("n", [1, 5, 20, 60])
def test_a_share_is_covered_everywhere(n: int) -> None:
    """The coverage at p is the sum of the binomial probabilities of the counts whose interval contains p."""
    scores = [Score.of_share(count, n) for count in range(n + 1)]
    for p in (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.95, 0.99, 0.999):
        coverage = sum(
            math.comb(n, count) * p**count * (1 - p) ** (n - count)
            for count, score in enumerate(scores)
            if score.low <= p <= score.high
        )
        assert coverage >= 0.95 - 1e-9, (n, p)


@pytest.mark.parametrize("n", [5, 10, 20, 50])
@pytest.mark.parametrize(
    ("draw", "expectation", "minimum"),
    [
        (lambda generator, n: generator.normal(0.0, 1.0, n), 0.0, 0.91),
        (lambda generator, n: generator.beta(0.5, 0.5, n), 0.5, 0.91),
        (lambda generator, n: generator.exponential(1.0, n), 1.0, 0.86),  # skewed: Student's t covers 0.88 at n = 5
    ],
    ids=["normal", "beta", "exponential"],
)
def test_a_mean_is_covered_for_small_n(n: int, draw: Draw, expectation: float, minimum: float) -> None:
    """The bounds are three standard errors of the simulation, 0.013, below the coverage that is expected."""
    generator = np.random.default_rng(n)
    scores = [intervals.mean(draw(generator, n), seed) for seed in range(NUM_SIMULATIONS)]
    coverage = np.mean([score.low <= expectation <= score.high for score in scores])
    assert minimum <= coverage <= 0.995
