"""Steps that make no update: their gradient is not finite, or much larger than recent ones."""

import math
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

from tasks.errors import BadParams

WINDOW = 128  # accepted norms that the median is taken of
MIN_NORMS = 32  # accepted norms that are needed before a norm can count as an outlier
MAX_IN_A_ROW = 20  # skipped steps that are tolerated; more than this is divergence, not a bad batch


class SpikeDetector:
    """Compares gradient norms with the median of the last accepted ones. Skipped norms do not enter the median.

    `factor`: multiple of the median above which a step is skipped; None skips only norms that are not finite.
    """

    def __init__(self, factor: float | None) -> None:
        self.factor = factor
        self._accepted: deque[float] = deque(maxlen=WINDOW)
        self._in_a_row = 0

    def is_spike(self, norm: float, step: int) -> bool:
        """Whether to skip the step with this norm. Raises BadParams after more than MAX_IN_A_ROW skipped steps."""
        if not self._is_outlier(norm):
            self._accepted.append(norm)
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        if self._in_a_row > MAX_IN_A_ROW:
            raise BadParams(
                f"training diverged: {self._in_a_row} steps in a row up to step {step} had gradients that are "
                f"not finite or too large (norm {norm:.3g}). Lower learning_rate, or raise warmup_steps or max_spike."
            )
        return True

    def _is_outlier(self, norm: float) -> bool:
        if not math.isfinite(norm):
            return True
        # A median, not a mean: one huge norm among the first MIN_NORMS would raise a mean for WINDOW steps.
        has_median = len(self._accepted) >= MIN_NORMS
        return has_median and self.factor is not None and norm > self.factor * median(self._accepted)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to decide in the same way."""
        return {"accepted": list(self._accepted), "in_a_row": self._in_a_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._accepted.extend(state["accepted"])
        self._in_a_row = state["in_a_row"]


class LossScale:
    """Keeps small fp16 gradients from becoming zero (arXiv:1710.03740): the loss is multiplied, gradients are divided.

    The scale is halved when a gradient overflows and doubled after PATIENCE steps without overflow. It is 1 for other
    formats.
    """

    PATIENCE = 1000

    def __init__(self, enabled: bool) -> None:
        self.value = 2.0**16 if enabled else 1.0  # powers of two: scaling changes the exponent and rounds nothing
        self._enabled, self._good = enabled, 0

    def update(self, finite: bool) -> None:
        """Adjust the scale after a step; `finite` says whether its gradients were finite."""
        if not self._enabled:
            return
        self._good = self._good + 1 if finite else 0
        if not finite:
            self.value = max(1.0, self.value / 2)
        elif self._good % self.PATIENCE == 0:
            self.value *= 2

    def state_dict(self) -> dict[str, Any]:
        """Scale and steps since the last overflow."""
        return {"value": self.value, "good": self._good}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.value, self._good = state["value"], state["good"]
