"""Votes of the page of `make serve` (data/raw/feedback) as preferences: comparisons, rankings and thumbs.

Votes about the same pair of answers are weighed against each other: by the agreement of their annotators with others,
and less where an annotator prefers the side on which the answer was shown. Every vote that gives no pair is counted
with its reason.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import orjson
from pydantic import Field

from tasks.addresses import Address
from tasks.conversations import Preference
from tasks.ingestion import records, splits
from tasks.ingestion.decoding import UnusableRecord, read_lines
from tasks.ingestion.feedback import annotators, votes
from tasks.ingestion.feedback.annotators import Annotator, AnnotatorParams
from tasks.ingestion.feedback.votes import Row, Vote
from tasks.ingestion.labels import LabeledRow
from tasks.ingestion.opening import FileParams, InputFile, read_files
from tasks.ingestion.preference_formats import LabeledAnswer
from tasks.ingestion.read_counts import ReadCounts
from tasks.reports import Score
from tasks.tables import Quarantined

KINDS = ("preferences",)
SUFFIXES = (".jsonl",)
EXCLUDED = "a vote of an excluded annotator"
OUTVOTED, DRAW = "outvoted by other annotators", "annotators disagree"


class Params(FileParams, frozen=True, extra="forbid"):
    """Which logs to read, and whose votes count."""

    paths: tuple[Address, ...] = Field(
        (Address("data/raw/feedback"),), min_length=1, description="Files, folders or globs of logs."
    )
    annotators: AnnotatorParams = Field(
        default_factory=lambda: AnnotatorParams.model_validate({}), description="Whose votes are not used."
    )
    min_majority: float = Field(
        0.1, ge=0, lt=1, description="Votes about a pair must differ by this share of their weights, or it is not used."
    )


def read(params: Params, counts: ReadCounts | None = None) -> Iterator[records.Record]:
    """Yield the pairs that a majority decides, and the answers with a thumb. Raises BadInput for a missing path."""
    counts = counts or ReadCounts()
    rows = list[Row]()
    for file in read_files(params, SUFFIXES, counts):
        for row in [file] if isinstance(file, Quarantined) else _rows(file, params):
            if isinstance(row, Quarantined):
                yield row
            else:
                rows.append(row)
    rows.sort(key=lambda row: str(row.record.get("time", "")))
    reasons = votes.unused(rows)
    for number, reason in reasons.items():
        counts.skip(rows[number].location.file, reason)
    used = [row for number, row in enumerate(rows) if number not in reasons]
    all_votes = [vote for row in used if row.record["action"] in votes.VOTES for vote in votes.votes_of(row)]
    judged = annotators.judge(all_votes, params.annotators)
    excluded = {name for name, one in judged.items() if one.problem and params.annotators.exclude}
    yield from _pairs(params, used, all_votes, judged, excluded, counts)
    for row in used:
        if row.record["action"] == "thumb":
            if row.annotator in excluded:
                counts.skip(row.location.file, EXCLUDED)
            else:
                yield _labeled(row)
    _report(rows, all_votes, judged, excluded, counts)


def _rows(file: InputFile, params: Params) -> Iterator[Row | Quarantined]:
    for line in read_lines(file, params):
        if isinstance(line, Quarantined):
            file.count_rows(line.num_records)
            yield line
        elif line.text.strip():
            file.count_rows()
            try:
                record = orjson.loads(line.text)
                if not isinstance(record, dict):
                    raise UnusableRecord("not_an_object", "The line is no JSON object.")
                votes.check(record)
                yield Row(line.location, record)
            except orjson.JSONDecodeError:
                detail = "The line is no complete record: the server was killed before the vote was acknowledged."
                yield line.location.quarantine(UnusableRecord("invalid_json", detail))
            except UnusableRecord as error:
                yield line.location.quarantine(error)


def _pairs(
    params: Params, used: list[Row], all_votes: list[Vote], judged: dict[str, Annotator], excluded: set[str],
    counts: ReadCounts,
) -> Iterator[Preference]:  # fmt: skip
    """Yield a pair for each two answers with a majority; every row is in one pair, or is counted as skipped."""
    by_pair: dict[votes.Key, list[Vote]] = defaultdict(list)
    for vote in all_votes:
        if vote.row.annotator not in excluded:
            by_pair[vote.key].append(vote)
    counted: dict[int, str] = {}  # rows (by identity) that already are in a pair, or why they are in none
    for together in by_pair.values():
        weights: dict[str, float] = defaultdict(float)
        total = 0.0
        for vote in together:
            weight = annotators.vote_weight(vote, judged[vote.row.annotator])
            weights[vote.chosen] += weight
            weights[vote.rejected] -= weight
            total += weight
        chosen = max(weights, key=lambda text: weights[text])
        is_decided = weights[chosen] > max(params.min_majority * total, 1e-9)
        winners = [vote for vote in together if vote.chosen == chosen] if is_decided else []
        for vote in together:
            if vote not in winners:
                counted.setdefault(id(vote.row), OUTVOTED if winners else DRAW)
        if winners:
            new = [vote for vote in winners if counted.get(id(vote.row)) != ""]
            for vote in winners:
                counted[id(vote.row)] = ""
            yield _preference(winners, tuple(dict.fromkeys(id(vote.row) for vote in new)), together)
    for row in used:
        if row.record["action"] in votes.VOTES:
            reason = EXCLUDED if row.annotator in excluded else counted.get(id(row), votes.TIE)
            if reason:
                counts.skip(row.location.file, reason)


def _preference(winners: list[Vote], new_rows: tuple[int, ...], together: list[Vote]) -> Preference:
    vote = winners[0]
    files = {id(one.row): one.row.location.file for one in winners}
    record = vote.row.record
    metadata: dict[str, Any] = {
        "models": [vote.row.model(vote.better), vote.row.model(vote.worse)],
        "votes": [len(winners), len(together) - len(winners)],
    }
    if record["action"] == "ranking":
        metadata["list"] = str(record.get("item") or record["id"])
    identifier = f"{record['id']}:{vote.better}:{vote.worse}"
    group = str(record.get("conversation") or splits.prompt_group(vote.row.prompt))
    return Preference(
        identifier, vote.row.prompt, vote.chosen, vote.rejected, group, str(record.get("reason", "")), metadata,
        rows=tuple(files[row] for row in new_rows), format=f"feedback: {record['action']}",
    )  # fmt: skip


def _labeled(row: Row) -> LabeledRow:
    record = row.record
    group = str(record.get("conversation") or splits.prompt_group(row.prompt))
    answer = LabeledAnswer(row.prompt, row.text(0), record["choice"] == "good")
    origin = {"group": group, "reason": str(record.get("reason", "")), "metadata": {"models": [row.model(0)]}}
    return LabeledRow(str(record["id"]), row.location, answer, origin)


def _report(
    rows: list[Row], all_votes: list[Vote], judged: dict[str, Annotator], excluded: set[str], counts: ReadCounts
) -> None:
    """Tables for the report: annotators by pseudonym, agreement, side bias, and models against each other."""
    counts.tables["feedback_annotators"] = [
        {"annotator": one.name, "votes": one.num_votes, "agreement": _value(one.agreement),
         "first_share": _value(one.side), "excluded": one.problem if name in excluded else ""}
        for name, one in judged.items()
    ]  # fmt: skip
    kept = [vote for vote in all_votes if vote.row.annotator not in excluded]
    bias = annotators.side_bias(kept)
    alpha = annotators.agreement_of_all(kept)
    counts.tables["feedback"] = [
        {"actions": len(rows), "votes": len(all_votes), "annotators": len(judged), "excluded_annotators": len(excluded),
         "alpha": None if alpha is None else round(alpha, 4), "first_share": _value(bias),
         "first_low": bias.low if bias else None, "first_high": bias.high if bias else None}
    ]  # fmt: skip
    wins: Counter[tuple[str, str]] = Counter()
    for vote in kept:
        wins[vote.row.model(vote.better), vote.row.model(vote.worse)] += 1
    counts.tables["feedback_models"] = [
        _model_row(one, other, wins) for one, other in sorted({tuple(sorted(pair)) for pair in wins}) if one != other
    ]
    names = [f"{judged[name].name} ({judged[name].problem})" for name in sorted(excluded)]
    if names:
        counts.notes.append(f"feedback: the votes of {', '.join(names)} are not used.")
    if bias and not bias.low <= 0.5 <= bias.high:
        counts.notes.append(
            f"feedback: the answer that is shown first wins {bias.value:.1%} of the comparisons; the order is random, "
            "and votes for a preferred side count less."
        )


def _model_row(one: str, other: str, wins: Counter[tuple[str, str]]) -> dict[str, Any]:
    num_won, num = wins[one, other], wins[one, other] + wins[other, one]
    score = Score.of_share(num_won, num)
    return {
        "model": one, "other": other, "votes": num, "win_rate": _value(score), "low": score.low, "high": score.high,
        "votes_needed": annotators.votes_needed(score.value),
    }  # fmt: skip


def _value(score: Score | None) -> float | None:
    return None if score is None else round(score.value, 4)
