"""What scores say about held-out pairs: accuracy and where it comes from, calibration, and whether length is loved."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.reports import Score

Floats = npt.NDArray[np.floating[Any]]
Z = 1.959963984540054  # of a two-sided 95 % interval
NUM_BINS = 10


def proportion(right: npt.NDArray[Any]) -> Score:
    """The share of `right` (0, 1, or 1/2 for a tie) with Wilson's 95 % interval (1927)."""
    n, share = len(right), float(np.mean(right))
    center = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return Score(round(share, 6), round(max(0.0, center - half), 6), round(min(1.0, center + half), 6), n)


def right_way(margins: npt.NDArray[Any]) -> Floats:
    """1 where the chosen answer scores higher, 1/2 for a tie, 0 otherwise."""
    right: Floats = (np.sign(margins) + 1) / 2
    return right


def by_reason(margins: Floats, reasons: Sequence[str]) -> dict[str, Score]:
    """Accuracy of the pairs of each reason."""
    named = np.array([reason or "unnamed" for reason in reasons])
    return {str(name): proportion(right_way(margins[named == name])) for name in np.unique(named)}


def by_length(margins: Floats, chosen: npt.NDArray[Any], rejected: npt.NDArray[Any]) -> dict[str, Score]:
    """Accuracy where the chosen answer has fewer, as many, and more tokens: an even judge is as good in each."""
    sign = np.sign(chosen - rejected)
    names = {"chosen_shorter": -1, "same_length": 0, "chosen_longer": 1}
    return {name: proportion(right_way(margins[sign == s])) for name, s in names.items() if (sign == s).any()}


def calibration_error(margins: Floats) -> float:
    """ECE (Naeini 2015): how far sigmoid(|margin|), the certainty of each verdict, is from the share that is right."""
    certainty = 1 / (1 + np.exp(-np.abs(margins)))
    bins = np.minimum(((certainty - 0.5) * 2 * NUM_BINS).astype(int), NUM_BINS - 1)
    right = right_way(margins)
    gaps = [abs(certainty[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return round(float(sum(gaps)), 6)


def length_bias(margins: Floats, chosen: npt.NDArray[Any], rejected: npt.NDArray[Any]) -> float:
    """Correlation through the origin of a pair's score difference and length difference, from -1 to 1.

    sum(m d) / sqrt(sum(m^2) sum(d^2)): 1 for a model that scores by length alone, and for labels (all m equal) what
    their own lean to the longer answer amounts to. The first above the second is a love of length.
    """
    difference = (chosen - rejected).astype(float)
    size = math.sqrt(float((margins**2).sum() * (difference**2).sum()))
    return round(float((margins * difference).sum()) / size, 6) if size else 0.0
