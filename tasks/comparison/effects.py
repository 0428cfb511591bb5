"""Effects of changes on runs with several seeds: differences to a shared baseline, with intervals.

Each arm has the same seeds as the baseline and is measured on the same test items. A difference of means has two
independent errors: training with other seeds would give other models, and other items would give other scores.

- Items: the standard error of the differences item by item, averaged over seeds, by cluster (paired.py).
- Seeds: scores of a seed share its luck, so that the residuals are those of arms and seeds (analysis of variance of
  two factors; the effect of a seed is the median over arms, which one broken arm does not move). An arm with 3 seeds
  says little about its own noise, so that its variance is moved towards those of the other arms, as far as these
  agree (moderated t statistic; Smyth 2004, doi:10.2202/1544-6115.1027).

The degrees of freedom of their sum are those of Welch and Satterthwaite. If the difference is the same with every seed,
nothing is known about its variance, and the signs of the seeds are tested instead.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.comparison import paired
from tasks.comparison.reading import ItemKey, Items
from tasks.comparison.verdicts import Outcome
from tasks.errors import BadInput
from tasks.evaluation.score_gates import is_lower_better
from tasks.reports import ALPHA

Array = npt.NDArray[np.float64]
MIN_SEEDS, MIN_COMMON = 2, 0.9
FEW_ARMS = 3  # with fewer variances, nothing is known about how much they differ
MIN_SIGNS = 6  # seeds whose equal signs have a probability of less than ALPHA by chance: 2 / 2**6
ROUNDING = 1e-12  # relative differences below it are those of sums in another order


@dataclass(frozen=True, slots=True)
class Effect:
    """The mean of an arm minus that of the baseline, on `items` test items with `seeds` seeds; 95 % interval."""

    arm: str
    metric: str
    outcome: Outcome
    reason: str
    baseline_mean: float
    mean: float
    difference: float
    low: float
    high: float
    p_value: float
    p_adjusted: float
    p_equivalent: float
    margin: float
    items: int
    seeds: int

    def as_json(self) -> dict[str, Any]:
        """The effect as JSON values; an interval without bounds has null."""
        return {key: None if value in (math.inf, -math.inf) else value for key, value in asdict(self).items()}


def effects(
    metric: str, baseline: Sequence[Items], arms: Mapping[str, Sequence[Items]], margin: float = 0.01
) -> tuple[list[Effect], dict[str, str]]:
    """The effect of each arm on one metric, and the arms that have none, with the reason.

    baseline, arms: the items of each seed, in the same order of seeds. p-values are adjusted by Holm's method over the
    arms. Raises BadInput for fewer than two seeds.
    """
    if len(baseline) < MIN_SEEDS:
        raise BadInput(f"an effect needs at least {MIN_SEEDS} seeds, received {len(baseline)}")
    left_out = {arm: reason for arm, own in arms.items() if (reason := _problem(baseline, own))}
    complete = {arm: own for arm, own in arms.items() if arm not in left_out}
    if not complete:
        return [], left_out
    keys = sorted(_common([*baseline, *(items for own in complete.values() for items in own)]))
    sign = -1.0 if is_lower_better(metric) else 1.0
    groups = [baseline[0][key].group for key in keys]
    scores = np.array([_matrix(own, keys) for own in (baseline, *complete.values())])  # [arms, seeds, items]
    clusters = paired.cluster_indices(groups, len(keys))
    variances, freedom = seed_variances(scores.mean(axis=2))
    results = [
        _effect(
            arm, metric, sign, scores[index], scores[0], clusters, (variances[index], variances[0], freedom), margin
        )
        for index, arm in enumerate(complete, 1)
    ]
    adjusted = paired.holm([result.p_value for result in results])
    decided = [_decided(replace(result, p_adjusted=p), sign) for result, p in zip(results, adjusted, strict=True)]
    return decided, left_out


def seed_variances(means: Array) -> tuple[Array, float]:
    """The variance of one run by its seed for each arm, and their degrees of freedom; means: [arms, seeds]."""
    num_arms, num_seeds = means.shape
    centered = means - means.mean(axis=1, keepdims=True)
    residuals = centered - np.median(centered, axis=0)
    share = (num_arms - 1) / num_arms  # the effects of the seeds take the rest of the degrees of freedom
    residuals[np.abs(residuals) <= ROUNDING * np.abs(means).max()] = 0
    variances = (residuals**2).sum(axis=1) / ((num_seeds - 1) * share)
    return _moderated(variances, (num_seeds - 1) * share)


def signal_to_noise(arms: Sequence[Sequence[Items]]) -> float | None:
    """The range of the means of all arms over the standard deviation of one run by its seed (arXiv:2508.13144).

    None without complete arms or without noise. arms: the items of each arm and seed, the baseline first.
    """
    complete = [arms[0], *(own for own in arms[1:] if not _problem(arms[0], own))]
    keys = sorted(_common([items for own in complete for items in own]))
    if len(complete) < 2 or not keys:
        return None
    means = np.array([_matrix(own, keys) for own in complete]).mean(axis=2)
    noise = math.sqrt(float(np.median(seed_variances(means)[0])))
    return float(np.ptp(means.mean(axis=1))) / noise if noise > 0 else None


def _moderated(variances: Array, freedom: float) -> tuple[Array, float]:
    """Variances moved towards their common value, and their degrees of freedom then (Smyth 2004)."""
    from scipy.special import digamma, polygamma

    positive = variances[variances > 0]
    if len(positive) < FEW_ARMS:
        return variances, freedom
    logs = np.log(positive) - float(digamma(freedom / 2)) + math.log(freedom / 2)
    excess = float(logs.var(ddof=1)) - float(polygamma(1, freedom / 2))  # beyond what equal variances would show
    limit = freedom * (len(positive) - 1)  # all variances together know no more
    prior_freedom = limit
    if excess > 0:
        prior_freedom = min(limit, 2 * _inverse_trigamma(excess))
    prior = math.exp(float(logs.mean()) + float(digamma(prior_freedom / 2)) - math.log(prior_freedom / 2))
    moved = (prior_freedom * prior + freedom * variances) / (prior_freedom + freedom)
    return np.where(variances > 0, moved, prior), freedom + prior_freedom


def _inverse_trigamma(value: float) -> float:
    from scipy.optimize import brentq
    from scipy.special import polygamma

    return float(math.exp(brentq(lambda log_x: math.log(float(polygamma(1, math.exp(log_x))) / value), -20, 20)))


def _effect(
    arm: str, metric: str, sign: float, own: Array, base: Array, clusters: npt.NDArray[np.int64],
    noise: tuple[float, float, float], margin: float,
) -> Effect:  # fmt: skip
    """One effect without its adjusted p; own, base: scores [seeds, items]; noise: variances and their freedom."""
    num_seeds, num_items = own.shape
    differences = (own - base).mean(axis=0)
    difference, absolute = float(differences.mean()), margin
    if min(own.min(), base.min()) < 0 or max(own.max(), base.max()) > 1:
        absolute = margin * abs(float(base.mean()))
    of_items = paired.standard_error(differences, clusters) ** 2
    if (own == base).all():
        low, high, p_value, p_equivalent = 0.0, 0.0, 1.0, 0.0
    elif not math.isfinite(of_items):
        low, high, p_value, p_equivalent = -math.inf, math.inf, 1.0, 1.0
    else:
        parts = [(noise[0] / num_seeds, noise[2]), (noise[1] / num_seeds, noise[2]), (of_items, float(clusters.max()))]
        low, high, p_value, p_equivalent = _t_tests(difference, absolute, parts)
        if not noise[0] + noise[1]:
            sign_p = 0.5**num_seeds  # that all seeds have the same sign by chance
            p_value, p_equivalent = max(p_value, 2 * sign_p), max(p_equivalent, sign_p)
            low, high = (low, high) if 2 * sign_p < ALPHA else (-math.inf, math.inf)
    return Effect(
        arm, metric, "not comparable", "", float(base.mean()), float(own.mean()), difference, low, high, p_value,
        p_value, p_equivalent, absolute, num_items, num_seeds,
    )  # fmt: skip


def _t_tests(
    difference: float, margin: float, parts: Sequence[tuple[float, float]]
) -> tuple[float, float, float, float]:
    """Interval, p of no difference, p of a difference of at least `margin`; parts: variances and their freedom."""
    from scipy.special import stdtr, stdtrit

    error = math.sqrt(sum(part for part, _ in parts))
    if error <= ROUNDING * abs(difference):
        return difference, difference, float(difference == 0), float(abs(difference) >= margin)
    freedom = error**4 / sum(part**2 / degrees for part, degrees in parts)
    half = float(stdtrit(freedom, 1 - ALPHA / 2)) * error
    p_value = float(2 * stdtr(freedom, -abs(difference) / error))
    return difference - half, difference + half, p_value, float(stdtr(freedom, (abs(difference) - margin) / error))


def _decided(effect: Effect, sign: float) -> Effect:
    size = f"{effect.difference:+.4g} [{effect.low:.4g}, {effect.high:.4g}]"
    about = f"on {effect.items:,} items with {effect.seeds} seeds, p = {effect.p_adjusted:.3g}"
    if effect.p_adjusted < ALPHA:
        outcome: Outcome = "better" if sign * effect.difference > 0 else "worse"
        return replace(effect, outcome=outcome, reason=f"the difference is {size} {about}")
    if effect.low == effect.high == 0.0:
        return replace(effect, outcome="equivalent", reason="every item has the same score with every seed")
    if effect.p_equivalent < ALPHA:
        reason = f"the difference {size} is smaller than the margin {effect.margin:.3g} ({about})"
        return replace(effect, outcome="equivalent", reason=reason)
    if not math.isfinite(effect.low) and effect.items > 1 and effect.p_value < 1:
        reason = (
            f"the difference {effect.difference:+.4g} is the same with all {effect.seeds} seeds, which says nothing "
        )
        reason += f"about other seeds; at least {MIN_SIGNS} seeds are needed then"
        return replace(effect, reason=reason)
    if not math.isfinite(effect.low):
        return replace(effect, reason="a single test item, or a single group of them, gives no interval")
    reason = f"the difference {size} is neither shown to exist nor to be below the margin {effect.margin:.3g} ({about})"
    return replace(effect, reason=reason)


def _problem(baseline: Sequence[Items], own: Sequence[Items]) -> str:
    """Why the items of an arm cannot be compared with those of the baseline; "" if they can."""
    expected, common = _common(baseline), _common([*baseline, *own])
    if len(common) < MIN_COMMON * len(expected) or not common:
        return f"only {len(common):,} of the {len(expected):,} items of the baseline are in all of its runs"
    if not all(math.isfinite(items[key].score) for items in (*baseline, *own) for key in common):
        return "some items have a score that is not a number"
    return ""


def _common(seeds: Sequence[Items]) -> set[ItemKey]:
    return set.intersection(*(set(items) for items in seeds))


def _matrix(seeds: Sequence[Items], keys: Sequence[ItemKey]) -> list[list[float]]:
    return [[items[key].score for key in keys] for items in seeds]
