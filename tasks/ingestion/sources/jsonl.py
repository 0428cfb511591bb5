"""JSON Lines (one object per line) and .json files of any layout: documents, conversations or preferences."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from pydantic import Field

from tasks.ingestion import records
from tasks.ingestion.decoding import Line, Location, UnusableRecord, read_lines
from tasks.ingestion.division import line_ranges
from tasks.ingestion.formats import json_values, objects
from tasks.ingestion.opening import FileParams, InputFile, read_files
from tasks.ingestion.read_counts import ReadCounts
from tasks.tables import Quarantined

SUFFIXES = (".jsonl", ".ndjson", ".json")
_RECORD_MARKS = "\ufeff\x1e"  # a byte order mark where files were joined; the record separator of RFC 7464


class Params(FileParams, records.RowParams, frozen=True, extra="forbid"):
    """Which files to read, and the names of the fields of their objects."""

    records: str = Field(
        "", description="The field that holds the list of records if a file is one object, such as `data`; or empty."
    )


def read(params: Params, counts: ReadCounts | None = None) -> Iterator[records.Record]:
    """Yield the records of every file. Raises BadInput if a path is missing."""
    for file in read_files(params, SUFFIXES, counts):
        yield from [file] if isinstance(file, Quarantined) else read_file(file, params)


def read_file(file: InputFile, params: Params) -> Iterator[records.Record]:
    """Yield the records of one file, whose layout is recognized from its start; blank lines are ignored."""
    layout = json_values.detect_layout(file, params)
    is_empty = True
    is_of_lines = layout in ("lines", "empty")
    values = _of_lines(read_lines(file, params)) if is_of_lines else json_values.split_values(file, params)
    for value in values:
        is_empty = False
        yield from _read_value(value, file, params)
    if is_empty:
        file.count_rows()
        yield Location(file.name).quarantine(UnusableRecord("empty_file", "The array in the file has no records."))


def divide(file: InputFile, params: Params, max_bytes: int) -> list[line_ranges.LineRange]:
    """Return ranges of lines for `read_range`; none if the file is read as a whole."""
    is_of_lines = json_values.detect_layout(file, params) == "lines"
    return line_ranges.find(file, params, max_bytes) if is_of_lines else []


def read_range(file: InputFile, params: Params, part: line_ranges.LineRange) -> Iterator[records.Record]:
    """Yield the records of some lines of one file."""
    for value in _of_lines(line_ranges.read(file, params, part)):
        yield from _read_value(value, file, params)


def _of_lines(lines: Iterable[Line | Quarantined]) -> Iterator[json_values.JsonValue | Quarantined]:
    for line in lines:
        if isinstance(line, Quarantined):
            yield line
        elif text := line.text.strip().lstrip(_RECORD_MARKS):
            # A comma after the object is left where an array was divided into lines.
            yield json_values.JsonValue(line.location, text.removesuffix(",") if text.endswith("},") else text)


def _read_value(
    value: json_values.JsonValue | Quarantined, file: InputFile, params: Params
) -> Iterator[records.Record]:
    if isinstance(value, Quarantined):
        file.count_rows(value.num_records)
        yield value
    else:
        yield from _read_object(value.text, value.location, file, params)


def _read_object(text: str, location: Location, file: InputFile, params: Params) -> Iterator[records.Record]:
    try:
        row = objects.parse_object(text, params.names)
        rows = _inner_rows(row, params.records)
    except UnusableRecord as error:
        file.count_rows()
        yield location.quarantine(error)
        return
    if rows is None:
        file.count_rows()
        file.counts.add_unused_columns(file.name, params.unused_columns(row))
        for record in records.from_row(row, location, params):
            yield _suggest_records(record, row) if isinstance(record, Quarantined) else record
        return
    file.count_rows(len(rows))
    for number, inner in enumerate(rows, 1):
        inner_location = Location(location.file, location.line, location.offset, number)
        if isinstance(inner, dict):
            file.counts.add_unused_columns(file.name, params.unused_columns(inner))
            yield from records.from_row(inner, inner_location, params)
        else:
            detail = f"The record is a JSON {type(inner).__name__}, not an object."
            yield inner_location.quarantine(UnusableRecord("not_an_object", detail))


def _suggest_records(record: Quarantined, row: dict[str, Any]) -> Quarantined:
    """Add to the message about an object that has a list of objects how the items of the list are read."""
    lists = [name for name, value in row.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if record.reason != "missing_field" or not lists:
        return record
    names = " or ".join(f"`records: {name}`" for name in lists[:3])
    return replace(record, detail=f"{record.detail} If the items of a list in it are the records, set {names}.")


def _inner_rows(row: dict[str, Any], name: str) -> list[Any] | None:
    """Return the list of records in an object, None if the object itself is the record."""
    if not name:
        return None
    if not isinstance(row.get(name), list):
        detail = f"The object has no list {name!r} (param `records`); available: {', '.join(list(row)[:10])}."
        raise UnusableRecord("missing_field", detail, name)
    return list(row[name])
