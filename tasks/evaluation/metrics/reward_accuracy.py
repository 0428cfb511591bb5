"""Accuracy of the reward model on test pairs: how often the chosen answer has the higher score; ties count half.

Also its accuracy by reason and by length difference, the mean margin, the calibration error and the length bias, as
tasks/reward_metrics.py defines them. Intervals: exact for shares, otherwise bootstrap over pairs.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from tasks import reward_metrics
from tasks.evaluation import intervals
from tasks.evaluation.inputs import EvaluationInputs, MetricResult, NotMeasured, Pair, evenly_spaced
from tasks.evaluation.items import Item, text_id
from tasks.reports import Score

FloatArray = npt.NDArray[np.float64]
SCORES = (
    "reward_accuracy",
    "reward_accuracy_by_reason.*",
    "reward_accuracy_by_length.*",
    "reward_margin",
    "reward_calibration_error",
    "reward_length_bias",
    "reward_length_bias_of_labels",
)


class Params(BaseModel, frozen=True, extra="forbid"):
    """Accuracy, calibration and length bias of the reward model."""

    num_pairs: int = Field(1000, ge=1, description="Maximum number of test pairs; they are evenly spaced.")


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """reward_accuracy, reward_margin and the other metrics of tasks/reward_metrics.py, with the prefix `reward_`."""
    pairs = evenly_spaced(inputs.pairs, params.num_pairs)
    unpaired = inputs.num_unpaired
    if not pairs:
        alone = f", only {unpaired} answers that were judged alone" if unpaired else ""
        raise NotMeasured(f"the split 'test' contains no preference pair{alone}")
    margins = _margins(inputs, pairs)
    lengths = np.array([[len(pair.chosen), len(pair.rejected)] for pair in pairs])
    reasons = [pair.reason for pair in pairs]
    values = reward_metrics.metrics(margins, reasons, lengths[:, 0], lengths[:, 1], Score.of_share, intervals.bootstrap)
    scores = {f"reward_{name}": value for name, value in values.items()}
    scores["reward_accuracy"] = scores["reward_accuracy"].compared_with("chance", 0.5)
    scores["reward_margin"] = intervals.mean(margins)
    note = f"reward_accuracy: {unpaired} test answers that were judged alone are not used, because it compares answers"
    tables = {"reward_margins": _histogram(margins)}
    items = _items(inputs, pairs, reward_metrics.correctness(margins), margins)
    return MetricResult(scores, tables, notes=[note] if unpaired else [], items=items)


def _items(inputs: EvaluationInputs, pairs: list[Pair], correct: FloatArray, margins: FloatArray) -> list[Item]:
    decode = inputs.tokenizer.batch_decode
    texts = zip(
        *(decode([getattr(pair, part) for pair in pairs]) for part in ("prompt", "chosen", "rejected")), strict=True
    )
    name, result = inputs.params.reward_model, list[Item]()
    for pair, own, is_correct, margin in zip(pairs, texts, correct, margins, strict=True):
        key = text_id(*own)
        result.append(Item("reward_accuracy", name, key, pair.reason, own[0], own[1], float(is_correct)))
        result.append(Item("reward_margin", name, key, pair.reason, own[0], own[1], float(margin)))
    return result


def _margins(inputs: EvaluationInputs, pairs: list[Pair]) -> FloatArray:
    chosen = inputs.rewards([pair.prompt + pair.chosen for pair in pairs])
    return chosen - inputs.rewards([pair.prompt + pair.rejected for pair in pairs])


def _histogram(margins: FloatArray) -> list[dict[str, Any]]:
    counts, edges = np.histogram(margins, bins=20)
    return [
        {"from": round(float(low), 4), "to": round(float(high), 4), "pairs": int(count)}
        for count, low, high in zip(counts, edges, edges[1:], strict=False)
    ]
