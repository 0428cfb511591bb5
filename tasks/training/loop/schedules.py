"""Learning-rate schedules: functions of the progress of a run, from 0 to 1. The report of a stage shows them."""

import math
from collections.abc import Callable
from typing import Literal

Name = Literal["constant", "linear", "cosine", "wsd", "step"]

Shape = Callable[[float], float]

WSD_DECAY_SHARE = 0.2  # arXiv:2404.06395 decays over the last 10 to 20 %
STEP_POINTS = (0.5, 0.75)  # progress at which "step" divides the rate by ten


def factor(name: Name, step: int, steps: int, warmup_steps: int, min_ratio: float) -> float:
    """Share of the full learning rate at `step` (0-based) of `steps`: linear warm-up, then the named shape.

    The shapes fall from 1 to `min_ratio`; "wsd" (warm-up, stable, decay) stays at 1 until the last fifth of the run and
    "constant" to the end.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps  # + 1: a first step with a learning rate of zero would be wasted
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return min_ratio + (1 - min_ratio) * SHAPES[name](progress)


def _wsd(progress: float) -> float:
    return min(1.0, (1 - progress) / WSD_DECAY_SHARE)


def _step(progress: float) -> float:
    return 0.1 ** sum(progress >= point for point in STEP_POINTS)


SHAPES: dict[Name, Shape] = {
    "constant": lambda _: 1.0,
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "wsd": _wsd,
    "step": _step,
}
