"""Paired statistics of two models on the same items: a test, an interval, equivalence, and the number of items needed.

A test of two independent samples ignores that both models answered the same items, and needs more items the more the
scores of the models are correlated. Here the differences item by item are tested. Items of one group, such as questions
about one text, are not independent, so that whole groups are resampled.

- Right/wrong scores: McNemar's exact test (1947), and the interval of Agresti and Min (2005, "Simple improved
  confidence intervals for comparing matched proportions"), which adds half an item to each cell of the 2 x 2 table.
- Other scores: a randomization test, which swaps the two models within groups, and the BCa bootstrap over groups.
- Equivalence: two one-sided tests (TOST; Schuirmann 1987) against a stated margin.
- Several metrics: Holm's correction (1979).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.evaluation import intervals
from tasks.reports import ALPHA

Array = npt.NDArray[np.float64]

MIN_CLUSTERS = 20  # with fewer groups, a bootstrap over groups is unreliable, so that groups count as mere categories
NUM_SWAPS = 4999  # random swaps of the randomization test; with the observed one, its smallest p is 1 / 5000
MAX_SWAPPED_CLUSTERS = 5000  # above it, the means are normal enough for a t test
MAX_SIGNS = 1 << 22  # that are in memory at once
POWER = 0.8  # of `items_needed`: the probability that the test notices the difference


@dataclass(frozen=True, slots=True)
class PairedTest:
    """The difference a - b of two models on n items, with its 95 % interval.

    p_value: of the test that both are equal; p_equivalent: of the test that they differ by `margin` or more.
    wins, losses: number of items on which a, or b, has the higher score. items_needed: so many items are needed to
    notice the observed difference with 80 % probability; None if there is no difference; items_needed_unpaired: the
    same for a test that does not pair; smallest_noticeable: the difference that these n items reveal with 80 %.
    """

    n: int
    num_clusters: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p_value: float
    p_equivalent: float
    margin: float
    wins: int
    losses: int
    correlation: float | None
    items_needed: int | None
    items_needed_unpaired: int | None
    smallest_noticeable: float
    method: str


def compare(a: npt.ArrayLike, b: npt.ArrayLike, groups: Sequence[str] = (), margin: float = 0.01) -> PairedTest:
    """Compare the scores `a` and `b`, both [n], of the same items. `groups` [n]: "" for an item that stands alone.

    `margin` is a difference of scores that lie in [0, 1], and otherwise a share of the mean of `b`.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert first.shape == second.shape
    assert len(first) > 0
    difference, pooled = first - second, np.concatenate([first, second])
    absolute = margin if pooled.min() >= 0 and pooled.max() <= 1 else margin * abs(float(second.mean()))
    clusters = cluster_indices(groups, len(first))
    num_clusters = int(clusters.max()) + 1
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    is_binary = bool(np.isin(pooled, (0.0, 1.0)).all()) and num_clusters == len(first)
    error = standard_error(difference, clusters)
    if is_binary:
        low, high, p_equivalent = _matched_proportions(wins, losses, len(first), absolute)
        p_value, method = mcnemar(wins, losses), "McNemar's exact test"
    else:
        sums = _cluster_sums(difference, clusters)
        score = intervals.bootstrap(sums, lambda totals: totals[..., 0] / totals[..., 1])
        low, high, method = score.low, score.high, "randomization test and BCa bootstrap"
        if num_clusters == 1:  # nothing is known about other items
            low, high = -math.inf, math.inf
        method += "" if num_clusters == len(first) else " over groups"
        p_value = swap_test(sums[:, 0], error, len(first))
        p_equivalent = _tost(float(difference.mean()), error, num_clusters, absolute, float(np.ptp(pooled)))
    effect = (error * error * len(first)) if len(first) > 1 and math.isfinite(error) else float("nan")
    unpaired = float(first.var(ddof=1) + second.var(ddof=1)) if len(first) > 1 else float("nan")
    return PairedTest(
        len(first), num_clusters, float(first.mean()), float(second.mean()), float(difference.mean()), low, high,
        p_value, p_equivalent, absolute, wins, losses, correlation(first, second),
        items_needed(float(difference.mean()), effect), items_needed(float(difference.mean()), unpaired),
        _quantiles() * error if math.isfinite(error) else float("inf"), method,
    )  # fmt: skip


