"""The forecast of a larger run: loss with intervals, what the own top rung teaches about its error, best N and D.

The first number is the leave-largest-out error: the law is fitted without the largest model, and predicts its runs. A
law that misses its own top rung is not extrapolated.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks.errors import BadInput
from tasks.ladder import fit as fitting
from tasks.ladder.fit import Array, Law, Run

NUM_RESAMPLES = 200
LEVELS = {"interval_80": (10.0, 90.0), "interval_95": (2.5, 97.5)}
FLOPS_PER_WEIGHT_AND_TOKEN = 6  # arXiv:2001.08361


def compute(weights: float, tokens: float) -> float:
    """FLOPs of training."""
    return FLOPS_PER_WEIGHT_AND_TOKEN * weights * tokens


def leave_largest_out(runs: Sequence[Run]) -> Array:
    """Relative errors of the runs of the largest model, predicted by a law of the smaller ones.

    Raises BadInput if the smaller ones are too few for a law.
    """
    top = max(run.weights for run in runs)
    law = fitting.fit([run for run in runs if run.weights < top])
    largest = [run for run in runs if run.weights == top]
    return np.array([float(law.loss(run.weights, run.tokens)) / run.loss - 1 for run in largest])


def predict(
    runs: Sequence[Run], weights: float, tokens: float, max_own_error: float = 0.01, seed: int = 0
) -> dict[str, Any]:
    """The forecast for a run: the leave-largest-out error first, then the loss with 80 and 95 % intervals.

    The intervals contain two errors: that of the fit, by a bootstrap of its residuals, and that of extrapolation, whose
    standard deviation is the leave-largest-out error times the root of how many times further this run is (in the
    logarithm of FLOPs). Raises BadInput if the own error exceeds `max_own_error`.
    """
    own = leave_largest_out(runs)
    own_error = float(np.sqrt((own**2).mean()))
    if own_error > max_own_error:
        raise BadInput(
            f"the ladder predicts its own largest model with an error of {own_error:.2%}, more than max_own_error "
            f"{max_own_error:.2%}, so that it is not extrapolated. Add a rung or budgets, or train the rungs longer."
        )
    law = fitting.fit(runs)
    value = float(law.loss(weights, tokens))
    losses = _resampled_losses(runs, law, weights, tokens, seed)
    spread = own_error * np.sqrt(max(1.0, _distance(runs, compute(weights, tokens))))
    losses *= np.exp(np.random.default_rng(seed + 1).normal(0, spread, len(losses)))
    intervals = {name: [float(x) for x in np.percentile(losses, percents)] for name, percents in LEVELS.items()}
    return {
        "own_error": own_error,
        "own_errors": own.tolist(),
        "weights": weights,
        "tokens": tokens,
        "flops": compute(weights, tokens),
        "loss": value,
        **intervals,
        "law": law.constants(),
        "runs": len(runs),
    }


def _distance(runs: Sequence[Run], flops: float) -> float:
    """How far a run is beyond the largest model, in steps as long as that from the second largest to the largest."""
    by_size: dict[float, float] = {}
    for run in runs:
        by_size[run.weights] = max(by_size.get(run.weights, 0.0), compute(run.weights, run.tokens))
    *_, below, top = (by_size[weights] for weights in sorted(by_size))
    return float(np.log(flops / top) / np.log(top / below)) if top > below else 1.0


def _resampled_losses(runs: Sequence[Run], law: Law, weights: float, tokens: float, seed: int) -> Array:
    """Predictions of laws that are fitted to the predictions of `law` with its residuals drawn anew."""
    rng = np.random.default_rng(seed)
    expected = np.array([float(law.loss(run.weights, run.tokens)) for run in runs])
    residuals = np.log([run.loss for run in runs]) - np.log(expected)
    residuals *= np.sqrt(len(runs) / max(1, len(runs) - len(law.parameters)))  # a fit makes residuals too small
    losses = []
    for _ in range(NUM_RESAMPLES):
        noise = rng.choice(residuals, len(runs))
        resampled = [run._replace(loss=float(x)) for run, x in zip(runs, expected * np.exp(noise), strict=True)]
        losses.append(float(fitting.fit(resampled, start=law).loss(weights, tokens)))
    return np.array(losses)


def best_allocation(law: Law, flops: float) -> tuple[float, float]:
    """The (weights, tokens) with the lowest predicted loss for a budget of FLOPs, to 1 %."""
    weights = np.exp(np.arange(np.log(1e3), np.log(flops / FLOPS_PER_WEIGHT_AND_TOKEN / 1e3), 0.01))
    tokens = flops / FLOPS_PER_WEIGHT_AND_TOKEN / weights
    best = int(np.argmin(law.loss(weights, tokens)))
    return float(weights[best]), float(tokens[best])
