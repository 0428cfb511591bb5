"""Gates: conditions on the scores that a run must meet.

A gate whose metric could not be measured on the data of this run does not apply, which the report states; with
`when_not_measured: fail` it has failed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from tasks.evaluation import score_gates
from tasks.evaluation.score_gates import Bound
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
    scores: dict[str, Bound] = Field(
        default_factory=dict,
        description="Further gates: name of a score (its keys in evaluation.json, joined by dots; `*` is any key) -> "
        "`min`, `max` or `not_worse_than_champion: true`; {exact_match.*: {min: 0.6}}.",
    )
    when_not_measured: Literal["report", "fail"] = Field(
        default="report",
        description="What happens to a gate whose metric cannot be measured on the data, such as exact match where no "
        "prompt has a right answer: the report says that the gate does not apply, or the gate has failed.",
    )


@dataclass(frozen=True)
class Scores:
    """The scores of the report, the name of the reference model in them, and metric -> why it was not measured."""

    by_name: Mapping[str, Any]
    reference: str
    unmeasured: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Finding:
    """A gate that is not met, or one that does not apply because its score was not measured, and a sentence."""

    gate: str
    sentence: str
    applies: bool = True

    def __str__(self) -> str:
        return f"{self.gate}: {self.sentence}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the gates found: one sentence for each that failed, and for each that does not apply."""

    num_checked: int
    failed: list[str]
    not_applicable: list[str]


def check(
    by_name: Mapping[str, Any],
    gates: Gates,
    reference: str = "sft",
    unmeasured: Mapping[str, str] | None = None,
    champion: Mapping[str, Any] | None = None,
    names_by_metric: Mapping[str, Sequence[str]] | None = None,
) -> Outcome:
    """Compare the scores of the evaluation report with the gates.

    unmeasured: the metrics, test sets and models that could not be measured, each with the reason; names_by_metric: the
    names of the scores of each of them; champion: the report of the champion.
    """
    scores = Scores(by_name, reference, unmeasured or {})
    findings = [finding for check in _CHECKS for finding in check(scores, gates)]
    arguments = by_name, gates.scores, champion, scores.unmeasured, names_by_metric or {}
    own = [Finding(*row) for row in score_gates.check(*arguments)]
    findings += own
    fails = [finding for finding in findings if finding.applies or gates.when_not_measured == "fail"]
    others = [finding for finding in findings if finding not in fails]
    built_in = [name for name in Gates.model_fields if name not in ("when_not_measured", "scores")]
    num_active = sum(getattr(gates, name) not in INACTIVE for name in built_in) + len(gates.scores)
    num_others = sum(1 if finding in own else len(finding.gate.split(", ")) for finding in others)
    return Outcome(num_active - num_others, [str(finding) for finding in fails], [str(finding) for finding in others])


# All conditions are negated (`not a >= b` instead of `a < b`), so that NaN, which compares as false, fails a gate.


def _perplexity(scores: Scores, gates: Gates) -> Iterator[Finding]:
    minimum, names = gates.min_unigram_ratio, ("perplexity", "unigram_perplexity", "bigram_perplexity")
    if not all(name in scores.by_name for name in names):
        active = {"min_unigram_ratio": minimum is not None, "below_bigram": gates.below_bigram}
        yield from _not_measured(scores, active, "perplexity")
        return
    value, unigram, bigram = (scores.by_name[name].value for name in names)
    if minimum is not None and not unigram / value >= minimum:
        yield Finding(
            "min_unigram_ratio",
            f"the perplexity {value:.1f} is {unigram / value:.1f} times below that of the unigram model, expected at "
            f"least {minimum:g} times",
        )
    if gates.below_bigram and not value < bigram:
        sentence = f"the perplexity {value:.1f} is not below that of the bigram model, {bigram:.1f}"
        yield Finding("below_bigram", sentence)


def _exact_match(scores: Scores, gates: Gates) -> Iterator[Finding]:
    minimum, max_loss = gates.min_exact_match, gates.max_exact_match_loss
    by_model: Mapping[str, Score] = scores.by_name.get("exact_match", {})
    if not by_model:
        active = {"min_exact_match": minimum is not None, "max_exact_match_loss": max_loss is not None}
        yield from _not_measured(scores, active, "accuracy")
    for name, score in by_model.items():
        if minimum is not None and not score.value >= minimum:
            yield Finding("min_exact_match", f"{name} has {score.value:.3f}, expected at least {minimum:g}")
        reference_value = by_model[scores.reference].value
        if max_loss is not None and not reference_value - score.value <= max_loss:
            yield Finding(
                "max_exact_match_loss",
                f"{name} has {score.value:.3f}, {scores.reference} has {reference_value:.3f}; expected a loss of at "
                f"most {max_loss:g}",
            )


def _reward_accuracy(scores: Scores, gates: Gates) -> Iterator[Finding]:
    minimum, score = gates.min_reward_accuracy, scores.by_name.get("reward_accuracy")
    if score is None:
        yield from _not_measured(scores, {"min_reward_accuracy": minimum is not None}, "reward_accuracy")
    elif minimum is not None and not score.value >= minimum:
        yield Finding(
            "min_reward_accuracy",
            f"the reward model orders {score.value:.3f} of {score.n} test pairs correctly, expected at least "
            f"{minimum:g}",
        )


def _gold_gain(scores: Scores, gates: Gates) -> Iterator[Finding]:
    minimum, by_model = gates.min_gold_gain, scores.by_name.get("gold_gain_standard_errors", {})
    if not by_model:
        yield from _not_measured(scores, {"min_gold_gain": minimum is not None}, "gold")
    for name, gain in by_model.items():
        if minimum is not None and not gain >= minimum:
            value, reference_value = (scores.by_name["gold"][model].value for model in (name, scores.reference))
            yield Finding(
                "min_gold_gain",
                f"the gold reward of {name} is {value:.3f}, that of {scores.reference} is {reference_value:.3f}: a "
                f"gain of {gain:.1f} standard errors, expected at least {minimum:g}",
            )


def _kl(scores: Scores, gates: Gates) -> Iterator[Finding]:
    by_model: dict[str, Score] = {**scores.by_name.get("kl", {})}
    by_model.pop(scores.reference, None)  # it is 0 by definition
    if not by_model:
        yield from _not_measured(scores, {"max_kl": gates.max_kl is not None}, "kl")
    for name, score in by_model.items():
        if gates.max_kl is not None and not score.value <= gates.max_kl:
            yield Finding(
                "max_kl",
                f"the KL divergence of {name} from {scores.reference} is {score.value:.2f} nats per answer, expected "
                f"at most {gates.max_kl:g}",
            )


def _over_optimization(scores: Scores, gates: Gates) -> Iterator[Finding]:
    for name, is_over_optimized in scores.by_name.get("over_optimized", {}).items():
        if is_over_optimized and gates.refuse_over_optimization:
            sentence = f"the reward model's score of {name} rose while its gold reward fell"
            yield Finding("refuse_over_optimization", sentence)


def _not_measured(scores: Scores, active: Mapping[str, bool], metric: str) -> Iterator[Finding]:
    """Yield one finding for those of the gates that are switched on."""
    names = ", ".join(name for name, is_active in active.items() if is_active)
    if names:
        why = scores.unmeasured.get(metric) or f"there is no model to compare with {scores.reference}"
        yield Finding(names, f"{metric} was not measured: {why}", applies=False)


_CHECKS = (_perplexity, _exact_match, _reward_accuracy, _gold_gain, _kl, _over_optimization)
