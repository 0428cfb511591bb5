"""Gates on any score of the report: a bound, or "not worse than the champion".

A score is named by its keys in evaluation.json, joined by dots, such as `exact_match.sft` or
`benchmarks.handbook.accuracy.dpo`; `*` stands for any keys, so that `exact_match.*` means every policy. Each metric
lists the names of its scores (SCORES), so that a misspelled gate is refused before any stage runs.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from pydantic import BaseModel, Field, model_validator

from tasks import catalog
from tasks.reports import Score

LOWER_IS_BETTER = (
    "perplexity", "bits_per_byte", "loss", "kl", "kl_k1", "calibration_error", "brier", "wrongly_refused", "toxic",
    "memorized", "repetition",
)  # fmt: skip


class Bound(BaseModel, frozen=True, extra="forbid"):
    """What a score must reach."""

    min: float | None = Field(None, description="Smallest value that passes.")
    max: float | None = Field(None, description="Largest value that passes.")
    not_worse_than_champion: bool = Field(
        False,
        description="Whether the score fails if its whole interval is worse than the value of the champion "
        "(evaluation.champion_report). It does not apply without a champion.",
    )

    @model_validator(mode="after")
    def _says_something(self) -> "Bound":
        if self.min is None and self.max is None and not self.not_worse_than_champion:
            raise ValueError("expected `min`, `max` or `not_worse_than_champion: true`")
        return self


def flatten(scores: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Score]]:
    """Yield the dotted name of each score and number of a report, as Score objects or as read from JSON."""
    for key, value in scores.items():
        name = f"{prefix}{key}"
        if isinstance(value, Score):
            yield name, value
        elif isinstance(value, bool):
            continue
        elif isinstance(value, int | float):
            yield name, Score(float(value), float(value), float(value), 1)
        elif isinstance(value, Mapping):
            if {"value", "low", "high", "n"} <= set(value):
                yield name, Score(value["value"], value["low"], value["high"], value["n"])
            else:
                yield from flatten(value, f"{name}.")


def expand(names: Iterable[str], models: Sequence[str]) -> list[str]:
    """The names of scores with each of `models` in place of MODEL."""
    return [name.replace("MODEL", model) for name in names for model in (models if "MODEL" in name else [""])]


def may_match(pattern: str, names: Iterable[str]) -> bool:
    """Whether `pattern` may match a score of one of `names`, in which `*` stands for keys that depend on the data."""
    wider = re.sub(r"\[[^]]*\]|\?", "*", pattern)  # what fnmatch reads as one character may be any
    return any(_overlap(wider, name) for name in names)


@cache
def _overlap(one: str, other: str) -> bool:
    """Whether a text exists that both match; `*` stands for any characters."""
    if not one or not other:
        return set(one + other) <= {"*"}
    if one[0] == "*":
        return _overlap(one[1:], other) or _overlap(one, other[1:])
    if other[0] == "*":
        return _overlap(other, one)
    return one[0] == other[0] and _overlap(one[1:], other[1:])


def check(
    scores: Mapping[str, Any],
    bounds: Mapping[str, Bound],
    champion: Mapping[str, Any] | None,
    unmeasured: Mapping[str, str],
    names_by_metric: Mapping[str, Sequence[str]],
) -> Iterator[tuple[str, str, bool]]:
    """Yield (gate, sentence, whether it applies) for each gate that is not met or that does not apply.

    unmeasured: metric, test set or model that could not be measured -> why; names_by_metric: the names of the scores of
    each of them. A gate on a score that does not exist fails, because a misspelled gate would never be noticed; it does
    not apply if the score is one of those that could not be measured.
    """
    flat, of_champion = dict(flatten(scores)), dict(flatten(champion or {}))
    for pattern, bound in bounds.items():
        names = [name for name in flat if fnmatchcase(name, pattern)]
        if not names:
            reasons = [
                f"{metric} was not measured: {why}"
                for metric, why in unmeasured.items()
                if may_match(pattern, names_by_metric.get(metric, ()))
            ]
            hint = reasons[0] if reasons else f"no score has this name; {catalog.suggest(pattern, flat)[:300]}"
            yield pattern, hint, not reasons
        for name in names:
            yield from _check_one(name, flat[name], bound, of_champion.get(name))
        if bound.not_worse_than_champion and any(name not in of_champion for name in names):
            yield pattern, "there is no score of a champion to compare with (evaluation.champion_report)", False


def _check_one(name: str, score: Score, bound: Bound, champion: Score | None) -> Iterator[tuple[str, str, bool]]:
    # Conditions are negated, so that NaN, which compares as false, fails a gate.
    if bound.min is not None and not score.value >= bound.min:
        yield name, f"{score.value:g} is below the minimum {bound.min:g}", True
    if bound.max is not None and not score.value <= bound.max:
        yield name, f"{score.value:g} is above the maximum {bound.max:g}", True
    if bound.not_worse_than_champion and champion is not None:
        is_lower_better = any(part in LOWER_IS_BETTER or part.endswith("_perplexity") for part in name.split("."))
        is_not_worse = score.low <= champion.value if is_lower_better else score.high >= champion.value
        if not is_not_worse:
            interval = f"{score.value:g} [{score.low:g}, {score.high:g}]"
            yield name, f"{interval} is worse than the champion, which has {champion.value:g}", True
