"""Join labeled answers (KTO) to pairs: a good and a bad answer to the same prompt become one preference.

The KTO loss uses the answers of a pair one by one, so that it learns the same from a pair as from its two rows, and the
other losses and the reward model can use the pair as well. An answer that has no counterpart in its source remains
unpaired. If one answer to a prompt is labeled both good and bad, both rows are quarantined.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tasks.conversations import Conversation, Preference, UnpairedAnswer
from tasks.documents import Document
from tasks.ingestion.decoding import Location, UnusableRecord
from tasks.ingestion.format_names import KTO
from tasks.ingestion.preference_formats import LabeledAnswer
from tasks.tables import Quarantined

MAX_WAITING_CHARACTERS = 256 << 20  # of answers without a counterpart; beyond that, the oldest remain unpaired

MAX_COMPARED = 100  # waiting answers to one prompt that a new one is compared with, so that the time stays linear


@dataclass(frozen=True, slots=True)
class LabeledRow:
    """A labeled answer with the id, the location and the origin of its row.

    others: the locations of further rows that give the same answer the same label.
    """

    id: str
    location: Location
    labeled: LabeledAnswer
    origin: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=dict)
    others: tuple[Location, ...] = ()

    @property
    def key(self) -> tuple[tuple[str, str], ...]:
        """The prompt, by which a counterpart is found."""
        return tuple((message["role"], message["content"]) for message in self.labeled.prompt)

    @property
    def rows(self) -> tuple[str, ...]:
        """The files of its rows."""
        return tuple(location.file for location in (self.location, *self.others))

    @property
    def group(self) -> str:
        """The group of its row."""
        return str(self.origin.get("group", self.id))

    @property
    def num_characters(self) -> int:
        """The size of the prompt and the answer."""
        return len(self.labeled.answer) + sum(len(content) for _, content in self.key)


StoredRecord = Document | Conversation | Preference | UnpairedAnswer | Quarantined


def pair_labeled_answers(records: Iterable[StoredRecord | LabeledRow]) -> Iterator[StoredRecord]:
    """Yield all records, with the labeled answers joined to pairs in the order in which they become complete.

    Answers without a counterpart follow at the end. Memory: the answers that wait for a counterpart, bounded by
    MAX_WAITING_CHARACTERS.
    """
    waiting: dict[tuple[tuple[str, str], ...], deque[LabeledRow]] = {}
    num_characters = 0
    for record in records:
        if not isinstance(record, LabeledRow):
            yield record
            continue
        rows = waiting.get(record.key)
        if rows and rows[0].labeled.is_good != record.labeled.is_good:
            counterpart = _remove_counterpart(rows, record)
            num_characters -= counterpart.num_characters
            if not rows:
                del waiting[record.key]
            if counterpart.labeled.answer == record.labeled.answer:
                yield from (_contradiction(at) for row in (counterpart, record) for at in (row.location, *row.others))
            else:
                yield _join(counterpart, record)
            continue
        waiting.setdefault(record.key, deque()).append(record)
        num_characters += record.num_characters
        while num_characters > MAX_WAITING_CHARACTERS:
            oldest = next(iter(waiting))
            row = waiting[oldest].popleft()
            num_characters -= row.num_characters
            if not waiting[oldest]:
                del waiting[oldest]
            yield _unpaired(row)
    for rows in waiting.values():
        yield from map(_unpaired, rows)


def _remove_counterpart(rows: deque[LabeledRow], record: LabeledRow) -> LabeledRow:
    """Remove and return the waiting row with the same answer, which contradicts the record; else the oldest row."""
    for index in range(min(len(rows), MAX_COMPARED)):
        if rows[index].labeled.answer == record.labeled.answer:
            row = rows[index]
            del rows[index]
            return row
    return rows.popleft()


def _join(first: LabeledRow, second: LabeledRow) -> Preference:
    good, bad = (first, second) if first.labeled.is_good else (second, first)
    changes = {"a good and a bad answer to one prompt (KTO rows) are joined to a pair": 1}
    for row in (first, second):
        for words, count in row.changes.items():
            changes[words] = changes.get(words, 0) + count
    answers = (good.labeled.answer, bad.labeled.answer)
    rows = (*first.rows, *second.rows)
    return Preference(first.id, first.labeled.prompt, *answers, **first.origin, changes=changes, rows=rows, format=KTO)


def _unpaired(row: LabeledRow) -> UnpairedAnswer:
    answer = row.labeled
    return UnpairedAnswer(
        row.id, answer.prompt, answer.answer, answer.is_good, **row.origin, changes=row.changes, rows=row.rows,
        format=KTO,
    )  # fmt: skip


def _contradiction(location: Location) -> Quarantined:
    detail = "The same answer to the same prompt is labeled good in one row and bad in another."
    return location.quarantine(UnusableRecord("contradictory_label", detail, "label"))
