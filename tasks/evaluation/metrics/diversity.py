"""How varied sampled answers are: distinct n-grams, repetition within an answer, and similarity between answers.

distinct_2 is the share of different pairs of tokens in an answer; repetition the share of its 4-grams that occurred
before in it (arXiv:1908.04319); self_bleu the BLEU of an answer against other answers of the model (arXiv:1802.01886).
Tokens are words and Chinese characters. Intervals: bootstrap over prompts.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from tasks.evaluation import answer_scores, intervals
from tasks.evaluation.answer_scores import ScoreOf
from tasks.evaluation.inputs import EvaluationInputs, MetricResult, Prompt, evenly_spaced
from tasks.evaluation.text_scores import TOKEN, corpus_scores

SCORES = ("distinct_1.MODEL", "distinct_2.MODEL", "repetition.MODEL", "self_bleu.MODEL")


class Params(BaseModel, frozen=True, extra="forbid"):
    """Diversity of sampled answers."""

    num_compared: int = Field(30, ge=2, description="Number of answers that self-BLEU compares with one another.")


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """distinct_1, distinct_2, repetition and self_bleu by model."""
    scores: dict[str, ScoreOf] = {
        "distinct_1": lambda prompt, answer: distinct(answer, 1),
        "distinct_2": lambda prompt, answer: distinct(answer, 2),
        "repetition": _repetition,
    }
    result = answer_scores.measure(inputs, scores, greedy=False, shares=tuple(scores))
    result.scores["self_bleu"] = {}
    prompts = evenly_spaced(list(inputs.prompts), params.num_compared)
    for name in inputs.policies:
        texts = [answer.text for answer in evenly_spaced(inputs.answers(name, greedy=False), params.num_compared)]
        values = self_bleu(texts)
        if values:
            result.scores["self_bleu"][name] = intervals.mean(values)
            result.items += [
                prompt.item("self_bleu", name, text, value)
                for prompt, text, value in zip(prompts, texts, values, strict=True)
            ]
    return result


def distinct(text: str, n: int) -> float | None:
    """The number of different n-grams divided by the number of n-grams; None for a text without any."""
    grams = _ngrams(text, n)
    return len(set(grams)) / len(grams) if grams else None


def self_bleu(texts: Sequence[str]) -> list[float]:
    """The BLEU of each text against all others."""
    if len(texts) < 2:
        return []
    references = [[*texts[:index], *texts[index + 1 :]] for index in range(len(texts))]
    return corpus_scores("bleu", texts, references, 10)[2]


def _repetition(prompt: Prompt, answer: str) -> float | None:
    value = distinct(answer, 4)
    return None if value is None else 1 - value


def _ngrams(text: str, n: int) -> list[Any]:
    tokens = TOKEN.findall(text.casefold())
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))
