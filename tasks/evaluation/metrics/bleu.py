"""BLEU and chrF (sacrebleu) of each model's greedy translations, by direction, on a scale from 0 to 100.

Corpus BLEU-4 with sacrebleu's tokenizer `zh` for Chinese answers and `13a` for all others; chrF2. The texts are scored
as they are. The right answer is a reference with and without its closing mark, which is a matter of style and not of
translation. Intervals: bootstrap over answers.
"""

from typing import Any

from pydantic import BaseModel, Field

from tasks.evaluation.inputs import EvaluationInputs, MetricResult, NotMeasured
from tasks.evaluation.text_scores import corpus_scores

SCORES = ("bleu.MODEL.*", "chrf.MODEL.*")


class Params(BaseModel, frozen=True, extra="forbid"):
    """BLEU and chrF of greedy translations."""

    num_resamples: int = Field(200, ge=10, description="Number of bootstrap resamples for the confidence interval.")


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """bleu and chrf, each by model and direction, such as "zh-en"; their baseline repeats the question."""
    if not inputs.verifiable:
        raise NotMeasured("no test prompt has a right answer that can be verified")
    directions = [str(prompt.metadata.get("direction", "all")) for prompt in inputs.prompts]
    result = MetricResult({"bleu": {}, "chrf": {}})
    for direction in sorted(set(directions)):
        rows = [row for row, own in enumerate(directions) if own == direction]
        prompts = [inputs.prompts[row] for row in rows]
        references = [_references(prompt.metadata) for prompt in prompts]
        for metric in ("bleu", "chrf"):
            copied, _, _ = corpus_scores(metric, [prompt.text for prompt in prompts], references, 10)
            for name in inputs.policies:
                answers = [inputs.answers(name, greedy=True)[row].text for row in rows]
                score, _, values = corpus_scores(metric, answers, references, params.num_resamples)
                score = score.compared_with("the question itself", copied.value)
                result.scores[metric].setdefault(name, {})[direction] = score
                result.items += [
                    prompt.item(metric, name, answer, value, direction)
                    for prompt, answer, value in zip(prompts, answers, values, strict=True)
                ]
    return result


def _references(metadata: dict[str, Any]) -> list[str]:
    answer = str(metadata["answer"])
    return [answer, answer + str(metadata["closing"])]
