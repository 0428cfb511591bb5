"""Scores with 95 % confidence intervals: Wilson's interval for proportions, the percentile bootstrap for the rest."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tasks.reports import Score

Array = npt.NDArray[np.float64]

NUM_RESAMPLES = 1000
DIGITS = 6


def mean(values: npt.ArrayLike, seed: int = 0) -> Score:
    """The mean of `values` [n], with the percentile bootstrap over its entries."""
    column = np.asarray(values, np.float64)[:, None]
    return bootstrap(column, lambda sums: sums[..., 0] / len(column), seed)


def unit_mean(values: npt.ArrayLike, seed: int = 0) -> Score:
    """The mean of `values` [n] in [0, 1].

    Resampling equal values gives an interval of width 0, which is too narrow for, say, 50 of 50 right answers. In that
    case the interval is Wilson's.
    """
    column = np.asarray(values, np.float64)
    return Score.of_share(float(column.sum()), len(column)) if np.ptp(column) == 0 else mean(column, seed)


def ratio(numerators: npt.ArrayLike, denominators: npt.ArrayLike, seed: int = 0) -> Score:
    """sum(numerators) / sum(denominators), both [n], with the percentile bootstrap over their rows.

    This is the mean per token when each row is one document: whole documents are resampled, because the tokens of one
    document are not independent of one another.
    """
    columns = np.stack([np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)], axis=1)
    return bootstrap(columns, lambda sums: sums[..., 0] / sums[..., 1], seed)


def bootstrap(columns: Array, statistic: Callable[[Array], Array], seed: int = 0) -> Score:
    """A statistic of the sums of `columns` [n, k], with the percentile bootstrap over the n rows (Efron 1979).

    `statistic` maps sums [..., k] to values [...]. Only the k sums of each resample are kept, so that memory does not
    grow with n times the number of resamples. The same seed and n give the same resamples: scores of two models on the
    same prompts are resampled together.
    """
    n = len(columns)
    assert n > 0
    generator = np.random.default_rng(seed)
    sums = np.stack([columns[generator.integers(0, n, n)].sum(axis=0) for _ in range(NUM_RESAMPLES)])
    low, high = np.quantile(statistic(sums), [0.025, 0.975])
    return rounded_score(float(statistic(columns.sum(axis=0))), float(low), float(high), n)


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
