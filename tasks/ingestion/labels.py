"""Join labeled answers (KTO) to pairs: a good and a bad answer to the same prompt become one preference.

The table of preferences has pairs. The KTO loss takes the answers of its pairs one by one, so that it learns the same
from a pair as from its two rows. An answer that has no counterpart in its source is quarantined.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tasks.conversations import Conversation, Preference
from tasks.documents import Document
from tasks.ingestion.decoding import Location, UnusableRecord
from tasks.ingestion.format_names import KTO
from tasks.ingestion.preference_formats import LabeledAnswer
from tasks.tables import Quarantined

MAX_WAITING_CHARACTERS = 256 << 20  # of answers without a counterpart; beyond that, the oldest are quarantined


@dataclass(frozen=True, slots=True)
class LabeledRow:
    """A labeled answer with the id, the location and the origin of its row."""

    id: str
    location: Location
    labeled: LabeledAnswer
    origin: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=dict)

    @property
    def key(self) -> tuple[tuple[str, str], ...]:
        """The prompt, by which a counterpart is found."""
        return tuple((message["role"], message["content"]) for message in self.labeled.prompt)

    @property
    def rows(self) -> tuple[str, ...]:
        """The file of its row."""
        return (self.location.file,)

    @property
    def group(self) -> str:
        """The group of its row."""
        return str(self.origin.get("group", self.id))

    @property
    def num_characters(self) -> int:
        """The size of the prompt and the answer."""
        return len(self.labeled.answer) + sum(len(content) for _, content in self.key)


StoredRecord = Document | Conversation | Preference | Quarantined


def pair_labeled_answers(records: Iterable[StoredRecord | LabeledRow]) -> Iterator[StoredRecord]:
    """Yield all records, with the labeled answers joined to pairs in the order in which they become complete.

    Memory: the answers that wait for a counterpart, bounded by MAX_WAITING_CHARACTERS.
    """
    waiting: dict[tuple[tuple[str, str], ...], deque[LabeledRow]] = {}
    num_characters = 0
    for record in records:
        if not isinstance(record, LabeledRow):
            yield record
            continue
        rows = waiting.get(record.key)
        if rows and rows[0].labeled.is_good != record.labeled.is_good:
            if rows[0].labeled.answer == record.labeled.answer:
                yield _quarantine(
                    record, "no_difference", "The same answer to the same prompt is labeled good and bad."
                )
                continue
            counterpart = rows.popleft()
            num_characters -= counterpart.num_characters
            if not rows:
                del waiting[record.key]
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
            yield _without_counterpart(row)
    for rows in waiting.values():
        yield from map(_without_counterpart, rows)


def _join(first: LabeledRow, second: LabeledRow) -> Preference:
    good, bad = (first, second) if first.labeled.is_good else (second, first)
    changes = {"a good and a bad answer to one prompt (KTO rows) are joined to a pair": 1}
    for row in (first, second):
        for words, count in row.changes.items():
            changes[words] = changes.get(words, 0) + count
    answers = (good.labeled.answer, bad.labeled.answer)
    files = (first.location.file, second.location.file)
    return Preference(first.id, first.labeled.prompt, *answers, **first.origin, changes=changes, rows=files, format=KTO)


def _without_counterpart(row: LabeledRow) -> Quarantined:
    label, other = ("good", "bad") if row.labeled.is_good else ("bad", "good")
    detail = (
        f"The answer is labeled {label}, and its source has no {other} answer to the same prompt. "
        "A preference is a pair of answers to one prompt."
    )
    return _quarantine(row, "unpaired_label", detail)


def _quarantine(row: LabeledRow, reason: str, detail: str) -> Quarantined:
    return row.location.quarantine(UnusableRecord(reason, detail, "label"))
