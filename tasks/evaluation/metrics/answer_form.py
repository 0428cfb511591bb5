"""The form of greedy answers: whether they end by themselves, their length, and whether they are in the right language.

The right language is that of the reference answer, or else of the question: asked in Chinese, answered in Chinese.
Intervals: exact for shares, bootstrap over prompts for lengths.
"""

from pydantic import BaseModel

from tasks.evaluation import answer_scores
from tasks.evaluation.answer_scores import ScoreOf, reference_of
from tasks.evaluation.inputs import EvaluationInputs, MetricResult, Prompt
from tasks.evaluation.text_scores import is_han

SCORES = ("answer_ended.MODEL", "answer_characters.MODEL", "answer_in_language.MODEL")


class Params(BaseModel, frozen=True, extra="forbid"):
    """Share of answers that end, length and language of greedy answers. It has no params."""


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """answer_ended, answer_characters and answer_in_language by model."""
    scores: dict[str, ScoreOf] = {"answer_characters": _length, "answer_in_language": language_fidelity}
    result = answer_scores.measure(inputs, scores, greedy=True, shares=("answer_in_language",))
    result.scores["answer_ended"] = {}
    for name in inputs.policies:
        answers = inputs.answers(name, greedy=True)
        result.scores["answer_ended"][name] = answer_scores.share([answer.finished for answer in answers])
        result.items += [
            prompt.item("answer_ended", name, answer.text, answer.finished)
            for prompt, answer in zip(inputs.prompts, answers, strict=True)
        ]
    return result


def _length(prompt: Prompt, answer: str) -> float:
    return float(len(answer))


def language_fidelity(prompt: Prompt, answer: str) -> float | None:
    """1 if the answer has the script that is expected, else 0; None if one of both has no letters."""
    expected = reference_of(prompt) or prompt.text
    if not any(map(str.isalpha, expected)) or not any(map(str.isalpha, answer)):
        return None
    return float(is_han(answer) == is_han(expected))
