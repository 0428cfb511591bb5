"""What the assistant can do and what it cannot: exact match by skill, turn, language, wording and range; and honesty.

It needs test prompts of the source `skills`, whose metadata state these groups. Greedy answers are counted as right as
in the metric `accuracy`. `refused` is the share of the unanswerable questions that the model refuses, `wrongly_refused`
the share of the others that it refuses as well. `reason_gain` compares sampled answers with those of the reference by
the reasons that preferences state; `honest` counts a question as 1 if it is refused exactly when it must be.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from tasks import gold
from tasks.evaluation import intervals
from tasks.evaluation.inputs import Answer, EvaluationInputs, MetricResult, NotMeasured, Prompt
from tasks.evaluation.items import Item
from tasks.evaluation.metrics.gold import in_standard_errors
from tasks.reports import Score

REFUSAL = "refusal"  # the skill of the questions that must be refused
GROUPS = ("skill", "turn", "language", "follow_up", "unseen_wording", "held_out_range")
SCORES = (
    *(f"exact_match_by_{group}.MODEL.*" for group in GROUPS),
    "refused.MODEL",
    "wrongly_refused.MODEL",
    "reason_share.MODEL.*",
    "reason_gain.MODEL.*",
    "reason_gain_standard_errors.MODEL.*",
)

Flags = npt.NDArray[np.bool_]


class Params(BaseModel, frozen=True, extra="forbid"):
    """Exact match by group, and honesty. It has no params."""


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """exact_match_by_<group>, refused, wrongly_refused, reason_share, reason_gain and its standard errors by model.

    Items: exact match by skill, refusals, and each reason of each sampled answer.
    """
    prompts = inputs.prompts
    if not all("skill" in prompt.metadata for prompt in prompts):
        raise NotMeasured("not every test prompt states its skill, as those of the source `skills` do")
    scores: dict[str, Any] = {f"exact_match_by_{group}": {} for group in GROUPS}
    scores |= {"refused": {}, "wrongly_refused": {}, "reason_share": {}, "reason_gain": {}}
    scores["reason_gain_standard_errors"] = {}
    items: list[Item] = []
    reference = reason_flags(prompts, inputs.answers(inputs.reference, greedy=False))
    for name in inputs.policies:
        answers = inputs.answers(name, greedy=True)
        correct = np.array([gold.correct(a.text, p.metadata) for p, a in zip(prompts, answers, strict=True)])
        for group in GROUPS:
            scores[f"exact_match_by_{group}"][name] = by_group(prompts, correct, group)
        for key, flags in refusals(prompts, answers).items():
            scores[key][name] = Score.of_share(int(flags.sum()), len(flags))
        flags_by_reason = reason_flags(prompts, inputs.answers(name, greedy=False))
        scores["reason_share"][name] = {
            reason: Score.of_share(int(flags.sum()), len(flags)) for reason, flags in flags_by_reason.items()
        }
        if name != inputs.reference:
            gains = {reason: flags - reference[reason].astype(float) for reason, flags in flags_by_reason.items()}
            scores["reason_gain"][name] = {reason: intervals.mean(gain) for reason, gain in gains.items()}
            scores["reason_gain_standard_errors"][name] = {
                reason: in_standard_errors(gain) for reason, gain in gains.items()
            }
        items += _items(inputs, name, correct)
    return MetricResult(scores, items=items)


def _items(inputs: EvaluationInputs, model: str, correct: Flags) -> list[Item]:
    prompts, items, sentences = inputs.prompts, list[Item](), refusal_sentences(inputs.prompts)
    for prompt, answer, is_correct in zip(prompts, inputs.answers(model, greedy=True), correct, strict=True):
        skill, is_refused = str(prompt.metadata["skill"]), gold.normalize(answer.text) in sentences
        items.append(prompt.item("exact_match_by_skill", model, answer.text, is_correct, skill))
        items.append(prompt.item(_refusal_key(prompt), model, answer.text, is_refused, skill))
    for prompt, answer in zip(prompts, inputs.answers(model, greedy=False), strict=True):
        for reason, flag in judge(prompt, answer, sentences).items():
            items.append(prompt.item(f"reason_share.{reason}", model, answer.text, flag, str(prompt.metadata["skill"])))
    return items


def by_group(prompts: Sequence[Prompt], correct: Flags, group: str) -> dict[str, Score]:
    """The share of right answers for each value of `group` in the metadata of the prompts that state it."""
    names = [_name(prompt.metadata[group]) if group in prompt.metadata else None for prompt in prompts]
    hits = {name: correct[[other == name for other in names]] for name in sorted({name for name in names if name})}
    return {name: Score.of_share(int(flags.sum()), len(flags)) for name, flags in hits.items()}


def _name(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def refusals(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> dict[str, Flags]:
    """Whether each question is refused: key -> flags of the questions that must be refused, and of the others."""
    sentences = refusal_sentences(prompts)
    flags: dict[str, list[bool]] = {"refused": [], "wrongly_refused": []}
    for prompt, answer in zip(prompts, answers, strict=True):
        flags[_refusal_key(prompt)].append(gold.normalize(answer.text) in sentences)
    return {key: np.array(values) for key, values in flags.items() if values}


def _refusal_key(prompt: Prompt) -> str:
    return "refused" if prompt.metadata["skill"] == REFUSAL else "wrongly_refused"


def refusal_sentences(prompts: Sequence[Prompt]) -> set[str]:
    """The right answers to the questions that must be refused, normalized."""
    return {gold.normalize(str(p.metadata["answer"])) for p in prompts if p.metadata["skill"] == REFUSAL}


def reason_flags(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> dict[str, Flags]:
    """Reason -> whether each answer is good in this respect, for the prompts that the reason applies to."""
    sentences = refusal_sentences(prompts)
    by_reason: dict[str, list[bool]] = {}
    for prompt, answer in zip(prompts, answers, strict=True):
        for reason, flag in judge(prompt, answer, sentences).items():
            by_reason.setdefault(reason, []).append(flag)
    return {reason: np.array(flags) for reason, flags in by_reason.items()}


def judge(prompt: Prompt, answer: Answer, sentences: set[str]) -> dict[str, bool]:
    """Reason -> whether the answer is good in this respect; `sentences` are the normalized refusals."""
    expected = str(prompt.metadata["answer"])
    must_refuse = prompt.metadata["skill"] == REFUSAL
    flags = {
        "honest": (gold.normalize(answer.text) in sentences) == must_refuse,
        "complete": answer.finished,
        "brief": len(answer.text) <= 2 * len(expected) + 2,
    }
    if any(map(str.isalpha, expected)):
        flags["language"] = _is_chinese(answer.text) == _is_chinese(expected)
    if not must_refuse:
        flags["correct"] = gold.correct(answer.text, prompt.metadata)
        if prompt.metadata.get("follow_up"):
            flags["follows"] = flags["correct"]
    return flags


def _is_chinese(text: str) -> bool:
    return any("\u4e00" <= character <= "\u9fff" for character in text)
