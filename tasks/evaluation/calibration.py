"""Whether probabilities of choices are right: the expected calibration error, and the Brier score (Brier 1950)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tasks.evaluation import intervals
from tasks.reports import Score

FloatArray = npt.NDArray[np.float64]
NUM_BINS = 10


def probabilities(log_likelihoods: FloatArray) -> FloatArray:
    """The probability of each choice, if one of them is certain to be chosen: [choices]."""
    shifted = np.exp(log_likelihoods - log_likelihoods.max())
    return np.asarray(shifted / shifted.sum())


def scores(by_item: Sequence[FloatArray], right: Sequence[int]) -> dict[str, Score]:
    """calibration_error and brier of items with probabilities [choices] and the index of the right choice.

    The calibration error is the mean distance between confidence (the probability of the chosen one) and accuracy over
    NUM_BINS bins of confidence, weighted by their number of items (arXiv:1706.04599). The Brier score is the sum of
    squared errors of all probabilities; its baseline is equal probabilities.
    """
    n = len(by_item)
    confidence = np.array([own.max() for own in by_item])
    correct = np.array([own.argmax() == index for own, index in zip(by_item, right, strict=True)], np.float64)
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    columns = np.zeros((n, NUM_BINS + 1))
    columns[np.arange(n), bins] = confidence - correct
    columns[:, NUM_BINS] = 1
    error = intervals.bootstrap(columns, lambda sums: np.abs(sums[..., :NUM_BINS]).sum(-1) / sums[..., NUM_BINS])
    squares = [float((own**2).sum() - 2 * own[index] + 1) for own, index in zip(by_item, right, strict=True)]
    uniform = float(np.mean([1 - 1 / len(own) for own in by_item]))
    return {
        "calibration_error": error.compared_with("a perfect model", 0.0),
        "brier": intervals.mean(squares).compared_with("equal probabilities", uniform),
    }
