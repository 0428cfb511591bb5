"""The band in which the learning curve of a forecast run lies before its end, so that a run that fails is seen early.

The law predicts runs whose learning rate has decayed. In the middle of a schedule the loss is at least that of a
decayed run with the tokens so far, and at most that of a run with a constant rate: the rungs, which are evaluated at
the end of their stable part, show how much higher that is. Both sides are widened by the 95 % interval of the
forecast. A curve above the band trains worse than the rungs did, and one below it knows the validation documents.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tasks.ladder.fit import Law

QUANTILE = 1.96  # of the normal distribution, two-sided 95 %
ALARM = (
    "ALARM: after {tokens:,.0f} tokens the validation loss is {loss:.4f} bits per byte, {side} the band "
    "[{low:.4f}, {high:.4f}] of the registered forecast: {reason}."
)
REASONS = {
    "above": "the run trains worse than the smaller ones did; check the learning rate, the data and the loss spikes",
    "below": "it is better than a finished run with as many tokens; check whether it has read validation documents",
}


class StablePoint(NamedTuple):
    """The loss of a rung while its learning rate was constant, after `tokens` tokens."""

    weights: float
    tokens: float
    loss: float


def excess(points: Sequence[StablePoint], law: Law) -> dict[str, float]:
    """How much higher the losses are than those of decayed runs: mean and standard deviation of the log ratio."""
    ratios = np.array([np.log(point.loss / float(law.loss(point.weights, point.tokens))) for point in points])
    return {
        "mean": float(ratios.mean()), "deviation": float(ratios.std(ddof=1)) if len(ratios) > 1 else 0.0,
        "min_tokens": min(point.tokens for point in points),
    }  # fmt: skip


def interval(forecast: dict[str, Any], tokens: float) -> tuple[float, float] | None:
    """The band of a forecast after `tokens` tokens; None before the shortest stable part that a rung has shown."""
    curve = forecast.get("curve")
    if curve is None or tokens < curve["min_tokens"] or tokens >= forecast["tokens"]:
        return None
    law, value = forecast["law"], forecast["loss"]
    in_n, in_d = law["A"] / forecast["weights"] ** law["a"], law["B"] / tokens ** law["b"]
    loss = law["E"] + (in_n ** (1 / law["g"]) + in_d ** (1 / law["g"])) ** law["g"]
    below, above = (abs(np.log(bound / value)) for bound in forecast["interval_95"])
    widening = np.hypot(above, QUANTILE * curve["deviation"])
    return float(loss * np.exp(-below)), float(loss * np.exp(max(0.0, curve["mean"]) + widening))


def alarm(forecast: dict[str, Any], tokens: float, loss: float) -> str | None:
    """A sentence if the curve has left the band; None otherwise."""
    band = interval(forecast, tokens)
    if band is None or band[0] <= loss <= band[1]:
        return None
    side = "below" if loss < band[0] else "above"
    return ALARM.format(tokens=tokens, loss=loss, side=side, low=band[0], high=band[1], reason=REASONS[side])
