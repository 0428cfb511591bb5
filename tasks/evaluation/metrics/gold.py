"""The gold reward (tasks/gold.py), which no policy is trained on, of each model on the same held-out prompts.

`gold` judges answers sampled at temperature 1: that is what ppo optimizes and what sft's open style is a coin for; the
likeliest answer alone would show sft as always or never in style. `gold_greedy` judges the likeliest answers.
`gold_gain` is the mean difference to sft, prompt by prompt, and `standard_errors` that difference in units of its own
standard error. Intervals: bootstrap over prompts (Wilson where all answers are alike).
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from tasks import gold
from tasks.evaluation import intervals
from tasks.evaluation.evidence import REFERENCE, Evidence, Finding


class Params(BaseModel, frozen=True, extra="forbid"):
    """Nothing to set."""


def measure(evidence: Evidence, params: Params) -> Finding:
    """gold, gold_greedy, correct_sampled and in_style_sampled by model; gold_gain and its standard errors."""
    if not evidence.verifiable:
        return Finding(notes=["no test prompt carries what gold judges by: gold was not measured"])
    sampled = {name: rewards(evidence, name, greedy=False) for name in evidence.policies}
    gains = {name: sampled[name] - sampled[REFERENCE] for name in sampled if name != REFERENCE}
    scores: dict[str, Any] = {
        "gold": {name: intervals.unit_mean(values) for name, values in sampled.items()},
        "gold_greedy": {name: intervals.unit_mean(rewards(evidence, name, greedy=True)) for name in evidence.policies},
        "gold_gain": {name: intervals.mean(gain) for name, gain in gains.items()},
        "gold_gain_standard_errors": {name: in_standard_errors(gain) for name, gain in gains.items()},
    }
    for part, judge in {"correct_sampled": gold.correct, "in_style_sampled": gold.in_house_style}.items():
        scores[part] = {name: _share(evidence, name, judge) for name in evidence.policies}
    return Finding(scores)


def rewards(evidence: Evidence, name: str, greedy: bool) -> npt.NDArray[np.float64]:
    """The gold reward of each answer of a model to the test prompts, [num_prompts]."""
    pairs = zip(evidence.prompts, evidence.answers(name, greedy), strict=True)
    return np.array([gold.gold(answer.text, prompt.metadata) for prompt, answer in pairs])


def in_standard_errors(gain: npt.NDArray[np.float64]) -> float:
    """The mean of paired differences in units of its standard error, within +-999; 0 where nothing differs."""
    if not gain.any():
        return 0.0
    error = max(intervals.standard_error(gain), 1e-6)
    return round(float(np.clip(gain.mean() / error, -999.0, 999.0)), 3)


def _share(evidence: Evidence, name: str, judge: Any) -> Any:
    pairs = zip(evidence.prompts, evidence.answers(name, greedy=False), strict=True)
    hits = [bool(judge(answer.text, prompt.metadata)) for prompt, answer in pairs]
    return intervals.share(sum(hits), len(hits))
