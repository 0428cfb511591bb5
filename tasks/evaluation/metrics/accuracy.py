"""Exact match of each model's greedy answers with the right answers.

Case, character width and the closing mark are ignored (tasks/gold.py). Intervals: exact. The baseline always gives the
most frequent right answer. The gain of a policy over the
reference is the mean difference prompt by prompt, with the bootstrap over prompts.
"""

from collections import Counter

import numpy as np
from pydantic import BaseModel

from tasks import gold
from tasks.evaluation import intervals
from tasks.evaluation.inputs import EvaluationInputs, MetricResult, NotMeasured
from tasks.reports import Score

SCORES = ("exact_match.MODEL", "exact_match_gain.MODEL")


class Params(BaseModel, frozen=True, extra="forbid"):
    """Exact match of greedy answers. It has no params."""


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """exact_match by model; exact_match_gain of each policy over the reference; a table of the wrong answers."""
    if not inputs.verifiable:
        raise NotMeasured("no test prompt has a right answer that can be verified")
    correct, wrong_answers = {}, []
    for name in inputs.policies:
        answers = inputs.answers(name, greedy=True)
        pairs = list(zip(inputs.prompts, answers, strict=True))
        correct[name] = np.array([gold.correct(answer.text, prompt.metadata) for prompt, answer in pairs])
        wrong_answers += [
            {"model": name, "prompt": prompt.text, "expected": prompt.metadata["answer"], "answer": answer.text}
            for (prompt, answer), is_correct in zip(pairs, correct[name], strict=True)
            if not is_correct
        ]
    expected = Counter(gold.normalize(str(prompt.metadata["answer"])) for prompt in inputs.prompts)
    majority = expected.most_common(1)[0][1] / len(inputs.prompts)
    items = [
        prompt.item("exact_match", name, answer.text, is_correct, str(prompt.metadata.get("skill", "")))
        for name, hits in correct.items()
        for prompt, answer, is_correct in zip(inputs.prompts, inputs.answers(name, greedy=True), hits, strict=True)
    ]
    reference = inputs.reference
    gains = {name: correct[name].astype(float) - correct[reference] for name in correct if name != reference}
    return MetricResult(
        {
            "exact_match": {
                name: Score.of_share(int(hits.sum()), len(hits)).compared_with("majority", majority)
                for name, hits in correct.items()
            },
            "exact_match_gain": {name: intervals.mean(gain) for name, gain in gains.items()},
        },
        tables={"wrong_answers": wrong_answers},
        items=items,
    )
