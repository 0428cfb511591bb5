"""What metrics of free answers share: a number for each answer, its mean by model, items, and a baseline."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tasks.evaluation import intervals
from tasks.evaluation.inputs import EvaluationInputs, MetricResult, Prompt
from tasks.reports import Score

ScoreOf = Callable[[Prompt, str], float | None]  # None: the score does not apply to this answer


def measure(
    inputs: EvaluationInputs, score_of: Mapping[str, ScoreOf], greedy: bool, shares: Sequence[str] = ()
) -> MetricResult:
    """Each score by model: the mean over the answers that it applies to. `shares` are those from 0 to 1.

    The baseline is the same score of the reference answers of the prompts, where they have some.
    """
    result = MetricResult({name: {} for name in score_of})
    references = [(prompt, reference_of(prompt)) for prompt in inputs.prompts]
    for name, function in score_of.items():
        of_references = [function(prompt, text) for prompt, text in references if text]
        baseline = [value for value in of_references if value is not None]
        for model in inputs.policies:
            pairs = list(zip(inputs.prompts, inputs.answers(model, greedy), strict=True))
            values = [(prompt, answer.text, function(prompt, answer.text)) for prompt, answer in pairs]
            result.items += [
                prompt.item(name, model, text, value) for prompt, text, value in values if value is not None
            ]
            numbers = [value for _, _, value in values if value is not None]
            if numbers:
                score = intervals.unit_mean(numbers) if name in shares else intervals.mean(numbers)
                has_baseline = bool(baseline)
                result.scores[name][model] = (
                    score.compared_with("reference answers", float(np.mean(baseline))) if has_baseline else score
                )
    return result


def reference_of(prompt: Prompt) -> str:
    """The reference answer of a prompt; empty if it has none."""
    return str(prompt.metadata.get("reference") or prompt.metadata.get("answer") or "")


def share(flags: Sequence[bool]) -> Score:
    """The share of true flags."""
    return Score.of_share(sum(flags), len(flags))
