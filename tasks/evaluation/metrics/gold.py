"""The gold reward (tasks/gold.py), which no policy is trained on, of each model's answers to the same test prompts.

`gold` scores answers sampled at temperature 1, which PPO optimizes. The reference uses the house style in about half
of its samples; its greedy answers would show it as always or never in style. `gold_greedy` scores greedy answers.
`gold_gain` is the mean difference to the reference, prompt by prompt; `gold_gain_standard_errors` is that difference
divided by its standard error. Intervals: bootstrap over prompts, or exact if all answers have the same reward. The
baseline of a policy is the reference.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from tasks import gold
from tasks.evaluation import intervals
from tasks.evaluation.inputs import EvaluationInputs, MetricResult, NotMeasured
from tasks.reports import Score

MAX_STANDARD_ERRORS = 999.0
SCORES = (
    "gold.MODEL",
    "gold_greedy.MODEL",
    "gold_gain.MODEL",
    "gold_gain_standard_errors.MODEL",
    "correct_sampled.MODEL",
    "in_style_sampled.MODEL",
)


class Params(BaseModel, frozen=True, extra="forbid"):
    """Gold reward of sampled and of greedy answers. It has no params."""


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """gold, gold_greedy, correct_sampled and in_style_sampled by model; gold_gain and its standard errors by policy."""
    if not inputs.verifiable:
        raise NotMeasured("no test prompt has a right answer that can be verified")
    sampled = {name: gold_rewards(inputs, name, greedy=False) for name in inputs.policies}
    gains = {name: sampled[name] - sampled[inputs.reference] for name in sampled if name != inputs.reference}
    greedy = {name: gold_rewards(inputs, name, greedy=True) for name in inputs.policies}
    return MetricResult(
        {
            "gold": _compared(sampled, inputs.reference),
            "gold_greedy": _compared(greedy, inputs.reference),
            "gold_gain": {name: intervals.mean(gain) for name, gain in gains.items()},
            "gold_gain_standard_errors": {name: in_standard_errors(gain) for name, gain in gains.items()},
            "correct_sampled": {name: _proportion(inputs, name, gold.correct) for name in inputs.policies},
            "in_style_sampled": {name: _proportion(inputs, name, gold.in_house_style) for name in inputs.policies},
        },
        items=[
            prompt.item(score_name, name, answer.text, value)
            for score_name, rewards, is_greedy in (("gold", sampled, False), ("gold_greedy", greedy, True))
            for name, values in rewards.items()
            for prompt, answer, value in zip(inputs.prompts, inputs.answers(name, is_greedy), values, strict=True)
        ],
    )


def _compared(rewards: Mapping[str, npt.NDArray[np.float64]], reference: str) -> dict[str, Score]:
    """The mean reward of each model, the policies with that of the reference as their baseline."""
    means = {name: intervals.unit_mean(values) for name, values in rewards.items()}
    baseline = means[reference].value
    return {
        name: score if name == reference else score.compared_with(reference, baseline) for name, score in means.items()
    }


def gold_rewards(inputs: EvaluationInputs, name: str, greedy: bool) -> npt.NDArray[np.float64]:
    """The gold reward of each answer of a model to the test prompts, [num_prompts]."""
    pairs = zip(inputs.prompts, inputs.answers(name, greedy), strict=True)
    return np.array([gold.gold(answer.text, prompt.metadata) for prompt, answer in pairs])


def in_standard_errors(gain: npt.NDArray[np.float64]) -> float:
    """The mean of paired differences divided by its standard error; 0 if all differences are 0.

    Equal differences have the standard error 0; the result is limited to +-999, which JSON can represent.
    """
    if not gain.any():
        return 0.0
    error = max(intervals.standard_error(gain), 1e-6)
    return round(float(np.clip(gain.mean() / error, -MAX_STANDARD_ERRORS, MAX_STANDARD_ERRORS)), 3)


def _proportion(inputs: EvaluationInputs, name: str, predicate: Callable[[str, Mapping[str, Any]], bool]) -> Score:
    """The proportion of sampled answers of a model for which `predicate` holds."""
    pairs = zip(inputs.prompts, inputs.answers(name, greedy=False), strict=True)
    hits = [bool(predicate(answer.text, prompt.metadata)) for prompt, answer in pairs]
    return Score.of_share(sum(hits), len(hits))
