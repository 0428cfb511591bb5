"""Read ranked lists of answers, and choose the pairs (chosen, rejected) that they give.

Only a rank or score that a row states is used. A null, a NaN and a text such as "N/A" are not ranks, so that their
answers are left out; two keys that contradict each other cost the row.
"""

import bisect
import hashlib
import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.ingestion.decoding import UnusableRecord, clean_text
from tasks.ingestion.fields import Changes, is_absent, require_text, wrong_type
from tasks.ingestion.turns import trim

AnswerPairs = list[tuple[str, str]]
"""(chosen, rejected)"""

TEXT_KEYS = ("text", "content", "value", "answer", "response", "completion", "output")
SCORE_KEYS = ("score", "rating", "overall_score", "reward", "label")  # a higher one is better
RANK_KEY = "rank"  # a lower one is better
LIST_KEYS = ("scores", "ratings", "rewards", "ranks", "rank")  # lists beside a list of texts
_NO_SCORE = ("", "n/a", "na", "nan", "none", "null")


@dataclass(frozen=True, slots=True)
class RankedAnswer:
    """An answer and its scores by key; the higher one is better, so that ranks are negative."""

    text: str
    scores: Mapping[str, float]


def parse_score(value: Any, name: str) -> float | None:
    """Return a score as a number, None if the value stands for no score. Raises UnusableRecord for other values."""
    if isinstance(value, str):
        text = value.strip().lower()
        try:
            value = None if text in _NO_SCORE else float({"true": "1", "false": "0"}.get(text, text))
        except ValueError:
            raise UnusableRecord("wrong_type", f"{name!r} has the score {value[:20]!r}, not a number.", name) from None
    if value is None:
        return None
    if not isinstance(value, int | float):
        raise wrong_type(name, value, "a number")
    try:
        number = float(value)
    except OverflowError:
        raise UnusableRecord("wrong_type", f"{name!r} has an integer that is too large for a score.", name) from None
    return None if math.isnan(number) else number


def read_ranked_list(value: Any, name: str, is_best_first: bool, changes: Changes) -> list[RankedAnswer]:
    """Return the answers of a list of texts (the best first), or of objects with a text and a rank or score.

    `is_best_first` says whether the order of texts is known to be a ranking. Raises UnusableRecord.
    """
    if not isinstance(value, list):
        raise wrong_type(name, value, "a list of answers")
    if all(isinstance(entry, str) for entry in value):
        if not is_best_first:
            detail = f"{name!r} is a list of texts without ranks or scores, so that the better ones are unknown."
            raise UnusableRecord("unranked", detail, name)
        return [RankedAnswer(_clean(text, name), {"order": -index}) for index, text in enumerate(value)]
    answers: list[RankedAnswer] = []
    for entry in value:
        if not isinstance(entry, Mapping):
            raise wrong_type(name, entry, "an answer with a text and a rank or score")
        answers.append(RankedAnswer(_clean(_first_text(entry, name), name), _scores(entry, name)))
    return _leave_out_unranked(answers, name, changes)


def with_score_list(texts: Any, scores: Any, name: str, score_name: str, changes: Changes) -> list[RankedAnswer]:
    """Return the answers of a list of texts beside a list of their scores. Raises UnusableRecord."""
    if not isinstance(texts, list) or not isinstance(scores, list) or len(texts) != len(scores):
        detail = f"{name!r} and {score_name!r} are not lists of equal length."
        raise UnusableRecord("wrong_type", detail, score_name)
    sign = -1 if score_name.lower().startswith("rank") else 1
    numbers = [parse_score(score, score_name) for score in scores]
    answers = [
        RankedAnswer(_clean(text, name), {} if number is None else {score_name: sign * number})
        for text, number in zip(texts, numbers, strict=True)
    ]
    return _leave_out_unranked(answers, name, changes)


