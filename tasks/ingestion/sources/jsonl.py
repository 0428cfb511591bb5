"""JSON Lines (one object per line) and .json files that are one array: documents, conversations or preferences."""

from collections.abc import Iterator

from tasks.ingestion import objects, records
from tasks.ingestion.decoding import Line, Location, UnusableRecord, join_lines, read_lines
from tasks.ingestion.opening import FileParams, InputFile, find_files
from tasks.tables import Quarantined

SUFFIXES = (".jsonl", ".ndjson", ".json")


class Params(FileParams, records.RowParams, frozen=True, extra="forbid"):
    """Which files to read, and the names of the fields of their objects."""


def read(params: Params) -> Iterator[records.Record]:
    """Yield the records of every file. Raises BadInput if a path is missing."""
    for file in find_files(params.paths, SUFFIXES):
        yield from read_file(file, params)


def read_file(file: InputFile, params: Params) -> Iterator[records.Record]:
    """Yield the records of one file; blank lines are ignored."""
    lines, names = read_lines(file, params), params.names
    for line in lines:
        if not isinstance(line, Line):
            yield line
        elif line.text and not line.text.isspace():
            if line.location.line == 1 and line.text.rstrip() in ("[", "[{"):
                yield from _read_array(line, lines, params)
            else:
                yield from _read_object(line, names, params)


def _read_object(line: Line, names: frozenset[str], params: Params) -> Iterator[records.Record]:
    try:
        row = objects.parse_object(line.text, names)
    except UnusableRecord as error:
        yield line.location.quarantine(error)
    else:
        yield from records.from_row(row, line.location, params)


def _read_array(first: Line, rest: Iterator[Line | Quarantined], params: Params) -> Iterator[records.Record]:
    """Yield the records of an array that spans several lines. All of it may be as long as one line may be."""
    document = join_lines(first, rest, params.max_line_bytes)
    yield from document.unreadable
    try:
        values = objects.parse_array(document.text)
    except UnusableRecord as error:
        yield first.location.quarantine(document.too_long or error)
        return
    for index, value in enumerate(values):
        location = Location(f"{first.location.file}[{index}]")
        if isinstance(value, dict):
            yield from records.from_row(value, location, params)
        else:
            detail = f"The entry is a JSON {type(value).__name__}, not an object."
            yield location.quarantine(UnusableRecord("not_an_object", detail))
