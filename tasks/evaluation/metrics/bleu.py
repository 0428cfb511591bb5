"""BLEU and chrF (sacrebleu) of each model's greedy translations, by direction, on a scale from 0 to 100.

Corpus BLEU-4 with sacrebleu's tokenizer `zh` for Chinese answers and `13a` for all others; chrF2. The closing mark is
removed from answer and reference, because it is a matter of style and not of translation. Intervals: sacrebleu's
bootstrap over answers.
"""

import unicodedata
from typing import Any

from pydantic import BaseModel, Field

from tasks import gold
from tasks.evaluation import intervals
from tasks.evaluation.inputs import EvaluationInputs, MetricResult, NotMeasured
from tasks.reports import Score


class Params(BaseModel, frozen=True, extra="forbid"):
    """BLEU and chrF of greedy translations."""

    num_resamples: int = Field(200, ge=10, description="Number of bootstrap resamples for the confidence interval.")


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """bleu and chrf, each by model and direction, such as "zh-en"."""
    if not inputs.verifiable:
        raise NotMeasured("no test prompt has a right answer that can be verified")
    references = [str(prompt.metadata["answer"]) for prompt in inputs.prompts]
    directions = [str(prompt.metadata.get("direction", "all")) for prompt in inputs.prompts]
    result = MetricResult({"bleu": {}, "chrf": {}})
    for name in inputs.policies:
        answers = [answer.text for answer in inputs.answers(name, greedy=True)]
        for direction in sorted(set(directions)):
            rows = zip(answers, references, directions, strict=True)
            bleu, chrf = _corpus_scores([(answer, ref) for answer, ref, d in rows if d == direction], params)
            result.scores["bleu"].setdefault(name, {})[direction] = bleu
            result.scores["chrf"].setdefault(name, {})[direction] = chrf
    return result


def _corpus_scores(pairs: list[tuple[str, str]], params: Params) -> tuple[Score, Score]:
    """BLEU and chrF of (answer, reference) pairs."""
    from sacrebleu.metrics import BLEU, CHRF

    answers, references = ([gold.normalize(text) for text in texts] for texts in zip(*pairs, strict=True))
    scores = []
    for metric in (BLEU(tokenize="zh" if any(map(_is_chinese, references)) else "13a"), CHRF()):
        _return_floats(metric)
        result: Any = metric.corpus_score(answers, [references], n_bootstrap=params.num_resamples)
        low, high = result._mean - result._ci, result._mean + result._ci
        scores.append(intervals.rounded_score(result.score, low, high, len(pairs)))
    return scores[0], scores[1]


def _return_floats(metric: Any) -> None:
    """Let `metric` return Python floats: sacrebleu's bootstrap fails on its own mix of 0.0 and float32 scores."""
    compute = metric._compute_score_from_stats

    def compute_float(stats: Any) -> Any:
        result = compute(stats)
        result.score = float(result.score)
        return result

    metric._compute_score_from_stats = compute_float


def _is_chinese(text: str) -> bool:
    return any("CJK" in unicodedata.name(character, "") for character in text)
