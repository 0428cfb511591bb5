"""Sets whose choices are compared by likelihood: multiple choice, minimal pairs, and cloze, which has one choice."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.evaluation import calibration, intervals
from tasks.evaluation.benchmarks import encoding
from tasks.evaluation.benchmarks.examples import Example
from tasks.evaluation.benchmarks.params import BenchmarkSet
from tasks.evaluation.inputs import EvaluationInputs, MetricResult, NotMeasured
from tasks.evaluation.items import Item
from tasks.reports import Score

FloatArray = npt.NDArray[np.float64]
MAX_GROUPS, MAX_KEY_CHARACTERS = 100, 80


@dataclass(frozen=True, slots=True)
class ScoredItem:
    """ln p, number of tokens and whether each token is the most probable one, of each choice: [choices].

    unconditional: ln p after the unconditional prompt; empty where it is not needed.
    """

    example: Example
    totals: FloatArray
    num_tokens: FloatArray
    is_greedy: npt.NDArray[np.bool_]
    unconditional: FloatArray

    @property
    def num_bytes(self) -> FloatArray:
        """The number of bytes of each choice, without the space before it."""
        return np.array([max(1, len(text.strip().encode())) for text in self.example.continuations], np.float64)

    def normalized(self, normalization: str) -> FloatArray:
        """The values by which the choices are compared."""
        if normalization == "token":
            return self.totals / np.maximum(1, self.num_tokens)
        if normalization == "byte":
            return self.totals / self.num_bytes
        return self.totals - self.unconditional if normalization == "unconditional" else self.totals


def measure(
    name: str, model_name: str, examples: Sequence[Example], params: BenchmarkSet, inputs: EvaluationInputs,
    result: MetricResult,
) -> dict[str, Any]:  # fmt: skip
    """The accuracy by each normalization, and bits per byte of the right answers; items and notes go to `result`."""
    normalizations = ("raw",) if params.type in ("cloze", "minimal_pairs") else params.normalizations
    scored = score_examples(name, model_name, examples, params, inputs, result)
    if not scored:
        raise NotMeasured(f"no item of the benchmark {name} fits into the context of {model_name}")
    scores: dict[str, Any] = {}
    for number, normalization in enumerate(normalizations):
        key = "accuracy" if number == 0 else f"accuracy_{normalization}"
        if params.type == "cloze":
            correct = np.array([float(one.is_greedy[0]) for one in scored])
        else:
            correct = np.array([credit(one.normalized(normalization), one.example.gold) for one in scored])
        score = Score.of_share(float(correct.sum()), len(correct))
        scores[key] = score.compared_with(*_baseline([one.example for one in scored], params.type))
        result.items += _items(f"benchmarks.{name}.{key}", model_name, scored, correct, normalization, params)
        groups = {one.example.group for one in scored}
        if number == 0 and 1 < len(groups) <= MAX_GROUPS:
            scores["accuracy_by_group"] = _by_group(scored, correct)
    if params.type == "multiple_choice":
        by_item = [calibration.probabilities(one.normalized(normalizations[0])) for one in scored]
        scores |= calibration.scores(by_item, [one.example.gold for one in scored])
    scores["bits_per_byte"] = _bits_per_byte(name, model_name, scored, result)
    return scores


def score_examples(
    name: str, model_name: str, examples: Sequence[Example], params: BenchmarkSet, inputs: EvaluationInputs,
    result: MetricResult,
) -> list[ScoredItem]:  # fmt: skip
    """The likelihoods of the choices of each example that fits into the context of the model."""
    from tasks.evaluation.batches import likelihoods
    from tasks.evaluation.continuations import fit

    model, tokenizer = inputs.model_and_tokenizer(model_name)
    pairs, num_shortened, _ = fit(model, encoding.pairs(tokenizer, examples, params))
    by_example = _divide(pairs, examples)
    fitting = [number for number, own in enumerate(by_example) if fit(model, own)[2] == 0]
    if num_shortened:
        result.notes.append(
            f"benchmark {name}, {model_name}: {num_shortened:,} of {len(pairs):,} prompts are longer than the context "
            "and lost tokens at their beginning"
        )
    if len(fitting) < len(examples):
        result.notes.append(
            f"left out: benchmark {name}, {model_name}: {len(examples) - len(fitting):,} of {len(examples):,} items "
            "have an answer that is longer than the context"
        )
    kept = [examples[number] for number in fitting]
    source, batch_size = inputs.source(model_name), inputs.params.batch_size
    scored = likelihoods(source, [pair for number in fitting for pair in by_example[number]], batch_size)
    bare = []
    if "unconditional" in params.normalizations and params.type == "multiple_choice":
        prompt = params.unconditional_prompt
        alone = [replace(one, contexts=(prompt,) * len(one.contexts), shots=(), messages=()) for one in kept]
        bare_params = params.model_copy(update={"few_shot": None})
        bare = likelihoods(source, encoding.pairs(tokenizer, alone, bare_params), batch_size)
    return [
        ScoredItem(
            example,
            np.array([one.total for one in own]),
            np.array([len(one.log_probs) for one in own], np.float64),
            np.array([one.is_greedy for one in own]),
            np.array([one.total for one in own_bare]),
        )
        for example, own, own_bare in zip(
            kept, _divide(scored, kept), _divide(bare, kept) if bare else [[]] * len(kept), strict=True
        )
    ]


def _divide(values: Sequence[Any], examples: Sequence[Example]) -> list[list[Any]]:
    """Consecutive values, one for each choice, by example."""
    remaining = iter(values)
    return [[next(remaining) for _ in example.continuations] for example in examples]


def credit(values: FloatArray, gold: int) -> float:
    """1 if the right choice has the largest value; 1 / k if it ties with k - 1 others; else 0."""
    best = values >= values.max() - 1e-12
    return float(best[gold]) / float(best.sum())


def _bits_per_byte(name: str, model: str, scored: Sequence[ScoredItem], result: MetricResult) -> Score:
    """The loss of the right answers. It separates models between which accuracy is noise (arXiv:2508.13144)."""
    bits = np.array([-one.totals[one.example.gold] / np.log(2) for one in scored])
    num_bytes = np.array([one.num_bytes[one.example.gold] for one in scored])
    result.items += [
        Item(
            f"benchmarks.{name}.bits_per_byte", model, one.example.id, one.example.group, "",
            one.example.continuations[one.example.gold], float(value),
        )
        for one, value in zip(scored, bits / num_bytes, strict=True)
    ]  # fmt: skip
    return intervals.ratio(bits, num_bytes).compared_with("random bytes", 8.0)


def _baseline(examples: Sequence[Example], set_type: str) -> tuple[str, float]:
    """The better one of chance and of always choosing the most frequent place (for cloze: continuation)."""
    if set_type == "minimal_pairs":
        return "chance", 0.5
    counts = Counter[Any](one.continuations[0] if set_type == "cloze" else one.gold for one in examples)
    majority = counts.most_common(1)[0][1] / len(examples)
    chance = 0.0 if set_type == "cloze" else float(np.mean([1 / len(one.continuations) for one in examples]))
    return ("chance", chance) if chance >= majority else ("majority", majority)


def _by_group(scored: Sequence[ScoredItem], correct: FloatArray) -> dict[str, Score]:
    groups = np.array([one.example.group for one in scored])
    return {
        report_key(group): Score.of_share(float(correct[groups == group].sum()), int((groups == group).sum()))
        for group in sorted(set(groups.tolist()))
    }


def report_key(group: str) -> str:
    """The name of a group as a key of the report; MLflow refuses other characters."""
    return re.sub(r"[^\w -]", "_", group)[:MAX_KEY_CHARACTERS] or "none"


def _items(
    score_name: str, model: str, scored: Sequence[ScoredItem], correct: FloatArray, normalization: str,
    params: BenchmarkSet,
) -> list[Item]:  # fmt: skip
    """One item for each example; its answer is the choice of the model."""
    result = []
    for one, value in zip(scored, correct, strict=True):
        example = one.example
        prompt = encoding.full_context(example, example.contexts[example.gold], params)
        answer = example.continuations[int(one.normalized(normalization).argmax())]
        result.append(Item(score_name, model, example.id, example.group, prompt, answer, float(value)))
    return result