def cluster_indices(groups: Sequence[str], n: int) -> npt.NDArray[np.int64]:
    """The number of the cluster of each item, from 0. Few groups are categories: then each item is its own cluster."""
    names = [f"group {group}" if group else f"item {index}" for index, group in enumerate(groups)]
    if len(names) != n or len({group for group in groups if group}) < MIN_CLUSTERS:
        return np.arange(n)
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def standard_error(difference: Array, clusters: npt.NDArray[np.int64]) -> float:
    """The standard error of the mean of `difference` [n] whose items are independent between clusters only."""
    num_clusters = int(clusters.max()) + 1
    if num_clusters < 2:
        return float("inf")
    residuals = np.bincount(clusters, weights=difference - difference.mean())
    return float(np.sqrt(num_clusters / (num_clusters - 1) * (residuals**2).sum()) / len(difference))


def mcnemar(wins: int, losses: int) -> float:
    """McNemar's exact two-sided p: of the items that only one model has right, each is as likely to be a's as b's."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5))) if wins + losses else 1.0


def swap_test(sums: Array, error: float, num_items: int, seed: int = 0) -> float:
    """The two-sided p of the hypothesis that the models are interchangeable; sums: of differences by cluster [m].

    Swapping the models changes the sign of a cluster. The observed signs are counted as one of the swaps, so that p is
    at most ALPHA in at most ALPHA of all cases.
    """
    from scipy.special import stdtr

    observed = abs(float(sums.sum()))
    if len(sums) > MAX_SWAPPED_CLUSTERS:
        return float(2 * stdtr(len(sums) - 1, -observed / num_items / error)) if error else 1.0
    generator, num_extreme, remaining = np.random.default_rng(seed), 1, NUM_SWAPS
    while remaining:
        rows = min(remaining, max(1, MAX_SIGNS // len(sums)))
        signs = generator.integers(0, 2, (rows, len(sums)), np.int8) * 2.0 - 1.0
        # Equal sums may differ in their last bits, because addition is not associative.
        num_extreme += int((np.abs(signs @ sums) >= observed * (1 - 1e-12) - 1e-300).sum())
        remaining -= rows
    return num_extreme / (NUM_SWAPS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order of `p_values`; they bound the chance of any false discovery."""
    order = np.argsort(p_values, kind="stable")
    adjusted, running = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def items_needed(difference: float, variance: float) -> int | None:
    """The number of items with which a test notices `difference` with probability POWER.

    variance: of the difference of one item (paired), or the sum of the variances of both scores (unpaired).
    """
    if not difference or not math.isfinite(variance):
        return None
    return max(2, math.ceil(_quantiles() ** 2 * variance / difference**2))


def correlation(a: Array, b: Array) -> float | None:
    """Pearson's correlation of the scores, on which the gain of pairing depends; None if a score never changes."""
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 1 and a.std() > 0 and b.std() > 0 else None


def _cluster_sums(difference: Array, clusters: npt.NDArray[np.int64]) -> Array:
    return np.stack([np.bincount(clusters, weights=difference), np.bincount(clusters).astype(np.float64)], axis=1)


def _matched_proportions(wins: int, losses: int, n: int, margin: float) -> tuple[float, float, float]:
    """The interval of Agresti and Min for the difference of two matched proportions, and p of equivalence."""
    from scipy.special import ndtr

    total = n + 2
    center = (wins - losses) / total
    error = math.sqrt((wins + losses + 1) - (wins - losses) ** 2 / total) / total
    half = _normal_quantile(1 - ALPHA / 2) * error
    p_equivalent = max(float(ndtr(-(center + margin) / error)), float(ndtr(-(margin - center) / error)))
    return max(-1.0, center - half), min(1.0, center + half), p_equivalent


def _tost(difference: float, error: float, num_clusters: int, margin: float, spread: float) -> float:
    """The larger p of two one-sided t tests against -margin and +margin.

    Without any variance of the differences, p is the probability that no cluster would have differed if a share
    margin / spread of them did: few equal items are no evidence of equivalence.
    """
    from scipy.special import stdtr

    if num_clusters < 2 or margin <= 0:
        return 1.0
    if error == 0:
        return float((1 - min(1.0, margin / (spread or 1.0))) ** num_clusters) if abs(difference) < margin else 1.0
    sides = [(difference + margin) / error, (margin - difference) / error]
    return max(float(stdtr(num_clusters - 1, -side)) for side in sides)


def _quantiles() -> float:
    return _normal_quantile(1 - ALPHA / 2) + _normal_quantile(POWER)


def _normal_quantile(share: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(share))
