"""What became of each file: its format, its rows, the reasons for those not kept, and examples of both."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tasks.conversations import Conversation, UnpairedAnswer
from tasks.documents import Document
from tasks.ingestion.labels import StoredRecord
from tasks.ingestion.read_counts import GENERATED, ReadCounts
from tasks.tables import Quarantined

NUM_EXAMPLES = 3
MAX_FILES_WITH_EXAMPLES = 1000  # of a source, so that memory and reports stay small for folders of many files
EXAMPLE_CHARACTERS = 200


@dataclass
class FileReport:
    """The outcome of the rows of one file."""

    source: str
    file: str
    has_examples: bool
    num_read: int = 0
    num_kept: int = 0  # rows, each of which may be several records
    formats: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)  # of quarantined rows
    skipped: Counter[str] = field(default_factory=Counter)  # reasons of rows that are skipped on purpose
    unused_columns: Counter[str] = field(default_factory=Counter)  # column -> number of rows
    changes: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    quarantined_examples: list[str] = field(default_factory=list)

    @property
    def num_quarantined(self) -> int:
        """Rows in quarantine."""
        return self.reasons.total()

    def body(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        counts = {"read": self.num_read, "kept": self.num_kept, "quarantined": self.num_quarantined}
        return {
            "source": self.source,
            "file": self.file,
            "formats": dict(self.formats.most_common()),
            **counts,
            "skipped": self.skipped.total(),
            "reasons": dict(self.reasons.most_common()),
            "skipped_reasons": dict(self.skipped.most_common()),
            "unused_columns": dict(self.unused_columns.most_common()),
            "changes": dict(self.changes.most_common()),
            "examples": self.examples,
            "quarantined_examples": self.quarantined_examples,
        }


class FileReports:
    """The reports of all files of all sources."""

    def __init__(self) -> None:
        self._files: dict[str, dict[str, FileReport]] = {}
        self._opened_files: set[str] = set()
        self._other_files: set[str] = set()
        self.notes: list[str] = []
        self.tables: dict[str, list[dict[str, Any]]] = {}

    def of_source(self, source: str) -> list[FileReport]:
        """Return the reports of the files of a source, by name."""
        return [report for _, report in sorted(self._files.get(source, {}).items())]

    def all(self) -> list[FileReport]:
        """Return the reports of all files, by source and name."""
        return [report for source in sorted(self._files) for report in self.of_source(source)]

    def not_read(self) -> list[str]:
        """Return the files in the folders of the sources that no source reads, because of their endings."""
        return sorted(self._other_files - self._opened_files)

    def add(self, source: str, record: StoredRecord) -> None:
        """Count a record in the files of its rows."""
        if isinstance(record, Quarantined):
            report = self._report(source, record.file)
            report.reasons[record.reason] += record.num_records
            if report.has_examples and len(report.quarantined_examples) < NUM_EXAMPLES:
                place = "" if record.line is None else f"line {record.line}: "
                report.quarantined_examples.append(f"{place}{record.reason}: {record.detail}")
            return
        for file in record.rows:
            self._report(source, file).num_kept += 1
        if not record.rows:  # a further record of a row; its file is not needed for the account of rows
            return
        report = self._report(source, record.rows[0])
        report.formats[record.format] += 1
        report.changes.update(record.changes)
        if report.has_examples and len(report.examples) < NUM_EXAMPLES:
            report.examples.append(describe(record))

    def finish(self, source: str, counts: ReadCounts) -> None:
        """Add what the reader counted. Raises LostRows if it differs from the rows of the records."""
        for file, n in counts.rows.items():
            self._report(source, file).num_read = n
        for (file, reason), n in counts.skipped.items():
            self._report(source, file).skipped[reason] += n
        for (file, column), n in counts.unused_columns().items():
            self._report(source, file).unused_columns[column] += n
        self.notes += counts.notes
        for table, rows in counts.tables.items():
            self.tables.setdefault(table, []).extend({"source": source, **row} for row in rows)
        self._opened_files |= counts.files
        self._other_files |= counts.other_files
        reports = self._files.get(source, {})
        counts.check(source, {file: report.num_kept + report.num_quarantined for file, report in reports.items()})

    def _report(self, source: str, file: str) -> FileReport:
        files = self._files.setdefault(source, {})
        if file not in files:
            files[file] = FileReport(source, file, len(files) < MAX_FILES_WITH_EXAMPLES)
        return files[file]


def file_name(file: str) -> str:
    """Return the name of a file for people."""
    return "(generated)" if file == GENERATED else file


def describe(record: Document | Conversation | Any) -> str:
    """Return the beginning of a record as one line."""
    if isinstance(record, Document):
        return _shorten(record.text, EXAMPLE_CHARACTERS)
    size = EXAMPLE_CHARACTERS // 2
    if isinstance(record, Conversation):
        return " | ".join(f"{m['role']}: {_shorten(m['content'], size)}" for m in record.messages[:3])
    if isinstance(record, UnpairedAnswer):
        answers = {"good" if record.is_good else "bad": record.answer}
    else:
        answers = {"chosen": record.chosen, "rejected": record.rejected}
    prompt = f"user: {_shorten(record.prompt[-1]['content'], size)}"
    return " | ".join([prompt, *(f"{name}: {_shorten(text, size)}" for name, text in answers.items())])


def _shorten(text: str, size: int) -> str:
    line = " ".join(text[: 4 * size].split())
    return line if len(line) <= size and len(text) <= 4 * size else f"{line[:size]}…"
