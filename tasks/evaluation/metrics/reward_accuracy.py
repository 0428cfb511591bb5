"""How often the reward model scores the chosen side of a held-out pair above the rejected one; equal scores count half.

Also by reason and by length difference, the mean margin, the calibration (ECE: the distance between
sigmoid(|margin|) and the share right, over ten bins, arXiv:1706.04599), and the pull of length: the correlation of
margins with length differences, each pair taken in both orders. What the labels themselves have of it stands beside it:
a reward model that only learned to count tokens exceeds it. Intervals: Wilson for shares, else bootstrap over pairs.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from tasks.evaluation import intervals
from tasks.evaluation.evidence import Evidence, Finding, Pair, evenly
from tasks.reports import Score

Floats = npt.NDArray[np.float64]
NUM_BINS = 10


class Params(BaseModel, frozen=True, extra="forbid"):
    """How many pairs are read."""

    num_pairs: int = Field(1000, ge=1, description="At most so many, evenly spaced")


def measure(evidence: Evidence, params: Params) -> Finding:
    """reward_accuracy, reward_accuracy_by_reason, _by_length, reward_margin, reward_ece, reward_length_bias, ..."""
    pairs = evenly(evidence.pairs, params.num_pairs)
    if not pairs:
        return Finding(notes=["no preference fell into the split 'test': the reward model was not measured"])
    margins = _margins(evidence, pairs)
    longer = np.array([len(pair.chosen) - len(pair.rejected) for pair in pairs], np.float64)
    reasons = np.array([pair.reason or "none given" for pair in pairs])
    sides = np.select([longer > 0, longer < 0], ["chosen longer", "chosen shorter"], "equally long")
    scores: dict[str, Any] = {
        "reward_accuracy": _accuracy(margins),
        "reward_accuracy_by_reason": _accuracy_by(reasons, margins),
        "reward_accuracy_by_length": _accuracy_by(sides, margins),
        "reward_margin": intervals.mean(margins),
        "reward_ece": calibration_error(margins),
        "reward_length_bias": correlation(margins, longer),
        "label_length_bias": correlation(np.ones_like(margins), longer),
    }
    return Finding(scores, tables={"reward_margins": _histogram(margins)})


def _margins(evidence: Evidence, pairs: list[Pair]) -> Floats:
    chosen = evidence.rewards([pair.prompt + pair.chosen for pair in pairs])
    return chosen - evidence.rewards([pair.prompt + pair.rejected for pair in pairs])


def _accuracy(margins: Floats) -> Score:
    right = float((margins > 0).sum() + 0.5 * (margins == 0).sum())
    return intervals.share(right, len(margins))


def _accuracy_by(kinds: npt.NDArray[np.str_], margins: Floats) -> dict[str, Score]:
    return {str(kind): _accuracy(margins[kinds == kind]) for kind in np.unique(kinds)}


def calibration_error(margins: Floats) -> Score:
    """Expected calibration error of sigmoid(|margin|) as the probability of being right, [n] -> one number."""
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    right = (margins > 0) + 0.5 * (margins == 0)
    bins = np.minimum(((confidence - 0.5) * 2 * NUM_BINS).astype(int), NUM_BINS - 1)
    excess = np.zeros((len(margins), NUM_BINS))
    excess[np.arange(len(margins)), bins] = right - confidence
    return intervals.bootstrap(excess, lambda sums: np.abs(sums).sum(axis=-1) / len(margins))


def correlation(margins: Floats, longer: Floats) -> Score:
    """The correlation of two antisymmetric properties of pairs, each pair taken in both orders; 0 where undefined."""
    columns = np.stack([margins * longer, margins**2, longer**2], axis=1)

    def statistic(sums: Floats) -> Floats:
        scale = np.sqrt(sums[..., 1] * sums[..., 2])
        return np.asarray(np.divide(sums[..., 0], scale, out=np.zeros_like(scale), where=scale > 0))

    return intervals.bootstrap(columns, statistic)


def _histogram(margins: Floats) -> list[dict[str, Any]]:
    counts, edges = np.histogram(margins, bins=20)
    return [
        {"from": round(float(low), 4), "to": round(float(high), 4), "pairs": int(count)}
        for count, low, high in zip(counts, edges, edges[1:], strict=False)
    ]
