"""Models compared by votes: the strengths of Bradley and Terry (1952), with the effect of the place on the page.

The log-odds that the answer shown first wins are strength(first) - strength(second) + side effect. So a preference for
one side of the page does not count as an advantage of the model that was shown there more often. The intervals hold for
votes that depend on each other if they are about the same prompt (Liang and Zeger 1986, sandwich estimator).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Z = 1.959964  # of a two-sided 95 % interval
RIDGE = 1e-2  # keeps the strength of a model finite that has won or lost every vote
MAX_STEPS, TOLERANCE = 100, 1e-10

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One vote. result: 1 if `model` wins, 0 if `other` does, 0.5 for a tie. first: whether `model` was shown first.

    first is None if both had no place on the page. prompt: votes with the same value may depend on each other.
    """

    model: str
    other: str
    result: float
    first: bool | None
    prompt: str


@dataclass(frozen=True, slots=True)
class Strengths:
    """The result of a fit. values: log-odds with mean 0, then the side effect; covariance: of the same numbers."""

    models: list[str]
    values: Floats
    covariance: Floats
    num_votes: dict[str, int]

    def rows(self) -> list[dict[str, Any]]:
        """One row for each model, the best first: strength, its interval, and the win rate against an average model."""
        errors = np.sqrt(np.diag(self.covariance))
        rows = []
        for index in np.argsort(-self.values[:-1], kind="stable").tolist():
            value, error = float(self.values[index]), float(errors[index])
            low, high = value - Z * error, value + Z * error
            rows.append(
                {"model": self.models[index], "votes": self.num_votes[self.models[index]], "strength": round(value, 4),
                 "low": round(low, 4), "high": round(high, 4), "win_rate": round(_probability(value), 4)}
            )  # fmt: skip
        return rows

    def side_effect(self) -> tuple[float, float, float]:
        """The advantage of the first place in log-odds, with its 95 % interval."""
        value, error = float(self.values[-1]), float(np.sqrt(self.covariance[-1, -1]))
        return value, value - Z * error, value + Z * error


def fit(comparisons: Sequence[Comparison]) -> Strengths | None:
    """The strengths that make the votes most likely; None if no two models were compared."""
    used = [one for one in comparisons if one.model != one.other]
    if not used:
        return None
    models = sorted({name for one in used for name in (one.model, one.other)})
    columns = {name: index for index, name in enumerate(models)}
    design, results = np.zeros((len(used), len(models) + 1)), np.array([one.result for one in used])
    for row, one in enumerate(used):
        design[row, columns[one.model]], design[row, columns[one.other]] = 1, -1
        design[row, -1] = 0 if one.first is None else 1 if one.first else -1
    values = _maximize(design, results)
    covariance = _sandwich(design, results, values, [one.prompt for one in used])
    # Only differences of strengths are observed, so that their mean is set to 0.
    center = np.eye(len(values))
    center[:-1, :-1] -= 1 / len(models)
    num_votes = {name: sum(name in (one.model, one.other) for one in used) for name in models}
    return Strengths(models, center @ values, center @ covariance @ center.T, num_votes)


def _maximize(design: Floats, results: Floats) -> Floats:
    """Newton's method for the logistic likelihood with a small ridge, which is concave."""
    values = np.zeros(design.shape[1])
    for _ in range(MAX_STEPS):
        gradient = design.T @ (results - _sigmoid(design @ values)) - RIDGE * values
        step = np.linalg.solve(_information(design, values), gradient)
        values += np.clip(step, -2, 2)
        if np.abs(step).max() < TOLERANCE:
            break
    return values


def _information(design: Floats, values: Floats) -> Floats:
    p = _sigmoid(design @ values)
    information: Floats = (design * (p * (1 - p))[:, None]).T @ design + RIDGE * np.eye(len(values))
    return information


def _sandwich(design: Floats, results: Floats, values: Floats, prompts: Sequence[str]) -> Floats:
    scores = design * (results - _sigmoid(design @ values))[:, None]
    names, groups = np.unique(np.array(prompts), return_inverse=True)
    sums = np.zeros((len(names), design.shape[1]))
    np.add.at(sums, groups, scores)
    inverse: Floats = np.linalg.inv(_information(design, values)).astype(np.float64)
    if len(names) < 2:
        return inverse
    covariance: Floats = inverse @ (sums.T @ sums * len(names) / (len(names) - 1)) @ inverse
    return covariance


def _sigmoid(x: Floats) -> Floats:
    sigmoid: Floats = 1 / (1 + np.exp(-x))
    return sigmoid


def _probability(log_odds: float) -> float:
    return float(_sigmoid(np.array(log_odds)))
