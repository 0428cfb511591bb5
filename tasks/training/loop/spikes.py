"""Which steps are skipped: gradients that are not finite, or far out of what this run has seen lately."""

import math
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

from tasks.errors import BadParams

WINDOW = 128
MIN_SEEN = 32  # norms that are needed before anything counts as an outlier
MAX_IN_A_ROW = 20


class Spikes:
    """Judges gradient norms against the median of the last accepted ones; what was skipped is not remembered.

    `factor`: how many medians are too much; None skips only what is not finite.
    """

    def __init__(self, factor: float | None) -> None:
        self.factor = factor
        self._accepted: deque[float] = deque(maxlen=WINDOW)
        self._in_a_row = 0

    def too_much(self, norm: float, step: int) -> bool:
        """Whether the step with this norm is to be skipped. Raises BadParams where hardly any is left to take."""
        if not self._outlying(norm):
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

    def _outlying(self, norm: float) -> bool:
        if not math.isfinite(norm):
            return True
        seen = len(self._accepted) >= MIN_SEEN
        return seen and self.factor is not None and norm > self.factor * median(self._accepted)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to judge alike."""
        return {"accepted": list(self._accepted), "in_a_row": self._in_a_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._accepted.extend(state["accepted"])
        self._in_a_row = state["in_a_row"]


class LossScale:
    """Keeps fp16 gradients from vanishing (arXiv:1710.03740): losses are multiplied, gradients divided again.

    Halved when a gradient overflows, doubled after PATIENCE steps without. Always 1 for other formats.
    """

    PATIENCE = 1000

    def __init__(self, wanted: bool) -> None:
        self.value = 2.0**16 if wanted else 1.0
        self._wanted, self._good = wanted, 0

    def learn(self, finite: bool) -> None:
        """Be told after each step whether its gradients were finite."""
        if not self._wanted:
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
        """Take back what `state_dict` gave."""
        self.value, self._good = state["value"], state["good"]
