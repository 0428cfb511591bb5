"""How many rows the reader of a source has read: counted by the reader, before the rows are processed.

A row is what a file consists of: a line of JSON Lines, an object of an array, a row of a table, a page, a text. Each
row ends as records, in quarantine, or skipped for a stated reason. `check` compares the two sides of this account.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from tasks.errors import LostRows
from tasks.tables import Quarantined

GENERATED = ""  # the file of records that no file contains
MAX_COLUMN_SETS, MAX_COLUMNS = 10_000, 10_000  # counted separately, so that memory is bounded for any keys of objects
OTHER_COLUMNS = "(other columns)"

Record = TypeVar("Record")


class ReadCounts:
    """The counts of one source."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()  # by file
        self.skipped: Counter[tuple[str, str]] = Counter()  # rows that are read and not used, by (file, reason)
        self.files: set[str] = set()  # names of the files that were opened, also of those that could not be read
        self.notes: list[str] = []  # sentences for the report
        self.tables: dict[str, list[dict[str, Any]]] = {}  # for the report
        self.other_files: set[str] = set()  # names of files in folders that this source passes over: their endings
        self._column_sets: Counter[tuple[str, frozenset[str]]] = Counter()  # rows by (file, columns not used)
        self._unused_columns: Counter[tuple[str, str]] = Counter()

    def add(self, file: str, num_rows: int = 1) -> None:
        """Count rows of a file. To be called before they are processed."""
        self.rows[file] += num_rows

    def skip(self, file: str, reason: str, num_rows: int = 1) -> None:
        """Count rows, already counted by `add`, that become no record for a reason that is no fault of theirs."""
        self.skipped[file, reason] += num_rows

    def add_unused_columns(self, file: str, names: frozenset[str], num_rows: int = 1) -> None:
        """Note columns that are not read."""
        if names:
            self._column_sets[file, names] += num_rows
            if len(self._column_sets) > MAX_COLUMN_SETS:
                self.unused_columns()

    def unused_columns(self) -> Counter[tuple[str, str]]:
        """Return the number of rows by (file, column). Beyond MAX_COLUMNS columns, the others count as one."""
        for (file, names), n in self._column_sets.items():
            for name in sorted(names):
                self._add_unused_column(file, name, n)
        self._column_sets.clear()
        return self._unused_columns

    def _add_unused_column(self, file: str, name: str, num_rows: int) -> None:
        is_listed = len(self._unused_columns) < MAX_COLUMNS or (file, name) in self._unused_columns
        self._unused_columns[file, name if is_listed else OTHER_COLUMNS] += num_rows

    def of_files(self) -> dict[str, list[Any]]:
        """Return what readers of files count, as a value of JSON that `merge` adds in another process."""
        return {
            "rows": list(self.rows.items()),
            "skipped": [[*key, n] for key, n in self.skipped.items()],
            "files": sorted(self.files),
            "other_files": sorted(self.other_files),
            "unused_columns": [[*key, n] for key, n in self.unused_columns().items()],
        }

    def merge(self, counted: Mapping[str, list[Any]]) -> None:
        """Add what `of_files` has returned, in the order of the files: the first MAX_COLUMNS columns are listed."""
        self.unused_columns()
        for file, n in counted["rows"]:
            self.add(file, n)
        for file, reason, n in counted["skipped"]:
            self.skip(file, reason, n)
        for file, column, n in counted["unused_columns"]:
            self._add_unused_column(file, column, n)
        self.files.update(counted["files"])
        self.other_files.update(counted["other_files"])

    def counted(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield the records of a generator, each of which is a row. Its quarantined records name their own files."""
        for record in records:
            self.add(record.file if isinstance(record, Quarantined) else GENERATED)
            yield record

    def check(self, source: str, used: Mapping[str, int]) -> None:
        """Raise LostRows if a file has another number of rows than `used`, those of its records, and those skipped."""
        skipped: Counter[str] = Counter()
        for (file, _), n in self.skipped.items():
            skipped[file] += n
        for file in {**self.rows, **used}:
            num_read, num_used = self.rows[file], used.get(file, 0) + skipped[file]
            if num_read != num_used:
                place = f"of {file}" if file else "without a file"
                raise LostRows(
                    f"The source {source!r} (ingestion.sources in params.yaml) read {num_read} rows {place}, but "
                    f"{num_used} rows became records, were quarantined or were skipped. The reader of the source is "
                    "wrong: it must call `counts.add` once for each row, and yield what became of it. Report this "
                    "error with the file."
                )
