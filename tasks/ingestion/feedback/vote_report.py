"""The tables of the source `feedback`: annotators by pseudonym, agreement, flagged votes, and models by win rate."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tasks.ingestion.feedback import annotators, win_rates
from tasks.ingestion.feedback.annotators import Annotator
from tasks.ingestion.feedback.contradictions import Flag
from tasks.ingestion.feedback.votes import LABELS, PairVote, Row, Thumb, Vote
from tasks.ingestion.feedback.win_rates import Comparison
from tasks.ingestion.read_counts import ReadCounts
from tasks.reports import Score


def add_tables(
    counts: ReadCounts, rows: Sequence[Row], ties: Sequence[Row], kept: Sequence[Vote], all_votes: Sequence[Vote],
    annotator_of: Mapping[str, Annotator], excluded: Collection[str], flagged: Mapping[int, Flag],
) -> None:  # fmt: skip
    """Add the tables and the notes about them. ties: rows without a better answer; kept: the votes that are used."""
    num_flags = Counter(all_votes[index].row.annotator for index in flagged)
    thumbs = Counter((vote.row.annotator, vote.chosen) for vote in all_votes if isinstance(vote, Thumb))
    counts.tables["feedback_annotators"] = [
        {"annotator": one.name, "votes": one.num_votes, "agreement": _value(one.agreement),
         "first_share": _value(one.side), **{label: thumbs[name, label] for label in LABELS},
         "flagged_votes": num_flags[name],
         "excluded": one.problem if name in excluded else ""}
        for name, one in annotator_of.items()
    ]  # fmt: skip
    included = [vote for vote in all_votes if vote.row.annotator not in excluded]
    bias, alpha = annotators.side_bias(included), annotators.agreement_of_all(included)
    counts.tables["feedback"] = [
        {"actions": len(rows), "votes": len(all_votes), "thumbs": thumbs.total(), "annotators": len(annotator_of),
         "excluded_annotators": len(excluded), "flagged_votes": len(flagged),
         "alpha": None if alpha is None else round(alpha, 4), "first_share": _value(bias),
         "first_low": bias.low if bias else None, "first_high": bias.high if bias else None}
    ]  # fmt: skip
    counts.tables["feedback_flagged"] = [
        {"vote": str(all_votes[index].row.record["id"]), "annotator": annotator_of[all_votes[index].row.annotator].name,
         "reason": flag.reason, "probability": round(flag.probability, 4)}
        for index, flag in sorted(flagged.items())
    ]  # fmt: skip
    pairs = [vote for vote in kept if isinstance(vote, PairVote)]
    _add_models(counts, [row for row in ties if row.annotator not in excluded], pairs)
    _add_notes(counts, annotator_of, excluded, flagged, bias)


def _add_models(counts: ReadCounts, ties: Sequence[Row], kept: Sequence[PairVote]) -> None:
    wins: Counter[tuple[str, str]] = Counter()
    for vote in kept:
        wins[vote.row.model(vote.better), vote.row.model(vote.worse)] += 1
    counts.tables["feedback_models"] = [
        _model_row(one, other, wins) for one, other in sorted({tuple(sorted(pair)) for pair in wins}) if one != other
    ]
    strengths = win_rates.fit(
        [*map(_comparison, kept), *map(_tie, (row for row in ties if len(row.record["answers"]) == 2))]
    )
    if strengths is None:
        return
    counts.tables["feedback_strengths"] = strengths.rows()
    value, low, high = strengths.side_effect()
    counts.tables["feedback_side_effect"] = [
        {"log_odds": round(value, 4), "low": round(low, 4), "high": round(high, 4)}
    ]


def _comparison(vote: PairVote) -> Comparison:
    row = vote.row
    return Comparison(row.model(vote.better), row.model(vote.worse), 1.0, vote.was_first, str(row.prompt))


def _tie(row: Row) -> Comparison:
    first = row.record["order"][0] == 0 if row.record["action"] == "comparison" else None
    return Comparison(row.model(0), row.model(1), 0.5, first, str(row.prompt))


def _add_notes(
    counts: ReadCounts, annotator_of: Mapping[str, Annotator], excluded: Collection[str], flagged: Mapping[int, Flag],
    bias: Score | None,
) -> None:  # fmt: skip
    names = [f"{annotator_of[name].name} ({annotator_of[name].problem})" for name in sorted(excluded)]
    if names:
        counts.notes.append(f"feedback: the votes of {', '.join(names)} are not used.")
    if flagged:
        counts.notes.append(
            f"feedback: {len(flagged)} votes are probably wrong or poisoned; the table feedback_flagged lists them."
        )
    if bias and not bias.low <= 0.5 <= bias.high:
        counts.notes.append(
            f"feedback: the answer that is shown first wins {bias.value:.1%} of the comparisons; the order is random, "
            "and votes for a preferred side count less."
        )


def _model_row(one: str, other: str, wins: Counter[tuple[str, str]]) -> dict[str, Any]:
    num_won, num = wins[one, other], wins[one, other] + wins[other, one]
    score = Score.of_share(num_won, num)
    needed = annotators.votes_needed(score.value)
    return {
        "model": one, "other": other, "votes": num, "win_rate": _value(score), "low": score.low, "high": score.high,
        "votes_needed": needed, "votes_missing": None if needed is None else max(needed - num, 0),
    }  # fmt: skip


def _value(score: Score | None) -> float | None:
    return None if score is None else round(score.value, 4)
