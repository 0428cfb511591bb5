"""Metrics of a reward model on preference pairs: accuracy and where it comes from, calibration, and length bias.

Everything is computed from margins: margin = score of the chosen answer - score of the rejected answer, [pairs].
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

Statistic = Callable[[FloatArray], FloatArray]
"""Column sums [..., k] -> [...]: a metric as a function of sums over pairs, which a bootstrap can resample."""

NUM_BINS = 10


def metrics(
    margins: FloatArray,
    reasons: Sequence[str],
    chosen_lengths: npt.NDArray[Any],
    rejected_lengths: npt.NDArray[Any],
    share: Callable[[float, int], Any],
    estimate: Callable[[FloatArray, Statistic], Any],
) -> dict[str, Any]:
    """All metrics by name. Lengths are numbers of answer tokens, [pairs]; a reason "" is reported as "unnamed".

    share(num_correct, n) makes a score of an accuracy, and estimate(columns [pairs, k], statistic) one of any other
    metric. The caller chooses how: as a plain number, or with a confidence interval.
    """
    correct = correctness(margins)
    difference = np.asarray(chosen_lengths - rejected_lengths, np.float64)

    def accuracy(selected: npt.NDArray[np.bool_]) -> Any:
        return share(float(correct[selected].sum()), int(selected.sum()))

    names = np.array([reason or "unnamed" for reason in reasons])
    # A model without length bias is equally accurate in all three groups.
    groups = {"chosen_shorter": difference < 0, "same_length": difference == 0, "chosen_longer": difference > 0}
    return {
        "accuracy": accuracy(np.ones(len(margins), np.bool_)),
        "accuracy_by_reason": {str(name): accuracy(names == name) for name in np.unique(names)},
        "accuracy_by_length": {name: accuracy(selected) for name, selected in groups.items() if selected.any()},
        "calibration_error": estimate(*calibration_error(margins)),
        "length_bias": estimate(*length_bias(margins, difference)),
        "length_bias_of_labels": estimate(*length_bias(np.ones(len(margins)), difference)),
    }


def correctness(margins: npt.NDArray[Any]) -> FloatArray:
    """1 if the chosen answer scores higher, 1/2 for equal scores, else 0: [pairs], in the precision of `margins`."""
    return np.asarray((np.sign(margins) + 1) / 2)


def calibration_error(margins: FloatArray) -> tuple[FloatArray, Statistic]:
    """Expected calibration error (Naeini 2015; arXiv:1706.04599) as columns [pairs, bins] and their statistic.

    Under Bradley-Terry, sigmoid(|margin|) is the probability that a verdict is correct. The error is the mean distance
    between this confidence and the share that is correct, over ten bins of confidence between 1/2 and 1.
    """
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    bins = np.minimum(((confidence - 0.5) * 2 * NUM_BINS).astype(int), NUM_BINS - 1)
    excess = np.zeros((len(margins), NUM_BINS))
    excess[np.arange(len(margins)), bins] = correctness(margins) - confidence
    return excess, lambda sums: np.asarray(np.abs(sums).sum(axis=-1) / len(margins))


def length_bias(margins: FloatArray, length_difference: FloatArray) -> tuple[FloatArray, Statistic]:
    """Correlation through the origin of margins m and length differences d, as columns [pairs, 3] and their statistic.

    sum(m d) / sqrt(sum(m^2) sum(d^2)), from -1 to 1; 0 if undefined. Through the origin, because each pair may be taken
    in both orders. It is 1 for a model that scores by length alone. With all margins equal it is the bias of the labels
    themselves; a model well above its labels has learned to count tokens.
    """
    columns = np.stack([margins * length_difference, margins**2, length_difference**2], axis=1)

    def statistic(sums: FloatArray) -> FloatArray:
        scale = np.sqrt(sums[..., 1] * sums[..., 2])
        return np.asarray(np.divide(sums[..., 0], scale, out=np.zeros_like(scale), where=scale > 0))

    return columns, statistic
