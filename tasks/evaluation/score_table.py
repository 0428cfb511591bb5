"""The scores of evaluation as a table: each with its n, its interval, a baseline and the score of the champion."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.reports import Score

# Where a report states no baseline: differences of models, distances from the reference, and choices of two sides.
DIFFERENCES, DISTANCES, SHARES_OF_TWO = ("_gain",), ("kl", "kl_k1"), ("reward_accuracy", "win_rate")
NO_SHARE_OF_TWO = "ties"
OWN_SETS = "benchmarks."  # the beginning of the names of scores of test sets of the user


@dataclass(frozen=True)
class Row:
    """One score or number. champion, outcome: of the comparison with the champion, where there was one."""

    name: str
    score: Score
    champion: float | None = None
    outcome: str = ""
    is_main: bool = False  # of the last model or of no model, and not of a group of items
    has_interval: bool = True


def is_score(value: Any) -> bool:
    """Whether a JSON value is a score with its interval."""
    return isinstance(value, Mapping) and {"value", "low", "high", "n"} <= set(value)


def flat_numbers(body: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and score in `body` with its dotted name; strings, booleans and notes are left out."""
    for key, value in body.items():
        name = f"{prefix}{key}"
        if is_score(value) or (isinstance(value, int | float) and not isinstance(value, bool)):
            yield name.removeprefix("counts."), value
        elif isinstance(value, Mapping):
            yield from flat_numbers(value, f"{name}.")


def rows(
    body: Mapping[str, Any], models: Sequence[str], reference: str, champion: Mapping[str, tuple[float, str]]
) -> list[Row]:
    """All scores of a report, the main ones first.

    models: the stages in the order of the pipeline; reference: the model that others are compared with where no other
    baseline is known; champion: metric -> (score of the champion, outcome of the comparison).
    """
    numbers = dict(flat_numbers(body))
    measured = [name for name in models if any(name in key.split(".") for key in numbers)]
    result = []
    for name, value in numbers.items():
        of_champion, outcome = champion.get(name, (None, ""))
        if not is_score(value):
            number = Score(float(value), float(value), float(value), 1)
            result.append(Row(name, number, of_champion, outcome, has_interval=False))
            continue
        parts = name.removeprefix(OWN_SETS).split(".")
        score = _with_baseline(name, Score(**value), numbers, measured, reference)
        is_of_group = any("_by_" in part for part in parts)
        is_main = not is_of_group and len(parts) < 4 and not set(parts) & set(measured[:-1])
        result.append(Row(name, score, of_champion, outcome, is_main))
    return sorted(result, key=lambda row: not row.is_main)


def _with_baseline(name: str, score: Score, numbers: Mapping[str, Any], models: Sequence[str], reference: str) -> Score:
    """The score with the baseline that it has already, or one that its name implies, or that of the reference."""
    if score.baseline is not None:
        return score
    metric, *parts = name.split(".")
    if metric.endswith(DIFFERENCES):
        return score.compared_with("no difference", 0.0)
    if metric in DISTANCES:
        return score.compared_with(reference, 0.0)
    if metric.startswith(SHARES_OF_TWO) and NO_SHARE_OF_TWO not in parts:
        return score.compared_with("chance", 0.5)
    own = [part for part in parts if part in models and part != reference]
    if own:
        other = numbers.get(".".join([metric, *(reference if part == own[0] else part for part in parts)]))
        if other is not None and is_score(other):
            return score.compared_with(reference, other["value"])
    return score
