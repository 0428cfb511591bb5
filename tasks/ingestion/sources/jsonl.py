"""JSON Lines (one object per line) and .json files of any layout: documents, conversations or preferences."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pydantic import Field

from tasks.ingestion import records
from tasks.ingestion.decoding import Line, Location, UnusableRecord, read_lines
from tasks.ingestion.formats import json_values, objects
from tasks.ingestion.opening import FileParams, InputFile, read_files
from tasks.tables import Quarantined

SUFFIXES = (".jsonl", ".ndjson", ".json")
_RECORD_MARKS = "\ufeff\x1e"  # a byte order mark where files were joined; the record separator of RFC 7464


class Params(FileParams, records.RowParams, frozen=True, extra="forbid"):
    """Which files to read, and the names of the fields of their objects."""

    records: str = Field(
        "", description="The field that holds the list of records if a file is one object, such as `data`; or empty."
    )


def read(params: Params) -> Iterator[records.Record]:
    """Yield the records of every file. Raises BadInput if a path is missing."""
    for file in read_files(params, SUFFIXES):
        yield from [file] if isinstance(file, Quarantined) else read_file(file, params)


def read_file(file: InputFile, params: Params) -> Iterator[records.Record]:
    """Yield the records of one file, whose layout is recognized from its start; blank lines are ignored."""
    layout = json_values.detect_layout(file, params)
    if layout in ("lines", "empty"):
        for line in read_lines(file, params):
            yield from _read_line(line, params)
        return
    is_empty = True
    for value in json_values.split_values(file, params):
        is_empty = False
        yield from _read_object(value.text, value.location, params) if not isinstance(value, Quarantined) else [value]
    if is_empty:
        yield Location(file.name).quarantine(UnusableRecord("empty_file", "The array in the file has no records."))


def _read_line(line: Line | Quarantined, params: Params) -> Iterator[records.Record]:
    if isinstance(line, Quarantined):
        yield line
        return
    text = line.text.strip().lstrip(_RECORD_MARKS)
    if text:
        # A comma after the object is left where an array was divided into lines.
        yield from _read_object(text.removesuffix(",") if text.endswith("},") else text, line.location, params)


def _read_object(text: str, location: Location, params: Params) -> Iterator[records.Record]:
    try:
        row = objects.parse_object(text, params.names)
        rows = _inner_rows(row, params.records)
    except UnusableRecord as error:
        yield location.quarantine(error)
        return
    if rows is None:
        for record in records.from_row(row, location, params):
            yield _suggest_records(record, row) if isinstance(record, Quarantined) else record
        return
    for number, inner in enumerate(rows, 1):
        inner_location = Location(f"{location.file}:{location.line}", number)
        if isinstance(inner, dict):
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
