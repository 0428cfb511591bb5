"""How often the right option of a question has the highest likelihood, compared with chance.

The score of an option is its log-likelihood after the question divided by its number of tokens, so that long options
are not at a disadvantage. Kinds of questions: `numbers`, whose options are answers to other test prompts in the same
language; `documents`, whose options are answers to other open test questions. Intervals: Wilson.
"""

import unicodedata
from itertools import takewhile
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from tasks.evaluation.inputs import EvaluationInputs, MetricResult, NotMeasured, evenly_spaced
from tasks.reports import Score

Question = tuple[list[int], list[str]]  # the prompt, and the options with the right one first


class Params(BaseModel, frozen=True, extra="forbid"):
    """Multiple-choice accuracy by likelihood."""

    num_questions: int = Field(100, ge=1, description="Maximum number of questions of each kind.")
    num_options: int = Field(4, ge=2, description="Number of options of a question, the right one included.")
    max_option_tokens: int = Field(48, ge=1, description="Maximum length of an option, in tokens; the rest is cut off.")
    seed: int = Field(0, ge=0, description="Seed of the random numbers that choose the wrong options.")


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """multiple_choice by kind of question and model, and chance."""
    questions_by_kind = {
        "numbers": number_questions(inputs, params),
        "documents": document_questions(inputs, params),
    }
    scores: dict[str, Any] = {}
    for name in inputs.policies:
        for kind, questions in questions_by_kind.items():
            if questions:
                num_correct = _num_correct(inputs, name, questions, params)
                scores.setdefault(kind, {})[name] = Score.of_share(num_correct, len(questions))
    chance = 1 / params.num_options
    if not scores:
        raise NotMeasured(f"there are fewer than {params.num_options} test prompts with different answers")
    return MetricResult({"multiple_choice": {**scores, "chance": chance}})


def _num_correct(inputs: EvaluationInputs, name: str, questions: list[Question], params: Params) -> int:
    from tasks.evaluation.scoring import answer_log_likelihoods

    prompts = [prompt for prompt, options in questions for _ in options]
    texts = [option for _, options in questions for option in options]
    preface, *encoded = _answer_ids(inputs.tokenizer, ["", *texts])
    options = [ids[: len(preface) + params.max_option_tokens] for ids in encoded]
    log_likelihoods = answer_log_likelihoods(inputs.model(name), prompts, options, inputs.params.batch_size)
    per_token = (log_likelihoods / np.array([len(ids) for ids in options])).reshape(-1, params.num_options)
    # A tie counts as wrong: a model that gives all options the same likelihood knows nothing.
    return int((per_token[:, 0] > per_token[:, 1:].max(axis=1)).sum())


def _answer_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """The ids of answers as the chat template renders them (after a block of thoughts, perhaps), without the end."""
    from tasks.chat_templates import ChatTemplate, EncodedPair

    template = ChatTemplate.of(tokenizer)
    pair = template.encode_pair([{"role": "user", "content": "x"}], texts)
    assert isinstance(pair, EncodedPair), pair  # tokenization has rendered such chats
    return [list(takewhile(lambda index: index not in template.end_ids, ids.tolist())) for ids in pair.answers]


def number_questions(inputs: EvaluationInputs, params: Params) -> list[Question]:
    """Questions from the prompts with a verifiable answer."""
    if not inputs.verifiable:
        return []
    answers = [(prompt.ids, str(prompt.metadata["answer"])) for prompt in inputs.prompts]
    return _with_distractors(answers, params)


def document_questions(inputs: EvaluationInputs, params: Params) -> list[Question]:
    """Questions from the open prompts that have a reference answer."""
    answers = [(prompt.ids, str(prompt.metadata.get("reference", ""))) for prompt in inputs.open_prompts]
    return _with_distractors([(prompt, answer) for prompt, answer in answers if answer], params)


def _with_distractors(answers: list[tuple[list[int], str]], params: Params) -> list[Question]:
    """Add wrong options to (prompt, right answer) pairs: answers to other questions in the same script.

    A question with fewer than `num_options - 1` such answers is left out.
    """
    generator = np.random.default_rng(params.seed)
    questions = []
    for prompt, right in evenly_spaced(answers, params.num_questions):
        candidates = sorted({answer for _, answer in answers if answer != right and _is_han(answer) == _is_han(right)})
        if len(candidates) >= params.num_options - 1:
            chosen = generator.choice(len(candidates), params.num_options - 1, replace=False)
            questions.append((prompt, [right, *(candidates[index] for index in chosen)]))
    return questions


def _is_han(text: str) -> bool:
    return "CJK" in unicodedata.name(text[:1], "")
