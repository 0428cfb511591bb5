"""The result of one rule of a filter: which documents it drops, and the value and the bound that decided."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.curation.arrays import BoolArray, Float64Array, StringArray
from tasks.curation.signals.signals import Signals


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one rule for a column of documents.

    dropped: bool [documents]; values: the values that were compared, float64 [documents]; signal: the name of the
    signal that the values come from, "" if it is not one signal alone; bound: what the values were compared with, None
    if there is no bound; parts: the part of the distribution to which each document belongs, such as head, middle or
    tail, [documents], None if the report does not count parts.
    """

    dropped: BoolArray
    values: Float64Array
    signal: str = ""
    bound: float | None = None
    parts: StringArray | None = None


Reasons = Mapping[str, Verdict | BoolArray]
"""Reason -> verdict, in the order in which the rules apply. A mask without a Verdict suffices if no value decides."""


def below(signals: Signals, signal: str, minimum: float | None) -> Verdict:
    """Drop the documents whose signal is less than `minimum`; no document if `minimum` is None."""
    values = np.asarray(getattr(signals, signal), np.float64)
    dropped = np.zeros(len(values), np.bool_) if minimum is None else values < minimum
    return Verdict(dropped, values, signal, minimum)


def above(signals: Signals, signal: str, maximum: float | None) -> Verdict:
    """Drop the documents whose signal is greater than `maximum`; no document if `maximum` is None."""
    values = np.asarray(getattr(signals, signal), np.float64)
    dropped = np.zeros(len(values), np.bool_) if maximum is None else values > maximum
    return Verdict(dropped, values, signal, maximum)
