"""Scores with 95 % confidence intervals: exact for shares (tasks/reports.py), BCa bootstrap for means and ratios.

The BCa bootstrap (Efron 1987) corrects bias and skewness. Its quantiles are expanded for small n (Hesterberg 2015,
arXiv:1411.5279, section 3.3.1), because resampling n values underestimates the variance by (n - 1) / n and ignores that
it is estimated. Below MIN_BOOTSTRAP_ITEMS the interval is Student's t with the jackknife's standard error.
tests/evaluation/test_coverage.py measures how often the intervals contain the true value.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tasks.reports import ALPHA, Score

Array = npt.NDArray[np.float64]

NUM_RESAMPLES = 2000
MIN_BOOTSTRAP_ITEMS = 8
MAX_RESAMPLED_ROWS = 1 << 18  # that are in memory at once
DIGITS = 6


def mean(values: npt.ArrayLike, seed: int = 0) -> Score:
    """The mean of `values` [n], with the bootstrap over its entries."""
    column = np.asarray(values, np.float64)[:, None]
    return bootstrap(np.concatenate((column, np.ones_like(column)), 1), lambda sums: sums[..., 0] / sums[..., 1], seed)


def unit_mean(values: npt.ArrayLike, seed: int = 0) -> Score:
    """The mean of `values` [n] in [0, 1].

    The interval is exact if all values are 0 or 1. It is exact, too, if they are equal: resampling them would give an
    interval of width 0, which is too narrow for, say, 50 of 50 right answers. It never leaves [0, 1].
    """
    column = np.asarray(values, np.float64)
    if np.ptp(column) == 0 or np.isin(column, (0.0, 1.0)).all():
        return Score.of_share(float(column.sum()), len(column))
    score = mean(column, seed)
    return rounded_score(score.value, max(0.0, score.low), min(1.0, score.high), score.n)


def ratio(numerators: npt.ArrayLike, denominators: npt.ArrayLike, seed: int = 0) -> Score:
    """sum(numerators) / sum(denominators), both [n], with the bootstrap over their rows.

    This is the mean per token when each row is one document: whole documents are resampled, because the tokens of one
    document are not independent of one another.
    """
    columns = np.stack([np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)], axis=1)
    return bootstrap(columns, lambda sums: sums[..., 0] / sums[..., 1], seed)


def bootstrap(
    columns: Array, statistic: Callable[[Array], Array], seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> Score:
    """A statistic of the sums of `columns` [n, k], with its interval over the n rows.

    `statistic` maps sums [..., k] to values [...]. Only the k sums of each resample are kept, so that memory does not
    grow with n times the number of resamples. The same seed and n give the same resamples: scores of two models on the
    same prompts are resampled together. A single row has no interval: both ends are its value.
    """
    n = len(columns)
    assert n > 0
    total = columns.sum(axis=0)
    value = float(statistic(total))
    if n == 1:
        return rounded_score(value, value, value, n)
    jackknife = statistic(total - columns)
    deviations = jackknife.mean() - jackknife
    if not deviations.any():
        return rounded_score(value, value, value, n)
    if n < MIN_BOOTSTRAP_ITEMS:
        half = _t_quantile(n) * float(np.sqrt((n - 1) / n * (deviations**2).sum()))
        return rounded_score(value, value - half, value + half, n)
    low, high = _bca(statistic(_resampled_sums(columns, seed, num_resamples)), value, deviations)
    return rounded_score(value, low, high, n)


def _resampled_sums(columns: Array, seed: int, num_resamples: int) -> Array:
    """The sums of resamples of the rows of `columns` [n, k]: [num_resamples, k]."""
    n, generator = len(columns), np.random.default_rng(seed)
    num_together = max(1, MAX_RESAMPLED_ROWS // n)
    parts = []
    for start in range(0, num_resamples, num_together):
        rows = generator.integers(0, n, (min(num_together, num_resamples - start), n))
        parts.append(np.stack([column[rows].sum(axis=1) for column in columns.T], axis=1))
    return np.concatenate(parts)


def _bca(resampled: Array, value: float, deviations: Array) -> tuple[float, float]:
    """The interval from resampled values and the deviations of the jackknife from their mean, [n]."""
    from scipy.special import ndtr, ndtri

    n = len(deviations)
    below = ((resampled < value).mean() + (resampled <= value).mean()) / 2
    bias = ndtri(np.clip(below, 1 / len(resampled), 1 - 1 / len(resampled)))
    acceleration = (deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5)
    shifted = bias + np.array([-1.0, 1.0]) * np.sqrt(n / (n - 1)) * _t_quantile(n)
    low, high = np.quantile(resampled, ndtr(bias + shifted / (1 - acceleration * shifted)))
    return min(float(low), value), max(float(high), value)


def _t_quantile(n: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 1 - ALPHA / 2))


def transform(score: Score, function: Callable[[float], float]) -> Score:
    """Apply an increasing `function` to value and interval of `score`, such as exp to a mean of nats."""
    return rounded_score(function(score.value), function(score.low), function(score.high), score.n)


def standard_error(values: npt.ArrayLike) -> float:
    """The standard error of the mean of `values` [n]; infinite for fewer than two values.

    For differences of paired values this is the standard error of the paired comparison.
    """
    column = np.asarray(values, np.float64)
    return float(column.std(ddof=1) / np.sqrt(len(column))) if len(column) > 1 else float("inf")


def rounded_score(value: float, low: float, high: float, n: int) -> Score:
    """A Score of plain Python floats, rounded to the digits that reports contain."""
    value, low, high = (round(float(number), DIGITS) for number in (value, low, high))
    return Score(value, low, high, n)
