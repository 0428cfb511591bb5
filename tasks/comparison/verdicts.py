"""Compare two runs metric by metric, and state whether the first is better, equivalent, worse or not comparable."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from tasks import catalog
from tasks.comparison import paired
from tasks.comparison.paired import PairedTest
from tasks.comparison.reading import ItemKey, Items, Subject
from tasks.errors import BadInput, BadParams
from tasks.evaluation.score_gates import is_lower_better
from tasks.reports import ALPHA, MAX_OTHER_SHARE, NULL_SHARE, most_common_share

Outcome = Literal["better", "equivalent", "worse", "not comparable"]

# The first one that was measured decides. `MODEL` stands for the model. gold: answers that can be verified; bits per
# byte of the right answers: conversations with any answers; bits per byte of documents: every project with documents.
PRIMARY = ("gold.MODEL", "multiple_choice_bits_per_byte.documents.MODEL", "bits_per_byte")
MIN_QUESTIONS = 20  # different ones, before a model is called a null model
BETWEEN_MODELS = "win_rate"  # a score of a pair of models of one run says nothing about another run


@dataclass(frozen=True, slots=True)
class Settings:
    """margin: differences below it do not matter, as a share (see paired.compare); min_common: the share of the items
    of either run that the other one must have measured as well."""

    margin: float = 0.01
    min_common: float = 0.9
    primary: tuple[str, ...] = PRIMARY


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison on one metric says about the first run, and why in one sentence."""

    outcome: Outcome
    metric: str
    reason: str
    test: PairedTest | None = None
    p_adjusted: float | None = None  # by Holm's correction over all metrics of the comparison

    def as_json(self) -> dict[str, Any]:
        """The verdict as JSON values; a bound that is infinite is null."""
        body = asdict(self)
        if self.test is not None:
            infinite = {key for key, value in body["test"].items() if value in (math.inf, -math.inf)}
            body["test"] |= dict.fromkeys(infinite)
        return body


def compare(a: Subject, *others: Subject, settings: Settings = Settings()) -> list[list[Verdict]]:
    """For each of `others` a verdict for each metric that both have measured; better means that `a` is better.

    Holm's correction is over all metrics of all comparisons.
    """
    verdicts = [
        [of_items(name, first, second, settings, key) for name, key, first, second in common_metrics(a, other)]
        for other in others
    ]
    p_values = [verdict.test.p_value for own in verdicts for verdict in own if verdict.test]
    adjusted = iter(paired.holm(p_values))
    result = [[corrected(verdict, next(adjusted) if verdict.test else None) for verdict in own] for own in verdicts]
    for other, own in zip(others, result, strict=True):
        if (known := same_bytes_or_problem(a, other)) and known[0] == "equivalent":
            own[:] = [replace(verdict, outcome="equivalent", reason=known[1]) for verdict in own]
    return result


def corrected(verdict: Verdict, p_adjusted: float | None) -> Verdict:
    """The verdict with its adjusted p: a difference that does not survive the correction is none."""
    verdict = replace(verdict, p_adjusted=p_adjusted)
    if p_adjusted is None or p_adjusted < ALPHA or verdict.outcome not in ("better", "worse"):
        return verdict
    assert verdict.test
    if verdict.test.p_equivalent < ALPHA:
        return replace(verdict, outcome="equivalent", reason=_equivalent(verdict.test))
    reason = f"after Holm's correction over the metrics, p = {p_adjusted:.3g} is no evidence of a difference"
    return replace(verdict, outcome="not comparable", reason=reason)


def primary(a: Subject, b: Subject, settings: Settings = Settings()) -> Verdict:
    """The verdict on the primary metric alone: the first of `settings.primary` that either subject has measured."""
    for pattern in settings.primary:
        (first, name), (second, _) = _of_pattern(a, pattern), _of_pattern(b, pattern)
        if first is None and second is None:
            continue
        if first is None or second is None:
            absent = a if first is None else b
            reason = f"{absent.label} has not measured {pattern}, which is the primary metric here"
            return Verdict("not comparable", name, reason)
        if problem := same_bytes_or_problem(a, b):
            return Verdict(problem[0], name, problem[1])
        verdict = of_items(name, first, second, settings, name)
        if verdict.outcome == "better" and (problem_of_answers := null_model(a, first, second)):
            return replace(verdict, outcome="not comparable", reason=problem_of_answers)
        return verdict
    reason = f"neither run has measured a primary metric ({', '.join(settings.primary)})"
    return Verdict("not comparable", settings.primary[0] if settings.primary else "", reason)


def same_bytes_or_problem(a: Subject, b: Subject) -> tuple[Outcome, str] | None:
    """A verdict that needs no test: contaminated test data, or the same model twice."""
    for subject in (a, b):
        if problem := contamination(subject):
            return "not comparable", problem
    digests = {subject.digest_of(subject.model or "") for subject in (a, b)}
    if a.model and len(digests) == 1 and "" not in digests:
        return "equivalent", "both are the same model, byte by byte"
    return None


def contamination(subject: Subject) -> str | None:
    """Why the scores of a run may measure memorization, as far as its report says so; None otherwise."""
    problem = subject.measured.get("contamination", "")
    return f"{subject.label}: {problem}" if problem else None


def null_model(a: Subject, first: Items, second: Items) -> str | None:
    """Why the items `first` of `a` are those of a null model, where the items `second` of the other one are not."""
    share, other_share = (most_common_share(str(item.answer) for item in items.values()) for items in (first, second))
    if len({item.prompt for item in first.values()}) < MIN_QUESTIONS or share < NULL_SHARE:
        return None
    if other_share > MAX_OTHER_SHARE:
        return None
    return f"{a.label} gives the same answer to {share:.0%} of the questions, so that its score says nothing about them"


