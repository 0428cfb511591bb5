"""Gates: conditions on the scores that a run must meet. A gate whose score was not measured has failed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field

from tasks.reports import Score

INACTIVE = (None, False)


class Gates(BaseModel, frozen=True, extra="forbid"):
    """The conditions. null (or false) switches a gate off."""

    min_unigram_ratio: float | None = Field(
        default=None, gt=0, description="Minimum of unigram_perplexity divided by perplexity; null disables the gate."
    )
    below_bigram: bool = Field(
        default=False, description="Whether perplexity must be below the perplexity of the Kneser-Ney bigram model."
    )
    min_exact_match: float | None = Field(
        default=None, ge=0, le=1, description="Minimum exact match of every policy; null disables the gate."
    )
    max_exact_match_loss: float | None = Field(
        default=None, ge=0, le=1,
        description="How much the exact match of a policy may be below the reference's; null disables the gate.",
    )  # fmt: skip
    min_reward_accuracy: float | None = Field(
        default=None, ge=0, le=1, description="Minimum accuracy of the reward model on pairs; null disables the gate."
    )
    min_gold_gain: float | None = Field(
        default=None,
        description="Minimum gain in gold reward of every policy over the reference, in standard errors of the paired "
        "difference; null disables the gate.",
    )
    max_kl: float | None = Field(
        default=None, gt=0,
        description="Maximum KL divergence of every policy from the reference, in nats per answer; null disables the "
        "gate.",
    )  # fmt: skip
    refuse_over_optimization: bool = Field(
        default=True, description="Whether a policy whose reward rose while its gold reward fell fails the run."
    )


@dataclass(frozen=True)
class Scores:
    """The scores of the report and the name of the reference model in them."""

    by_name: Mapping[str, Any]
    reference: str


def num_active(gates: Gates) -> int:
    """The number of gates that are switched on."""
    return sum(value not in INACTIVE for value in gates.model_dump().values())


def failures(by_name: Mapping[str, Any], gates: Gates, reference: str = "sft") -> list[str]:
    """One sentence with the numbers for each gate that failed. `by_name`: the scores of the evaluation report."""
    scores = Scores(by_name, reference)
    return [sentence for check in _CHECKS for sentence in check(scores, gates)]


def _perplexity(scores: Scores, gates: Gates) -> Iterator[str]:
    if gates.min_unigram_ratio is None and not gates.below_bigram:
        return
    names = ("perplexity", "unigram_perplexity", "bigram_perplexity")
    if not all(name in scores.by_name for name in names):
        yield _not_measured("min_unigram_ratio, below_bigram", "perplexity")
        return
    value, unigram, bigram = (scores.by_name[name].value for name in names)
    minimum = gates.min_unigram_ratio
    if minimum is not None and unigram / value < minimum:
        yield (
            f"min_unigram_ratio: the perplexity {value:.1f} is {unigram / value:.1f} times below that of the unigram "
            f"model, expected at least {minimum:g} times"
        )
    if gates.below_bigram and value >= bigram:
        yield f"below_bigram: the perplexity {value:.1f} is not below that of the bigram model, {bigram:.1f}"


def _exact_match(scores: Scores, gates: Gates) -> Iterator[str]:
    minimum, max_loss = gates.min_exact_match, gates.max_exact_match_loss
    by_model: Mapping[str, Score] = scores.by_name.get("exact_match", {})
    if not by_model and (minimum is not None or max_loss is not None):
        yield _not_measured("min_exact_match, max_exact_match_loss", "exact_match")
    for name, score in by_model.items():
        if minimum is not None and score.value < minimum:
            yield f"min_exact_match: {name} has {score.value:.3f}, expected at least {minimum:g}"
        reference_value = by_model[scores.reference].value
        if max_loss is not None and reference_value - score.value > max_loss:
            yield (
                f"max_exact_match_loss: {name} has {score.value:.3f}, {scores.reference} has {reference_value:.3f}; "
                f"expected a loss of at most {max_loss:g}"
            )


def _reward_accuracy(scores: Scores, gates: Gates) -> Iterator[str]:
    minimum, score = gates.min_reward_accuracy, scores.by_name.get("reward_accuracy")
    if minimum is None:
        return
    if score is None:
        yield _not_measured("min_reward_accuracy", "reward_accuracy")
    elif score.value < minimum:
        yield (
            f"min_reward_accuracy: the reward model orders {score.value:.3f} of {score.n} test pairs correctly, "
            f"expected at least {minimum:g}"
        )


def _gold_gain(scores: Scores, gates: Gates) -> Iterator[str]:
    minimum, by_model = gates.min_gold_gain, scores.by_name.get("gold_gain_standard_errors", {})
    if minimum is None:
        return
    if not by_model:
        yield _not_measured("min_gold_gain", "gold")
    for name, gain in by_model.items():
        if gain < minimum:
            value, reference_value = (scores.by_name["gold"][model].value for model in (name, scores.reference))
            yield (
                f"min_gold_gain: the gold reward of {name} is {value:.3f}, that of {scores.reference} is "
                f"{reference_value:.3f}: a gain of {gain:.1f} standard errors, expected at least {minimum:g}"
            )


def _kl(scores: Scores, gates: Gates) -> Iterator[str]:
    by_model: Mapping[str, Score] = scores.by_name.get("kl", {})
    if gates.max_kl is not None and not by_model:
        yield _not_measured("max_kl", "kl")
    for name, score in by_model.items():
        if gates.max_kl is not None and score.value > gates.max_kl:
            yield (
                f"max_kl: the KL divergence of {name} from {scores.reference} is {score.value:.2f} nats per answer, "
                f"expected at most {gates.max_kl:g}"
            )


def _over_optimization(scores: Scores, gates: Gates) -> Iterator[str]:
    for name, is_over_optimized in scores.by_name.get("over_optimized", {}).items():
        if is_over_optimized and gates.refuse_over_optimization:
            yield f"refuse_over_optimization: the reward model's score of {name} rose while its gold reward fell"


def _not_measured(gate: str, score: str) -> str:
    return f"{gate}: {score} was not measured; add its metric under evaluation.metrics, or set the gate to null"


_CHECKS = (_perplexity, _exact_match, _reward_accuracy, _gold_gain, _kl, _over_optimization)