def choose_pairs(answers: Sequence[RankedAnswer], name: str, max_pairs: int, changes: Changes) -> AnswerPairs:
    """Return pairs in which one answer is better than the other: all of them, or `max_pairs` of them.

    Which pairs are chosen depends only on the answers. Time: n log n for n answers. Raises UnusableRecord if the keys
    contradict each other, or if no answer is better than another one.
    """
    keys = _common_keys(answers)
    if len(answers) < 2:
        raise UnusableRecord("no_difference", f"{name!r} has fewer than two answers.", name)
    if not keys:
        detail = f"{name!r} has no two answers with a rank or score under the same key."
        raise UnusableRecord("unranked", detail, name)
    ordered = sorted(
        (answer for answer in answers if keys[0] in answer.scores), key=lambda answer: -answer.scores[keys[0]]
    )
    for key in keys[1:]:
        _check_agreement(ordered, keys[0], key, name)
    # Answer i is worse than the first num_better[i] answers, so that the pairs can be numbered without listing them.
    num_better: list[int] = []
    for index, answer in enumerate(ordered):
        is_tied = index > 0 and answer.scores[keys[0]] == ordered[index - 1].scores[keys[0]]
        num_better.append(num_better[-1] if is_tied else index)
    ends = list(itertools.accumulate(num_better))
    total = ends[-1]
    numbers: Sequence[int] = range(total)
    if total > max_pairs:
        content = "\0".join(answer.text for answer in ordered)
        seed = int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big")
        numbers = sorted(random.Random(seed).sample(numbers, max_pairs))
        changes["a pair of a ranked list is left out (max_pairs_per_list)"] += total - max_pairs
    pairs: AnswerPairs = []
    for number in numbers:
        worse = bisect.bisect_right(ends, number)
        better = number - (ends[worse] - num_better[worse])
        pairs.append((ordered[better].text, ordered[worse].text))
    different = [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1]]
    changes["a pair of equal answers is left out"] += len(pairs) - len(different)
    if not different:
        raise UnusableRecord("no_difference", f"{name!r} has no two answers of which one is better.", name)
    return different


def _clean(text: Any, name: str) -> str:
    return trim(clean_text(require_text(text, name), name))


def _first_text(entry: Mapping[str, Any], name: str) -> Any:
    for key in TEXT_KEYS:
        if entry.get(key) is not None:
            return entry[key]
    keys = ", ".join(map(str, entry)) or "none"
    raise UnusableRecord("missing_field", f"An answer of {name!r} has no text; its keys are: {keys}.", name)


def _scores(entry: Mapping[str, Any], name: str) -> dict[str, float]:
    """Return the scores of an answer by key, the higher the better."""
    scores: dict[str, float] = {}
    for key in (*SCORE_KEYS, RANK_KEY):
        if is_absent(entry.get(key)):
            continue
        if key == RANK_KEY and isinstance(entry[key], bool):
            raise wrong_type(f"{name}.{key}", entry[key], "a number")
        number = parse_score(entry[key], f"{name}.{key}")
        if number is not None:
            scores[key] = -number if key == RANK_KEY else number
    return scores


def _leave_out_unranked(answers: list[RankedAnswer], name: str, changes: Changes) -> list[RankedAnswer]:
    ranked = [answer for answer in answers if answer.scores]
    changes["an answer without rank or score is left out of its list"] += len(answers) - len(ranked)
    if len(ranked) < 2:
        detail = f"{len(ranked)} of the {len(answers)} answers in {name!r} have a rank or score, and two are needed."
        expected = ", ".join((*SCORE_KEYS, RANK_KEY))
        raise UnusableRecord("unranked", f"{detail} The recognized keys are {expected}.", name)
    return ranked


def _common_keys(answers: Sequence[RankedAnswer]) -> list[str]:
    """Return the keys under which at least two answers have a score, those of the most answers first."""
    counts: Changes = Changes()
    for answer in answers:
        counts.update(answer.scores.keys())
    return [key for key, count in counts.most_common() if count > 1]


def _check_agreement(ordered: Sequence[RankedAnswer], key: str, other: str, name: str) -> None:
    """Raise UnusableRecord if two answers are ordered one way by `key` and the other way by `other`."""
    lowest_better = math.inf  # of `other`, among answers that are strictly better by `key`
    lowest_tied, previous = math.inf, math.inf
    for answer in ordered:
        if other not in answer.scores:
            continue
        if answer.scores[key] != previous:
            lowest_better, lowest_tied = min(lowest_better, lowest_tied), math.inf
            previous = answer.scores[key]
        if answer.scores[other] > lowest_better:
            detail = f"In {name!r}, {key!r} and {other!r} disagree about which answer is better."
            raise UnusableRecord("contradictory_scores", detail, name)
        lowest_tied = min(lowest_tied, answer.scores[other])
