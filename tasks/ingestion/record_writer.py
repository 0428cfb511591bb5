"""The tables that ingestion writes: every record of every source is written to one of them and counted."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from tasks import conversations, documents
from tasks.conversations import Conversation, Preference, UnpairedAnswer
from tasks.documents import Document
from tasks.ingestion.file_report import FileReports
from tasks.ingestion.labels import StoredRecord
from tasks.ingestion.removal import removals
from tasks.tables import QUARANTINE, Quarantined, Writer

TABLES = {
    "documents": (Path("documents"), documents.SCHEMA),
    "conversations": (Path("conversations/raw"), conversations.CONVERSATIONS),
    "preferences": (Path("preferences/raw"), conversations.PREFERENCES),
    "quarantined": (Path("documents/quarantine"), QUARANTINE),
}
RECORD_KINDS = ("documents", "conversations", "preferences")
_KIND_OF_CLASS = {
    Document: "documents",
    Conversation: "conversations",
    Preference: "preferences",
    UnpairedAnswer: "preferences",
}


class RecordWriter:
    """Writes records into the tables under `data`; use as a context manager.

    After an exception the three tables are incomplete (they have no manifest), but the quarantine is complete, so that
    the user can read why records were rejected. Memory: one row group and one batch per table.
    """

    def __init__(self, data: Path, choose_split: Callable[[str], str]) -> None:
        self._choose_split, self._removals = choose_split, removals.read(data)
        self.files = FileReports()
        self.first_quarantined: dict[str, Quarantined] = {}  # by source
        self._tables = {kind: _BatchedTable(data / folder, schema) for kind, (folder, schema) in TABLES.items()}
        self.num_records: Counter[tuple[str, str]] = Counter()  # by (source, kind); a kind is a key of TABLES
        self.num_by_split: Counter[tuple[str, str, str]] = Counter()  # by (source, kind, split)
        self.num_by_change: Counter[tuple[str, str]] = Counter()  # what was dropped or changed, by (source, words)
        self.num_by_reason: Counter[tuple[str, str]] = Counter()  # quarantined records by (source, reason)

    def add(self, source: str, record: StoredRecord) -> None:
        """Write one record to its table. Its id becomes unique among all sources: <source>/<id>."""
        if isinstance(record, Quarantined):
            kind, row = "quarantined", record.row(source)
            self.num_by_reason[source, record.reason] += record.num_records
            self.first_quarantined.setdefault(source, record)
        else:
            kind, split = _KIND_OF_CLASS[type(record)], record.split or self._choose_split(record.group)
            row = record.row(source, split)
            row["id"] = f"{source}/{record.id}"
            if self._removals.contains(row):
                self._add_removed(source, record.rows)
                return
            self.num_by_split[source, kind, split] += 1
            if record.changes:
                self.num_by_change.update({(source, words): count for words, count in record.changes.items()})
        self.files.add(source, record)
        self.num_records[source, kind] += record.num_records if isinstance(record, Quarantined) else 1
        self._tables[kind].add(row, _num_characters(record))

    def _add_removed(self, source: str, files: tuple[str, ...]) -> None:
        """Count the rows of a record that was removed on request as quarantined."""
        for file in files:
            self.add(source, Quarantined(file, removals.REASON, removals.DETAIL))
        if not files:  # a further record of a row that is counted with its first one
            self.num_by_change[source, "further records of rows: removed on request"] += 1

    def __enter__(self) -> "RecordWriter":
        for table in self._tables.values():
            table.writer.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for name, table in self._tables.items():
            table.close(complete=kind is None or name == "quarantined")


class _BatchedTable:
    """Collects rows into batches that are bounded in rows and in characters, however large one row is."""

    BATCH_ROWS, BATCH_CHARACTERS = 4096, 16 << 20

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.writer, self._schema = Writer(folder, schema, shard_bytes=128 << 20), schema
        self._rows: list[dict[str, Any]] = []
        self._num_characters = 0

    def add(self, row: dict[str, Any], num_characters: int) -> None:
        self._rows.append(row)
        self._num_characters += num_characters
        if len(self._rows) >= self.BATCH_ROWS or self._num_characters >= self.BATCH_CHARACTERS:
            self._write_batch()

    def close(self, complete: bool) -> None:
        if complete:
            self._write_batch()
            self.writer.__exit__(None)

    def _write_batch(self) -> None:
        if self._rows:
            self.writer.add_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows, self._num_characters = [], 0


def _num_characters(record: StoredRecord) -> int:
    if isinstance(record, Document):
        return len(record.text)
    if isinstance(record, Conversation):
        return sum(len(message["content"]) for message in record.messages)
    if isinstance(record, Preference):
        return len(record.chosen) + len(record.rejected) + sum(len(message["content"]) for message in record.prompt)
    if isinstance(record, UnpairedAnswer):
        return len(record.answer) + sum(len(message["content"]) for message in record.prompt)
    return 0
