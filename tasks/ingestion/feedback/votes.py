"""The records of the feedback log as votes: who prefers which of two answers, who calls an answer good or bad, and what
is not used, and why.
"""

import abc
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.conversations import Message
from tasks.ingestion.decoding import Location, UnusableRecord

VOTES = ("comparison", "ranking", "thumb")
LABELS = ("good", "bad")
TIES = ("tie", "both_bad")
TAKEN_BACK, DELETED, TIE, SKIPPED, AGAIN = (
    "taken back by the annotator", "deleted on request", "a tie gives no pair", "skipped by the annotator",
    "the same action again",
)  # fmt: skip
ERASURE = "erasure"  # the record that replaces those which were deleted by the operator
CONTROL = "an action about other records"
BLOCKED = "an answer was blocked by the filter of the server"
REPLACED = "replaced by a later vote of the same annotator"

# Messages and two texts of which a vote chooses one: a prompt and its answers, or a prompt with its answer and LABELS.
Key = tuple[tuple[tuple[str, str], ...], frozenset[str]]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the log."""

    location: Location
    record: Mapping[str, Any]

    @property
    def annotator(self) -> str:
        """Who acted."""
        return str(self.record.get("annotator", ""))

    @property
    def prompt(self) -> list[Message]:
        """The messages before the answers."""
        return [{"role": message["role"], "content": message["content"]} for message in self.record["prompt"]]

    def text(self, index: int) -> str:
        """The text of an answer."""
        return str(self.record["answers"][index]["text"])

    def model(self, index: int) -> str:
        """The model that wrote an answer."""
        return str(self.record["answers"][index].get("model", ""))


class Vote(abc.ABC):
    """A decision of an annotator between two texts."""

    row: Row
    was_first: bool | None  # whether the chosen one was shown first; None if that says nothing

    @property
    @abc.abstractmethod
    def chosen(self) -> str:
        """The text that was chosen."""

    @property
    @abc.abstractmethod
    def rejected(self) -> str:
        """The other text."""

    @property
    def messages(self) -> tuple[tuple[str, str], ...]:
        """What the decision is about."""
        return tuple((message["role"], message["content"]) for message in self.row.prompt)

    @property
    def key(self) -> Key:
        """Equal for votes about the same decision."""
        return self.messages, frozenset((self.chosen, self.rejected))


@dataclass(frozen=True)
class PairVote(Vote):
    """An annotator prefers one answer to another.

    better, worse: the indices of the answers in the row. was_first: None in a ranking, whose order the annotator
    changes.
    """

    row: Row
    better: int
    worse: int
    was_first: bool | None

    @property
    def chosen(self) -> str:
        """The text of the better answer."""
        return self.row.text(self.better)

    @property
    def rejected(self) -> str:
        """The text of the worse answer."""
        return self.row.text(self.worse)


@dataclass(frozen=True)
class Thumb(Vote):
    """An annotator calls an answer good or bad."""

    row: Row
    was_first: None = None

    @property
    def messages(self) -> tuple[tuple[str, str], ...]:
        """The prompt with the answer."""
        return (*super().messages, ("assistant", self.row.text(0)))

    @property
    def chosen(self) -> str:
        """The label."""
        return str(self.row.record["choice"])

    @property
    def rejected(self) -> str:
        """The other label."""
        return LABELS[1 - LABELS.index(self.chosen)]


def check(record: Mapping[str, Any]) -> None:
    """Raise UnusableRecord if a record has not the fields that its action needs."""
    action = record.get("action")
    try:
        for name in ("id", "annotator"):
            if not isinstance(record[name], str) or not record[name]:
                raise UnusableRecord("wrong_type", f"{name!r} is no text.", name)
        if action in VOTES:
            roles = [(message["role"], message["content"]) for message in record["prompt"]]
            texts = [answer["text"] for answer in record["answers"]]
            if (
                not all(isinstance(part, str) for part in [*texts, *(part for pair in roles for part in pair)])
                or not roles
            ):
                raise UnusableRecord("wrong_type", "A message or an answer has no text.", "prompt")
        if action == "comparison":
            is_valid = len(record["answers"]) == 2 and record["choice"] in (0, 1, *TIES) and len(record["order"]) == 2
        elif action == "ranking":
            is_valid = len(record["ranks"]) == len(record["answers"]) > 1 and all(
                isinstance(r, int) for r in record["ranks"]
            )
        elif action == "thumb":
            is_valid = len(record["answers"]) == 1 and record["choice"] in LABELS
        elif action == "undo":
            is_valid = isinstance(record["target"], str)
        else:
            is_valid = action in ("skip", "deletion", ERASURE)
    except (KeyError, TypeError) as error:
        raise UnusableRecord("missing_field", f"A record of the feedback log is incomplete: {error}.") from None
    if not is_valid:
        raise UnusableRecord(
            "unknown_action", f"The action {action!r} has values that the page never writes.", "action"
        )


def unused(rows: Iterable[Row]) -> dict[int, str]:
    """The numbers of the rows that are not used, with the reason of each."""
    rows = list(rows)
    targets = {(row.annotator, row.record.get("target")) for row in rows if row.record["action"] == "undo"}
    deleted: dict[str, int] = {}
    for number, row in enumerate(rows):
        if row.record["action"] == "deletion":
            deleted[row.annotator] = number  # what comes after it was said after the request
    reasons: dict[int, str] = {}
    seen_ids: set[str] = set()
    latest: dict[Any, int] = {}
    for number, row in enumerate(rows):
        record, action = row.record, row.record["action"]
        if record["id"] in seen_ids:
            reasons[number] = AGAIN
        elif action in ("undo", "deletion", ERASURE):
            reasons[number] = CONTROL
        elif number < deleted.get(row.annotator, -1):
            reasons[number] = DELETED
        elif (row.annotator, record["id"]) in targets:
            reasons[number] = TAKEN_BACK
        elif action == "skip":
            reasons[number] = SKIPPED
        elif any(answer.get("finish_reason") == "content_filter" for answer in record["answers"]):
            reasons[number] = BLOCKED  # the sentence of the server is no answer of a model
        elif record.get("choice") in TIES or (action == "ranking" and len(set(record["ranks"])) == 1):
            reasons[number] = TIE
        else:
            subject = (
                row.annotator,
                str(row.prompt),
                tuple(sorted(row.text(i) for i in range(len(record["answers"])))),
            )
            if subject in latest:
                reasons[latest[subject]] = REPLACED
            latest[subject] = number
        seen_ids.add(str(record["id"]))
    return reasons


def votes_of(row: Row) -> Iterator[Vote]:
    """The votes of an action; of a comparison or ranking, one for each pair of answers that differ in rank and text."""
    record = row.record
    if record["action"] == "thumb":
        yield Thumb(row)
        return
    if record["action"] == "comparison":
        better = int(record["choice"])
        pairs = [(better, 1 - better, record["order"][0] == better)]
    else:
        ranks = record["ranks"]
        pairs = [(i, j, None) for i in range(len(ranks)) for j in range(len(ranks)) if ranks[i] < ranks[j]]
    for better, worse, was_first in pairs:
        if row.text(better) != row.text(worse):
            yield PairVote(row, better, worse, was_first)


def num_ties(rows: Iterable[Row]) -> int:
    """The number of comparisons without a better answer."""
    return Counter(row.record.get("choice") in TIES for row in rows)[True]
