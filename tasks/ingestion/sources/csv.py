"""CSV and TSV files, whose first line or `column_names` names the columns: documents, conversations or preferences.

Rows are read as RFC 4180 defines them: a quoted value may have any number of lines, up to max_row_bytes. A quote that
is never closed would make the rest of the file one value; then only the first line of the row is quarantined, and
reading continues with the second. Common deviations are recognized where RFC 4180 fails: Spark's \\" within quotes, a
space before a quote, quotes as characters of tab-separated values, and empty values beyond the last column.
"""

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field

from tasks.ingestion import records
from tasks.ingestion.decoding import Line, Location, UnusableRecord, read_lines
from tasks.ingestion.opening import FileParams, InputFile, read_files
from tasks.ingestion.read_counts import ReadCounts
from tasks.tables import Quarantined

SUFFIXES = (".csv", ".tsv")
DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
MAX_ATTEMPTS = 4  # to end a row; a valid row needs one, because its quotes are paired only at its end


class Params(FileParams, records.RowParams, frozen=True, extra="forbid"):
    """Which files to read, and the names of their columns."""

    delimiter: str = Field(
        "",
        max_length=1,
        description="The character between values; if empty, the one of comma, tab, semicolon and bar with which the "
        "header has the columns that are read, or else the most frequent one.",
    )
    column_names: tuple[str, ...] = Field(
        (), description="Names of the columns of a file without a header; if empty, the first line names them."
    )
    max_row_bytes: int = Field(
        8 << 20, gt=0, description="Maximum size in bytes of a row whose quoted values span several lines."
    )


def read(params: Params, counts: ReadCounts | None = None) -> Iterator[records.Record]:
    """Yield the records of every file. Raises BadInput if a path is missing."""
    for file in read_files(params, SUFFIXES, counts):
        yield from [file] if isinstance(file, Quarantined) else read_file(file, params)


