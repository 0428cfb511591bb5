"""How often the reward model gives the chosen answer of a test pair a higher score than the rejected one.

Equal scores count half. Further scores: the accuracy by reason and by difference in length; the mean margin (score of
the chosen minus score of the rejected answer); the expected calibration error (ECE, arXiv:1706.04599), the distance
between sigmoid(|margin|) and the accuracy over ten bins; and the length bias, the correlation of margins with
differences in length. The length bias of the labels is measured as well: a reward model whose bias exceeds it has
learned to prefer longer answers. Intervals: Wilson for shares, else bootstrap over pairs.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from tasks.evaluation import intervals
from tasks.evaluation.inputs import EvaluationInputs, MetricResult, Pair, evenly_spaced
from tasks.reports import Score

FloatArray = npt.NDArray[np.float64]
NUM_BINS = 10


class Params(BaseModel, frozen=True, extra="forbid"):
    """Accuracy, calibration and length bias of the reward model."""

    num_pairs: int = Field(1000, ge=1, description="Maximum number of test pairs; they are evenly spaced.")


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """reward_accuracy, reward_accuracy_by_reason, _by_length, reward_margin, reward_ece, reward_length_bias, ..."""
    pairs = evenly_spaced(inputs.pairs, params.num_pairs)
    if not pairs:
        return MetricResult(notes=["the split 'test' contains no preference: the reward model was not measured"])
    margins = _margins(inputs, pairs)
    length_differences = np.array([len(pair.chosen) - len(pair.rejected) for pair in pairs], np.float64)
    reasons = np.array([pair.reason or "none given" for pair in pairs])
    lengths = np.select(
        [length_differences > 0, length_differences < 0], ["chosen longer", "chosen shorter"], "equally long"
    )
    scores: dict[str, Any] = {
        "reward_accuracy": _accuracy(margins),
        "reward_accuracy_by_reason": _accuracy_by_group(reasons, margins),
        "reward_accuracy_by_length": _accuracy_by_group(lengths, margins),
        "reward_margin": intervals.mean(margins),
        "reward_ece": calibration_error(margins),
        "reward_length_bias": correlation(margins, length_differences),
        "label_length_bias": correlation(np.ones_like(margins), length_differences),
    }
    return MetricResult(scores, tables={"reward_margins": _histogram(margins)})


def _margins(inputs: EvaluationInputs, pairs: list[Pair]) -> FloatArray:
    chosen = inputs.rewards([pair.prompt + pair.chosen for pair in pairs])
    return chosen - inputs.rewards([pair.prompt + pair.rejected for pair in pairs])


def _accuracy(margins: FloatArray) -> Score:
    num_correct = float((margins > 0).sum() + 0.5 * (margins == 0).sum())
    return intervals.proportion(num_correct, len(margins))


def _accuracy_by_group(groups: npt.NDArray[np.str_], margins: FloatArray) -> dict[str, Score]:
    return {str(group): _accuracy(margins[groups == group]) for group in np.unique(groups)}


def calibration_error(margins: FloatArray) -> Score:
    """Expected calibration error of sigmoid(|margin|) as the probability that the order is right; margins [n].

    The error is the sum over bins of |sum of (correct - confidence)| / n, so that it is a function of column sums: one
    column per bin. This is what intervals.bootstrap resamples.
    """
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    correct = (margins > 0) + 0.5 * (margins == 0)
    bins = np.minimum(((confidence - 0.5) * 2 * NUM_BINS).astype(int), NUM_BINS - 1)
    excess = np.zeros((len(margins), NUM_BINS))
    excess[np.arange(len(margins)), bins] = correct - confidence
    return intervals.bootstrap(excess, lambda sums: np.abs(sums).sum(axis=-1) / len(margins))


def correlation(margins: FloatArray, length_differences: FloatArray) -> Score:
    """The correlation of two properties of pairs [n] that change sign with the order of a pair; 0 if undefined.

    Each pair is counted in both orders. Then both means are 0, and the correlation is
    sum(m d) / sqrt(sum(m^2) sum(d^2)).
    """
    columns = np.stack([margins * length_differences, margins**2, length_differences**2], axis=1)

    def statistic(sums: FloatArray) -> FloatArray:
        scale = np.sqrt(sums[..., 1] * sums[..., 2])
        return np.asarray(np.divide(sums[..., 0], scale, out=np.zeros_like(scale), where=scale > 0))

    return intervals.bootstrap(columns, statistic)


def _histogram(margins: FloatArray) -> list[dict[str, Any]]:
    counts, edges = np.histogram(margins, bins=20)
    return [
        {"from": round(float(low), 4), "to": round(float(high), 4), "pairs": int(count)}
        for count, low, high in zip(counts, edges, edges[1:], strict=False)
    ]
