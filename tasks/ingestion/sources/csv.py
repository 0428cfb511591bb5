"""CSV and TSV files with a header: documents, conversations or preferences.

A quote that is never closed would make the rest of the file one value. So a row that spans several lines must end
within MAX_ROW_LINES; otherwise only its first line is quarantined, and reading continues with the second.
"""

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field

from tasks.ingestion import records
from tasks.ingestion.decoding import Line, Location, UnusableRecord, read_lines
from tasks.ingestion.opening import FileParams, InputFile, find_files
from tasks.tables import Quarantined

SUFFIXES = (".csv", ".tsv")
DELIMITERS = ",\t;|"
MAX_ROW_LINES = 200


class Params(FileParams, records.RowParams, frozen=True, extra="forbid"):
    """Which files to read, and the names of their columns."""

    delimiter: str = Field(
        "",
        max_length=1,
        description="The character between values; if empty, the one of comma, tab, semicolon and bar that is most "
        "frequent in the header.",
    )


def read(params: Params) -> Iterator[records.Record]:
    """Yield the records of every file. Raises BadInput if a path is missing."""
    for file in find_files(params.paths, SUFFIXES):
        yield from read_file(file, params)


def read_file(file: InputFile, params: Params) -> Iterator[records.Record]:
    """Yield the records of one file, whose first line is the header."""
    reader = _RowReader(read_lines(file, params), params)
    for row in reader.read():
        if isinstance(row, Quarantined):
            yield row
        else:
            values = {name: value for name, value in zip(reader.header, row.values, strict=True) if value}
            yield from records.from_row(values, row.location, params)


@dataclass(frozen=True, slots=True)
class _CsvRow:
    location: Location
    values: list[str]


class _RowReader:
    """Joins lines to rows. Lines that were read in search of a closing quote can be put back."""

    def __init__(self, lines: Iterator[Line | Quarantined], params: Params) -> None:
        self._lines, self._params = lines, params
        self._required_names = params.names
        self._put_back: deque[Line | Quarantined] = deque()
        self._delimiter = params.delimiter
        self.header: list[str] = []
        csv.field_size_limit(params.max_line_bytes)

    def read(self) -> Iterator[_CsvRow | Quarantined]:
        """Yield every row after the header; nothing if the header cannot be used."""
        while (line := self._next_line()) is not None:
            if isinstance(line, Quarantined):
                yield line
            elif line.text and not line.text.isspace():
                try:
                    values = self._read_row(line)
                except UnusableRecord as error:
                    yield line.location.quarantine(error)
                    if not self.header:
                        return
                else:
                    yield from [_CsvRow(line.location, values)] if values else []

    def _read_row(self, line: Line) -> list[str]:
        """Return the values of the row that starts with `line`; an empty list if it is the header."""
        if not self.header:
            self._delimiter = self._delimiter or max(DELIMITERS, key=line.text.count)
            self.header = self._read_header(line)
            return []
        values = self._parse(line.text)
        if values is None:
            values = self._read_multiline_row(line)
        if len(values) != len(self.header):
            raise UnusableRecord("wrong_columns", f"The row has {len(values)} columns, the header {len(self.header)}.")
        return values

    def _read_header(self, line: Line) -> list[str]:
        names = [name.strip() for name in self._parse(line.text) or []]
        if not self._params.recognizes(names):
            expected, available = ", ".join(sorted(self._required_names)), ", ".join(names[:10])
            raise UnusableRecord("missing_field", f"The header has no column {expected}; available: {available}.")
        if duplicates := [name for name in names if names.count(name) > 1 and name in self._required_names]:
            raise UnusableRecord("duplicate_key", f"The header has {duplicates[0]!r} more than once.", duplicates[0])
        return names

    def _read_multiline_row(self, first: Line) -> list[str]:
        """Return a row with line ends within quotes. If there is none, all lines but the first are put back.

        A row can only end where the number of quotes is even, so that the row is parsed only there.
        """
        following: list[Line | Quarantined] = []
        texts = [first.text]
        num_quotes_odd = first.text.count('"') % 2
        while len(following) < MAX_ROW_LINES and (line := self._next_line()) is not None:
            following.append(line)
            if isinstance(line, Quarantined):
                break
            texts.append(line.text)
            num_quotes_odd = (num_quotes_odd + line.text.count('"')) % 2
            values = None if num_quotes_odd else self._parse("\n".join(texts))
            if values is not None and len(values) == len(self.header):
                return values
        self._put_back.extendleft(reversed(following))
        raise UnusableRecord("unclosed_quote", "A quote is opened and not closed where the row could end.")

    def _parse(self, text: str) -> list[str] | None:
        """Return the values of one row, None if a quote is not closed."""
        try:
            return next(csv.reader([text], delimiter=self._delimiter, strict=True))
        except csv.Error:
            return None

    def _next_line(self) -> Line | Quarantined | None:
        return self._put_back.popleft() if self._put_back else next(self._lines, None)
