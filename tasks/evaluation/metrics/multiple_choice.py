"""How often the right option of a question has the highest likelihood, compared with chance.

The score of an option is its log-likelihood after the question divided by its number of tokens, so that long options
are not at a disadvantage. Kinds of questions: `numbers`, whose options are answers to other test prompts in the same
language; `documents`, whose options are answers to other open test questions. `bits_per_byte` is the loss of the right
options, which separates models between which accuracy is noise. Intervals: exact, and bootstrap over questions.
"""

import unicodedata
from itertools import takewhile
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from tasks.evaluation import intervals
from tasks.evaluation.inputs import EvaluationInputs, MetricResult, NotMeasured, evenly_spaced
from tasks.evaluation.items import Item, text_id
from tasks.reports import Score

Question = tuple[list[int], list[str]]  # the prompt, and the options with the right one first
SCORES = ("multiple_choice.chance", "multiple_choice.*.MODEL", "multiple_choice_bits_per_byte.*.MODEL")


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
    bits: dict[str, Any] = {}
    items: list[Item] = []
    for name in inputs.policies:
        for kind, questions in questions_by_kind.items():
            if questions:
                score, bits_per_byte = _measure(inputs, name, kind, questions, params, items)
                scores.setdefault(kind, {})[name] = score
                bits.setdefault(kind, {})[name] = bits_per_byte
    chance = 1 / params.num_options
    if not scores:
        raise NotMeasured(f"there are fewer than {params.num_options} test prompts with different answers")
    scores["chance"] = chance
    return MetricResult({"multiple_choice": scores, "multiple_choice_bits_per_byte": bits}, items=items)


def _measure(
    inputs: EvaluationInputs, name: str, kind: str, questions: list[Question], params: Params, items: list[Item]
) -> tuple[Score, Score]:
    """Accuracy and bits per byte of the right options."""
    from tasks.evaluation.batches import likelihoods
    from tasks.evaluation.continuations import Pair

    texts = [option for _, options in questions for option in options]
    preface, *encoded = _answer_ids(inputs.tokenizer, ["", *texts])
    limited = [ids[: len(preface) + params.max_option_tokens] for ids in encoded]
    prompts = [prompt for prompt, options in questions for _ in options]
    pairs = [Pair(list(prompt), ids) for prompt, ids in zip(prompts, limited, strict=True)]
    totals = np.array([one.total for one in likelihoods(inputs.source(name), pairs, inputs.params.batch_size)])
    num_tokens = np.array([len(ids) for ids in limited])
    per_token = (totals / num_tokens).reshape(-1, params.num_options)
    # A tie counts as wrong: a model that gives all options the same likelihood knows nothing.
    correct = per_token[:, 0] > per_token[:, 1:].max(axis=1)
    decoded = inputs.tokenizer.batch_decode(limited[:: params.num_options], skip_special_tokens=True)
    num_bytes = np.array([max(1, len(text.strip().encode())) for text in decoded])
    right_bits = -totals.reshape(-1, params.num_options)[:, 0] / np.log(2)
    for index, (prompt, options) in enumerate(questions):
        text = inputs.tokenizer.decode(prompt, skip_special_tokens=True)
        key, answer = text_id(text, *options), options[int(per_token[index].argmax())]
        items.append(Item(f"multiple_choice.{kind}", name, key, kind, text, answer, float(correct[index])))
        bits = float(right_bits[index] / num_bytes[index])
        items.append(Item(f"multiple_choice_bits_per_byte.{kind}", name, key, kind, text, options[0], bits))
    accuracy = Score.of_share(int(correct.sum()), len(questions)).compared_with("chance", 1 / params.num_options)
    return accuracy, intervals.ratio(right_bits, num_bytes).compared_with("random bytes", 8.0)


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
