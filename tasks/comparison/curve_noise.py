"""Is a difference between learning curves more than the noise of checkpoints? (Signal and noise, arXiv:2508.13144.)

Noise is how much a validation metric changes from checkpoint to checkpoint at the end of one run: the standard
deviation of the last evaluations about their line, so that a metric that still improves is not noisy. Signal is how
much the runs differ: the range of their means over these evaluations. A metric with a low ratio does not separate the
runs, however many test items it has.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

Points = Sequence[tuple[float, float]]  # (step, value)
PREFIX = "validation_"  # of the columns of a step log that are measured on held-out data
NUM_LAST, MIN_LAST = 6, 4  # evaluations at the end of a run


class Ratio(NamedTuple):
    """One metric of one stage: the means of the runs (None where a run has too few evaluations), signal and noise."""

    stage: str
    metric: str
    means: tuple[float | None, ...]
    signal: float
    noise: float

    @property
    def value(self) -> float | None:
        """Signal / noise; None if the metric does not change between checkpoints."""
        return self.signal / self.noise if self.noise > 0 else None


def ratios(curves: Mapping[str, Mapping[tuple[str, str], Points]]) -> list[Ratio]:
    """The ratio of each validation metric that two runs or more have evaluated often enough; curves: by run."""
    keys = sorted({key for own in curves.values() for key in own if key[1].startswith(PREFIX)})
    result = []
    for stage, metric in keys:
        last = [own.get((stage, metric), ())[-NUM_LAST:] for own in curves.values()]
        measured = [points for points in last if len(points) >= MIN_LAST]
        if len(measured) > 1:
            means = [float(np.mean([value for _, value in points])) for points in measured]
            noise = float(np.sqrt(np.mean([_residual_variance(points) for points in measured])))
            remaining = iter(means)
            shown = tuple(next(remaining) if len(points) >= MIN_LAST else None for points in last)
            result.append(Ratio(stage, metric, shown, float(np.ptp(means)), noise))
    return result


def _residual_variance(points: Points) -> float:
    """The variance of the values about their line over steps; the line takes two degrees of freedom."""
    steps, values = np.array(points, np.float64).T
    centered = steps - steps.mean()
    slope = float(centered @ values / (centered @ centered)) if centered.any() else 0.0
    residuals = values - values.mean() - slope * centered
    return float((residuals**2).sum() / (len(values) - 2)) if np.abs(residuals).max() > 1e-12 else 0.0