def read_file(file: InputFile, params: Params) -> Iterator[records.Record]:
    """Yield the records of one file, whose first line is the header unless params name the columns."""
    reader = _RowReader(read_lines(file, params), params)
    for row in reader.read():
        file.count_rows()
        if isinstance(row, Quarantined):
            yield row
        else:
            file.counts.add_unused_columns(file.name, reader.unused_columns)
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
        self._put_back: deque[Line | Quarantined] = deque()
        self._delimiter = params.delimiter
        self.header: list[str] = []
        self.unused_columns = frozenset[str]()
        csv.field_size_limit(max(params.max_row_bytes, params.max_line_bytes))

    def read(self) -> Iterator[_CsvRow | Quarantined]:
        """Yield every row after the header; every row is quarantined if the header cannot be used."""
        header_error: UnusableRecord | None = None
        while (line := self._next_line()) is not None:
            if isinstance(line, Quarantined):
                yield line
            elif not line.text or line.text.isspace():
                continue
            elif header_error:
                yield line.location.quarantine(header_error)
            elif not self.header:
                try:
                    self._read_header(line)
                except UnusableRecord as error:
                    header_error = error
                    yield line.location.quarantine(error)
                if self.header and self._params.column_names:
                    self._put_back.appendleft(line)  # it is the first row
            else:
                try:
                    yield _CsvRow(line.location, self._read_row(line))
                except UnusableRecord as error:
                    yield line.location.quarantine(error)

    @property
    def _dialect(self) -> str:
        """The dialect in which the file is read, for messages."""
        name = DELIMITERS.get(self._delimiter, f"the character {self._delimiter!r}")
        return f"The file is read as values between {name}, with quotes as in RFC 4180 (param `delimiter`)."

    def _read_header(self, line: Line) -> None:
        """Set the delimiter and the names of the columns. A line such as `sep=;` before the header is Excel's."""
        text = line.text.lstrip()
        if text.lower().startswith("sep=") and len(text.rstrip("\r\n")) == 5:
            self._delimiter = self._delimiter or text[4]
            return
        if not self._delimiter:
            candidates = sorted(DELIMITERS, key=line.text.count, reverse=True)
            fitting = [d for d in candidates if self._fits_header(line.text, d)]
            self._delimiter = (fitting or candidates)[0]
        names = list(self._params.column_names) or self._split_header(line.text, self._delimiter)
        required = self._params.names
        if not self._params.recognizes(names):
            expected, available = ", ".join(sorted(required)), ", ".join(names[:10])
            detail = (
                f"The header has no column {expected}; available: {available}. The first line must name the columns, "
                f"unless `column_names` in params.yaml does; `fields` maps other names. {self._dialect}"
            )
            raise UnusableRecord("missing_field", detail)
        if duplicates := [name for name in names if names.count(name) > 1 and name in required]:
            raise UnusableRecord("duplicate_key", f"The header has {duplicates[0]!r} more than once.", duplicates[0])
        self.header, self.unused_columns = names, self._params.unused_columns(names)

    def _fits_header(self, text: str, delimiter: str) -> bool:
        """Return whether a line that is split at `delimiter` has the columns that are read, or as many as named."""
        values, names = self._split_header(text, delimiter), self._params.column_names
        return len(values) == len(names) if names else self._params.recognizes(values)

    def _split_header(self, text: str, delimiter: str) -> list[str]:
        try:
            values = next(csv.reader([text], delimiter=delimiter, strict=True, skipinitialspace=delimiter != "\t"))
        except (csv.Error, StopIteration):
            values = text.split(delimiter)
        return [name.strip() for name in values]

    def _read_row(self, first: Line) -> list[str]:
        """Return the values of the row that starts with `first`."""
        values, is_unclosed = self._parse(first.text)
        if values is not None:
            return values
        if is_unclosed:
            values = self._read_multiline_row(first)
        if values is None and self._delimiter == "\t":  # many programs write no quotes in tab-separated files
            values = self._fit(first.text.split("\t"))
        if values is not None:
            return values
        if is_unclosed:
            limit = self._params.max_row_bytes
            detail = f"A quote is opened and not closed within {limit} bytes (param `max_row_bytes`). {self._dialect}"
            raise UnusableRecord("unclosed_quote", detail)
        columns = next(csv.reader([first.text], delimiter=self._delimiter))
        detail = f"The row has {len(columns)} columns, the header {len(self.header)}. {self._dialect}"
        raise UnusableRecord("wrong_columns", detail)

    def _read_multiline_row(self, first: Line) -> list[str] | None:
        """Return a row with line ends within quotes. If there is none, all lines but the first are put back.

        A row can only end where the number of quotes is even, so that the row is parsed only there.
        """
        following: list[Line | Quarantined] = []
        texts, size, num_attempts = [first.text], len(first.text), 0
        num_quotes, num_escaped = first.text.count('"'), first.text.count('\\"')
        while size < self._params.max_row_bytes and (line := self._next_line()) is not None:
            following.append(line)
            if isinstance(line, Quarantined):
                break
            texts.append(line.text)
            size += len(line.text) + 1
            if '"' not in line.text:
                continue
            num_quotes += line.text.count('"')
            num_escaped += line.text.count('\\"')
            if num_quotes % 2 and (num_quotes - num_escaped) % 2:
                continue
            values, _ = self._parse("\n".join(texts))
            if values is not None:
                return values
            num_attempts += 1
            if num_attempts == MAX_ATTEMPTS:
                break
        self._put_back.extendleft(reversed(following))
        return None

    def _parse(self, text: str) -> tuple[list[str] | None, bool]:
        """Return the values of one row, None if it is not one; and whether a quote is not closed in it."""
        is_unclosed = False
        variants = [(text, False)]
        if '\\"' in text:
            variants.append((text.replace('\\"', '""'), False))  # as Spark writes quotes
        if f'{self._delimiter} "' in text:
            variants.append((text, True))
        for variant, skips_space in variants:
            try:
                # `strict` reports what follows a closing quote; the end of a value that is not closed has no other sign
                reader = csv.reader([variant], delimiter=self._delimiter, strict=True, skipinitialspace=skips_space)
                values = self._fit(next(reader))
            except csv.Error as error:
                is_unclosed = is_unclosed or "unexpected end" in str(error)
                continue
            if values is not None:
                return values, False
        return None, is_unclosed

    def _fit(self, values: list[str]) -> list[str] | None:
        """Return the values without empty ones beyond the last column; None if their number is not that of columns."""
        num_columns = len(self.header)
        while len(values) > num_columns and not values[-1].strip():
            values = values[:-1]
        return values if len(values) == num_columns else None

    def _next_line(self) -> Line | Quarantined | None:
        return self._put_back.popleft() if self._put_back else next(self._lines, None)
