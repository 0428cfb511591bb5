"""What a filter says of a column of documents: where a bound is broken, of which signal, and by what value."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.curation.arrays import BoolArray, Float64Array
from tasks.curation.signals.signals import Signals


@dataclass(frozen=True, slots=True)
class Verdict:
    """dropped: bool [documents]; values: what decided, float64 [documents]; bound: what they were held against."""

    dropped: BoolArray
    values: Float64Array
    signal: str = ""
    bound: float | None = None


Reasons = Mapping[str, Verdict | BoolArray]
"""Reason -> verdict, in the order in which they are asked. A bare mask will do where no value decides."""


def below(signals: Signals, signal: str, minimum: float | None) -> Verdict:
    """Drop where a signal is less than `minimum`; nowhere where that is None."""
    values = np.asarray(getattr(signals, signal), np.float64)
    dropped = np.zeros(len(values), np.bool_) if minimum is None else values < minimum
    return Verdict(dropped, values, signal, minimum)


def above(signals: Signals, signal: str, maximum: float | None) -> Verdict:
    """Drop where a signal is more than `maximum`; nowhere where that is None."""
    values = np.asarray(getattr(signals, signal), np.float64)
    dropped = np.zeros(len(values), np.bool_) if maximum is None else values > maximum
    return Verdict(dropped, values, signal, maximum)
