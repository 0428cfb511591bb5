"""What a run must reach to count as good. A gate that cannot be judged, because its number is missing, has failed."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, Field

from tasks.evaluation.evidence import REFERENCE
from tasks.reports import Score

Scores = Mapping[str, Any]
OFF = (None, False)


class Gates(BaseModel, frozen=True, extra="forbid"):
    """Each gate is off where it is null."""

    min_unigram_ratio: float | None = Field(default=None, gt=0, description="unigram_perplexity / perplexity")
    below_bigram: bool = Field(default=False, description="perplexity below the Kneser-Ney bigram's")
    min_exact_match: float | None = Field(default=None, ge=0, le=1, description="Of every policy")
    max_exact_match_loss: float | None = Field(default=None, ge=0, le=1, description="Of ppo and dpo against sft")
    min_reward_accuracy: float | None = Field(default=None, ge=0, le=1)
    min_gold_gain: float | None = Field(default=None, description="Over sft, in standard errors of the difference")
    max_kl: float | None = Field(default=None, gt=0, description="Of ppo and dpo to sft, nats per answer")
    refuse_over_optimization: bool = True


def num_asked(gates: Gates) -> int:
    """How many gates are on."""
    return sum(value not in OFF for value in gates.model_dump().values())


def failures(scores: Scores, gates: Gates) -> list[str]:
    """One sentence with the numbers for each gate that failed."""
    return [sentence for check in _CHECKS for sentence in check(scores, gates)]


def _perplexity(scores: Scores, gates: Gates) -> Iterator[str]:
    if gates.min_unigram_ratio is None and not gates.below_bigram:
        return
    try:
        ours, unigram, bigram = (scores[f"{name}perplexity"].value for name in ("", "unigram_", "bigram_"))
    except KeyError:
        yield _missing("min_unigram_ratio, below_bigram", "perplexity")
        return
    least = gates.min_unigram_ratio
    if least is not None and unigram / ours < least:
        yield f"min_unigram_ratio: perplexity {ours:.1f} is {unigram / ours:.1f} times below unigram's, not {least:g}"
    if gates.below_bigram and ours >= bigram:
        yield f"below_bigram: perplexity {ours:.1f} is not below the bigram's {bigram:.1f}"


def _exact_match(scores: Scores, gates: Gates) -> Iterator[str]:
    least, loss = gates.min_exact_match, gates.max_exact_match_loss
    found: Mapping[str, Score] = scores.get("exact_match", {})
    if not found and (least is not None or loss is not None):
        yield _missing("min_exact_match, max_exact_match_loss", "exact_match")
    for name, score in found.items():
        if least is not None and score.value < least:
            yield f"min_exact_match: {name} has {score.value:.3f}, not {least:g}"
        if loss is not None and found[REFERENCE].value - score.value > loss:
            before = found[REFERENCE].value
            yield f"max_exact_match_loss: {name} has {score.value:.3f} against {before:.3f} of {REFERENCE}"


def _reward_accuracy(scores: Scores, gates: Gates) -> Iterator[str]:
    least, found = gates.min_reward_accuracy, scores.get("reward_accuracy")
    if least is None:
        return
    if found is None:
        yield _missing("min_reward_accuracy", "reward_accuracy")
    elif found.value < least:
        yield f"min_reward_accuracy: {found.value:.3f} of {found.n} held-out pairs are right, not {least:g}"


def _gold_gain(scores: Scores, gates: Gates) -> Iterator[str]:
    least, found = gates.min_gold_gain, scores.get("gold_gain_standard_errors", {})
    if least is not None and not found:
        yield _missing("min_gold_gain", "gold")
    for name, gain in found.items() if least is not None else ():
        if gain < least:
            values = {model: scores["gold"][model].value for model in (REFERENCE, name)}
            told = f"{values[name]:.3f} against {values[REFERENCE]:.3f} of {REFERENCE}"
            yield f"min_gold_gain: the gold reward of {name} is {told}: {gain:.1f} standard errors, not {least:g}"


def _kl(scores: Scores, gates: Gates) -> Iterator[str]:
    found: Mapping[str, Score] = scores.get("kl", {})
    if gates.max_kl is not None and not found:
        yield _missing("max_kl", "kl")
    for name, score in found.items():
        if gates.max_kl is not None and score.value > gates.max_kl:
            yield f"max_kl: {name} is {score.value:.2f} nats per answer from {REFERENCE}, more than {gates.max_kl:g}"


def _over_optimization(scores: Scores, gates: Gates) -> Iterator[str]:
    for name, verdict in scores.get("over_optimized", {}).items():
        if verdict and gates.refuse_over_optimization:
            yield f"refuse_over_optimization: the score of {name} rose while its gold reward fell"


def _missing(gate: str, number: str) -> str:
    return f"{gate}: {number} was not measured; name its metric under evaluation.metrics or set the gate to null"


_CHECKS = (_perplexity, _exact_match, _reward_accuracy, _gold_gain, _kl, _over_optimization)
