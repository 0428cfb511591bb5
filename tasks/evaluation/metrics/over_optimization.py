"""Whether a policy was over-optimized: the reward model's score rose while the gold reward fell (arXiv:2210.10760).

Two checks. The training curve: score, gold reward and KL on validation prompts by step, as the policy's stage measured
them during training. It shows over-optimization if gold ends well below its best value while the score ends above its
value at that time. The result: the policy's mean score on test prompts is above the reference's and its gold reward is
below, both by more than two standard errors. Intervals: bootstrap over prompts.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from tasks.errors import BadInput
from tasks.evaluation import intervals
from tasks.evaluation.inputs import EvaluationInputs, MetricResult
from tasks.evaluation.metrics.gold import gold_rewards, in_standard_errors
from tasks.reports import read_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FloatArray = npt.NDArray[np.float64]
COLUMNS = ("score", "gold", "kl")
MIN_STANDARD_ERRORS = 2.0
SCORES = ("reward_score.MODEL", "over_optimized.MODEL")


class Params(BaseModel, frozen=True, extra="forbid"):
    """Over-optimization of the reward model."""

    stage: str = Field(
        "ppo", description="Name of the stage whose training curve is read, data/reports/<stage>/curve.csv."
    )
    max_gold_fall: float = Field(
        0.03, ge=0, description="How much the gold reward may fall from its best value to the end of training."
    )
    window: int = Field(
        2, ge=1, description="Number of consecutive measurements of the curve that are averaged before the comparison."
    )


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """reward_score by model, over_optimized (0 or 1) by policy, the training curve as a table and a figure."""
    result = MetricResult({"reward_score": {}, "over_optimized": {}})
    for name in inputs.policies:
        result.scores["reward_score"][name] = intervals.mean(inputs.sampled_rewards(name))
        if name != inputs.reference:
            note = _compare_with_reference(inputs, name) if inputs.verifiable else None
            result.notes += [note] if note else []
            result.scores["over_optimized"][name] = int(note is not None)
    rows = read_curve(inputs.data / "reports" / params.stage / "curve.csv")
    if params.stage in inputs.policies and rows:
        result.tables["over_optimization"] = rows
        result.figures["over_optimization"] = draw_curve(rows, inputs.reference)
        if sentence := check_curve(rows, params):
            result.notes.insert(0, f"OVER-OPTIMIZED: {params.stage}: {sentence}")
            result.scores["over_optimized"][params.stage] = 1
    return result


def _compare_with_reference(inputs: EvaluationInputs, name: str) -> str | None:
    """A note if the scores of a policy on test prompts show over-optimization, else None."""
    reference = inputs.reference
    score_gain = in_standard_errors(inputs.sampled_rewards(name) - inputs.sampled_rewards(reference))
    gold_loss = -in_standard_errors(
        gold_rewards(inputs, name, greedy=False) - gold_rewards(inputs, reference, greedy=False)
    )
    if score_gain <= MIN_STANDARD_ERRORS or gold_loss <= MIN_STANDARD_ERRORS:
        return None
    return (
        f"OVER-OPTIMIZED: {name} has a higher score of the reward model than {reference} (by {score_gain:.1f} standard "
        f"errors) but a lower gold reward (by {gold_loss:.1f})"
    )


def read_curve(path: Path) -> list[dict[str, Any]]:
    """Read step, score, gold and kl of each measurement; empty if gold was not measured. Raises BadInput."""
    rows = read_csv(path)
    try:
        return [
            {"step": int(row["step"]), **{column: float(row[column]) for column in COLUMNS}}
            for row in rows
            if all(row.get(column) for column in COLUMNS)
        ]
    except (KeyError, ValueError) as error:
        raise BadInput(
            f"{path} is not a training curve: expected numbers in the columns step, {', '.join(COLUMNS)} ({error!r}). "
            "Run the stage that writes it again."
        ) from error


def check_curve(rows: list[dict[str, Any]], params: Params) -> str | None:
    """A sentence with the numbers if the curve shows over-optimization, else None."""
    window = params.window
    if len(rows) < 2 * window:
        return None
    score, gold = (_moving_average(np.array([row[column] for row in rows]), window) for column in ("score", "gold"))
    best = int(gold[:-window].argmax())  # among the windows that do not overlap the last one
    fall, rise = gold[best] - gold[-1], score[-1] - score[best]
    if fall <= params.max_gold_fall or rise <= 0:
        return None
    return (
        f"from step {rows[best + window - 1]['step']} to step {rows[-1]['step']} the reward model's score rose "
        f"{score[best]:.3f} -> {score[-1]:.3f} while the gold reward fell {gold[best]:.3f} -> {gold[-1]:.3f}"
    )


def _moving_average(values: FloatArray, window: int) -> FloatArray:
    return np.convolve(values, np.full(window, 1 / window), mode="valid")


def draw_curve(rows: list[dict[str, Any]], reference: str) -> "Figure":
    """Score, gold reward and KL by step, in three panels."""
    from matplotlib.figure import Figure

    labels = {"score": "reward model's score", "gold": "gold reward", "kl": f"KL from {reference}, nats"}
    figure = Figure(figsize=(7, 6), layout="constrained")
    for axes, column in zip(figure.subplots(3, 1, sharex=True), COLUMNS, strict=True):
        axes.plot([row["step"] for row in rows], [row[column] for row in rows], linewidth=1.6)
        axes.set_ylabel(labels[column])
        axes.grid(alpha=0.3)
    axes.set_xlabel("step")
    return figure
