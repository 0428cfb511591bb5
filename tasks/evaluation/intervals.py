"""Confidence intervals, 95 % throughout: Wilson's for shares, the percentile bootstrap for everything else."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tasks.reports import Score

Array = npt.NDArray[np.float64]

NUM_RESAMPLES = 1000
Z = 1.959963984540054
DIGITS = 6


def share(successes: float, n: int) -> Score:
    """`successes` of `n` as a share, with Wilson's interval (1927), open even at 0 and 1. A tie may count half."""
    assert n > 0
    value = successes / n
    center = (value + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(value * (1 - value) / n + Z**2 / (4 * n**2))
    return score(value, min(value, center - half), max(value, center + half), n)


def mean(values: npt.ArrayLike, seed: int = 0) -> Score:
    """The mean of `values` [n], with the percentile bootstrap over its entries."""
    column = np.asarray(values, np.float64)[:, None]
    return bootstrap(column, lambda sums: sums[..., 0] / len(column), seed)


def unit_mean(values: npt.ArrayLike, seed: int = 0) -> Score:
    """`mean` for values in [0, 1]; where all are alike, Wilson's interval, which is never too narrow for them."""
    column = np.asarray(values, np.float64)
    return share(float(column.sum()), len(column)) if np.ptp(column) == 0 else mean(column, seed)


def ratio(numerators: npt.ArrayLike, denominators: npt.ArrayLike, seed: int = 0) -> Score:
    """sum(numerators) / sum(denominators), both [n], with the percentile bootstrap over their rows."""
    columns = np.stack([np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)], axis=1)
    return bootstrap(columns, lambda sums: sums[..., 0] / sums[..., 1], seed)


def bootstrap(columns: Array, statistic: Callable[[Array], Array], seed: int = 0) -> Score:
    """A statistic of column sums, [..., k] -> [...], on `columns` [n, k], with the percentile bootstrap over rows."""
    n = len(columns)
    assert n > 0
    generator = np.random.default_rng(seed)
    sums = np.stack([columns[generator.integers(0, n, n)].sum(axis=0) for _ in range(NUM_RESAMPLES)])
    low, high = np.quantile(statistic(sums), [0.025, 0.975])
    return score(float(statistic(columns.sum(axis=0))), float(low), float(high), n)


def transform(of: Score, function: Callable[[float], float]) -> Score:
    """The score of a rising `function` of what `of` scores: exp of a mean, bits of nats."""
    return score(function(of.value), function(of.low), function(of.high), of.n)


def standard_error(values: npt.ArrayLike) -> float:
    """The standard error of the mean of `values` [n]; of paired differences, that of the paired comparison."""
    column = np.asarray(values, np.float64)
    return float(column.std(ddof=1) / np.sqrt(len(column))) if len(column) > 1 else float("inf")


def score(value: float, low: float, high: float, n: int) -> Score:
    """A Score in plain floats, rounded to what a report shows."""
    value, low, high = (round(float(number), DIGITS) for number in (value, low, high))
    return Score(value, low, high, n)
