"""Votes of the page of `make serve` (data/raw/feedback) as preferences: comparisons, rankings and thumbs.

Votes about the same pair of answers, and thumbs about the same answer, are weighed against each other: by the agreement
of their annotators with others, and less where an annotator prefers the side on which the answer was shown. Every vote
that gives no record is counted with its reason.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from tasks.addresses import Address
from tasks.conversations import Preference
from tasks.ingestion import records, splits
from tasks.ingestion.decoding import UnusableRecord
from tasks.ingestion.feedback import annotators, contradictions, vote_report, votes
from tasks.ingestion.feedback.annotators import Annotator, AnnotatorParams
from tasks.ingestion.feedback.votes import PairVote, Row, Vote
from tasks.ingestion.labels import LabeledRow
from tasks.ingestion.opening import FileParams, InputFile, read_files
from tasks.ingestion.preference_formats import LabeledAnswer
from tasks.ingestion.read_counts import ReadCounts
from tasks.tables import Quarantined

KINDS = ("preferences",)
SUFFIXES = (".jsonl",)
EXCLUDED = "a vote of an excluded annotator"
FLAGGED = "probably wrong or poisoned"
CUT_OFF = "A server that is killed leaves such a line of a vote that it has not acknowledged."
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
    annotator_of = annotators.judge(all_votes, params.annotators)
    excluded = {name for name, one in annotator_of.items() if one.problem and params.annotators.exclude}
    flagged = contradictions.flags(all_votes, annotator_of, params.annotators.max_flag_probability)
    left_out = flagged if params.annotators.exclude_flagged else {}
    kept = [
        vote for index, vote in enumerate(all_votes) if vote.row.annotator not in excluded and index not in left_out
    ]
    counted = {id(all_votes[index].row): FLAGGED for index in left_out}
    counted |= {id(row): EXCLUDED for row in used if row.annotator in excluded}
    yield from _decided(params, used, kept, annotator_of, counted, counts)
    ties = [rows[number] for number, reason in reasons.items() if reason == votes.TIE]
    vote_report.add_tables(counts, rows, ties, kept, all_votes, annotator_of, excluded, flagged)


def _rows(file: InputFile, params: Params) -> Iterator[Row | Quarantined]:
    for item in records.read_objects(file, params):
        if isinstance(item, Quarantined):
            yield replace(item, detail=f"{item.detail} {CUT_OFF}") if item.reason == "invalid_json" else item
            continue
        location, record = item
        try:
            votes.check(record)
        except UnusableRecord as error:
            yield location.quarantine(error)
        else:
            yield Row(location, record)


def _decided(
    params: Params, used: Sequence[Row], kept: Sequence[Vote], annotator_of: Mapping[str, Annotator],
    counted: dict[int, str], counts: ReadCounts,
) -> Iterator[Preference | LabeledRow]:  # fmt: skip
    """Yield a pair or a label for each decision with a majority; every row is in one, or is counted as skipped.

    counted: rows (by identity) of votes that are not used, with the reason; those that are used get the reason "".
    """
    by_key: dict[votes.Key, list[Vote]] = defaultdict(list)
    for vote in kept:
        by_key[vote.key].append(vote)
    for together in by_key.values():
        weights: dict[str, float] = defaultdict(float)
        total = 0.0
        for vote in together:
            weight = annotators.vote_weight(vote, annotator_of[vote.row.annotator])
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
            if isinstance(winners[0], PairVote):
                yield _preference(winners[0], winners, tuple(dict.fromkeys(id(vote.row) for vote in new)), together)
            else:
                yield _labeled(winners, together)
    for row in used:
        if row.record["action"] in votes.VOTES:
            reason = counted.get(id(row), votes.TIE)
            if reason:
                counts.skip(row.location.file, reason)


def _preference(vote: PairVote, winners: list[Vote], new_rows: tuple[int, ...], together: list[Vote]) -> Preference:
    files = {id(one.row): one.row.location.file for one in winners}
    record = vote.row.record
    metadata: dict[str, Any] = {
        "models": [vote.row.model(vote.better), vote.row.model(vote.worse)],
        **_origin(winners, together),
    }
    if record["action"] == "ranking":
        metadata["list"] = str(record.get("item") or record["id"])
    identifier = f"{record['id']}:{vote.better}:{vote.worse}"
    group = str(record.get("conversation") or splits.prompt_group(vote.row.prompt))
    return Preference(
        identifier, vote.row.prompt, vote.chosen, vote.rejected, group, str(record.get("reason", "")), metadata,
        rows=tuple(files[row] for row in new_rows), format=f"feedback: {record['action']}",
    )  # fmt: skip


def _labeled(winners: list[Vote], together: list[Vote]) -> LabeledRow:
    row, *others = (vote.row for vote in winners)
    record = row.record
    group = str(record.get("conversation") or splits.prompt_group(row.prompt))
    answer = LabeledAnswer(row.prompt, row.text(0), record["choice"] == "good")
    metadata = {"models": [row.model(0)], **_origin(winners, together)}
    origin = {"group": group, "reason": str(record.get("reason", "")), "metadata": metadata}
    locations = tuple(other.location for other in others)
    return LabeledRow(str(record["id"]), row.location, answer, origin, others=locations)


def _origin(winners: list[Vote], together: list[Vote]) -> dict[str, Any]:
    """How many votes agree and disagree, and the ids of those that agree."""
    return {
        "votes": [len(winners), len(together) - len(winners)],
        "actions": [str(vote.row.record["id"]) for vote in winners],
    }