def measured_primary(subject: Subject, patterns: Sequence[str]) -> str | None:
    """The first of the metrics `patterns` that a run has measured; None if there is none."""
    items, name = primary_items(subject, patterns)
    return name if items else None


def primary_items(subject: Subject, patterns: Sequence[str]) -> tuple[Items | None, str]:
    """The items and the name of the first of the metrics `patterns` that a run has measured; None if there is none."""
    for pattern in patterns:
        items, name = _of_pattern(subject, pattern)
        if items:
            return items, name
    return None, ""


def of_items(name: str, a: Items, b: Items, settings: Settings, score_name: str) -> Verdict:
    """The verdict on one metric from the items of both runs."""
    keys = common_keys(a, b)
    share = min(len(keys) / len(a), len(keys) / len(b))
    if share < settings.min_common:
        reason = (
            f"the test sets differ: {len(keys):,} items are in both, of {len(a):,} and {len(b):,} "
            f"({share:.0%}; at least {settings.min_common:.0%} are needed)"
        )
        return Verdict("not comparable", name, reason)
    sign = -1.0 if is_lower_better(score_name) else 1.0
    columns = [[sign * side[key].score for key in keys] for side in (a, b)]
    if not all(math.isfinite(value) for column in columns for value in column):
        return Verdict("not comparable", name, "some items have a score that is not a number")
    test = paired.compare(columns[0], columns[1], [a[key].group for key in keys], settings.margin)
    if sign < 0:
        test = replace(test, mean_a=-test.mean_a, mean_b=-test.mean_b)
    return _decide(name, test)


def common_keys(a: Items, b: Items) -> list[ItemKey]:
    """The items that both runs have measured, in an order that does not depend on the runs."""
    return sorted(a.keys() & b.keys())


def common_metrics(a: Subject, b: Subject) -> list[tuple[str, str, Items, Items]]:
    """(metric, score name, items of a, items of b) of each metric that both have measured.

    Two subjects that name a model each are compared by these models, whole runs model by model.
    """
    result = []
    for (score_name, model), first in sorted(a.items.items()):
        if score_name.split(".")[0] == BETWEEN_MODELS or a.model not in (None, model):
            continue
        partner = b.model if a.model is not None and b.model is not None else model
        second = b.items.get((score_name, partner))
        if second is not None:
            result.append((f"{score_name}.{model}", score_name, first, second))
    return result


def _of_pattern(subject: Subject, pattern: str) -> tuple[Items | None, str]:
    """The items of a metric such as gold.MODEL or bits_per_byte, and its name; None if the run has not measured it."""
    name = pattern.replace("MODEL", subject.model or "MODEL")
    for (score_name, model), items in subject.items.items():
        if name in (score_name, f"{score_name}.{model}"):
            return items, name
    return None, name


def _decide(name: str, test: PairedTest) -> Verdict:
    size = f"{test.difference:+.4g} [{test.low:.4g}, {test.high:.4g}] on {test.n:,} items, p = {test.p_value:.3g}"
    if test.p_value < ALPHA and test.low > 0:
        return Verdict("better", name, f"the difference is {size}", test)
    if test.p_value < ALPHA and test.high < 0:
        return Verdict("worse", name, f"the difference is {size}", test)
    if test.p_equivalent < ALPHA:
        return Verdict("equivalent", name, _equivalent(test), test)
    needed = f"; about {test.items_needed:,} items would decide it" if test.items_needed else ""
    reason = f"the difference {size}, is neither shown to exist nor to be below the margin {test.margin:.3g}{needed}"
    return Verdict("not comparable", name, reason, test)


def _equivalent(test: PairedTest) -> str:
    return (
        f"the difference {test.difference:+.4g} on {test.n:,} items is smaller than the margin {test.margin:.3g} "
        f"(p = {test.p_equivalent:.3g})"
    )


def examples(a: Subject, b: Subject, settings: Settings, count: int) -> dict[str, list[dict[str, Any]]]:
    """The `count` items of the primary metric that `a` wins most clearly, and those that it loses, with answers."""
    for pattern in settings.primary:
        (first, name), (second, _) = _of_pattern(a, pattern), _of_pattern(b, pattern)
        if first and second:
            break
    else:
        return {}
    sign = -1.0 if is_lower_better(name) else 1.0
    gains = sorted((sign * (first[key].score - second[key].score), key) for key in common_keys(first, second))
    keys_by_name = {
        "wins": [key for gain, key in gains[::-1][:count] if gain > 0],
        "losses": [key for gain, key in gains[:count] if gain < 0],
    }
    return {
        name: [
            {
                "prompt": first[key].prompt,
                "a": first[key].answer,
                "b": second[key].answer,
                "score_a": first[key].score,
                "score_b": second[key].score,
            }
            for key in keys
        ]
        for name, keys in keys_by_name.items()
    }


def require_common_metrics(a: Subject, b: Subject) -> None:
    """Raise BadInput if no metric was measured by both."""
    if not common_metrics(a, b):
        names = [sorted({f"{score}.{model}" for score, model in one.items})[:8] for one in (a, b)]
        raise BadInput(
            f"{a.label} and {b.label} have no metric in common: {', '.join(names[0])} and {', '.join(names[1])}"
        )


def require_metric(subjects: Sequence[Subject], pattern: str) -> None:
    """Raise BadParams if none of the subjects has measured the metric that a command line names."""
    if all(_of_pattern(subject, pattern)[0] is None for subject in subjects):
        names = sorted({name for subject in subjects for own in subject.items for name in (own[0], ".".join(own))})
        raise BadParams(f"--metric: no run has measured {pattern!r}; {catalog.suggest(pattern, names)}")
