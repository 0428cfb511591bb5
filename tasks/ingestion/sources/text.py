"""Plain text files: a file, paragraph or line is a document; a line with separators a conversation or preference.

PDF, Word and EPUB files are read as documents if the extra `office` is installed; otherwise they are quarantined with
the command that installs it.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from tasks.ingestion import records
from tasks.ingestion.decoding import Line, Location, UnusableRecord, join_lines, read_lines
from tasks.ingestion.division import line_ranges
from tasks.ingestion.files.file_types import START_BYTES
from tasks.ingestion.formats import office
from tasks.ingestion.opening import FileParams, InputFile, read_files
from tasks.ingestion.read_counts import ReadCounts
from tasks.tables import Quarantined

SUFFIXES = (".txt", ".text")
# In a folder, these are read or named as what they are, because a user who gives a folder expects all texts in it.
DOCUMENT_SUFFIXES = (*office.SUFFIXES, ".doc", ".odt", ".rtf", ".mobi")
COLUMNS = {
    "documents": ("text",),
    "conversations": ("prompt", "completion"),
    "preferences": ("prompt", "chosen", "rejected"),
}


class Params(FileParams, records.RowParams, frozen=True, extra="forbid"):
    """Which files to read, and what a record is in them."""

    per: Literal["file", "paragraph", "line"] = Field(
        "file", description="What becomes one document. Conversations and preferences are always one line each."
    )
    separator: str = Field(
        "\t",
        min_length=1,
        description="The text between prompt and completion, or between prompt, chosen and rejected.",
    )


def read(params: Params, counts: ReadCounts | None = None) -> Iterator[records.Record]:
    """Yield the records of every file. Raises BadInput if a path is missing."""
    for file in read_files(params, suffixes(params), counts):
        yield from [file] if isinstance(file, Quarantined) else read_file(file, params)


def suffixes(params: Params) -> tuple[str, ...]:
    """Return the endings of the files that are read in a folder."""
    return (*SUFFIXES, *(DOCUMENT_SUFFIXES if params.kind == "documents" else ()))


def read_file(file: InputFile, params: Params) -> Iterator[records.Record]:
    """Yield the records of one file. A line that cannot be read is quarantined and left out of its document."""
    if params.kind == "documents" and (office_kind := _detect_office(file)):
        yield from _read_office(file, office_kind, params)
        return
    lines = _count_unreadable(read_lines(file, params), file)
    if _is_per_line(params):
        yield from _read_each(lines, file, params)
    elif params.per == "file":
        yield from _read_whole_file(lines, file, params)
    else:
        yield from _read_paragraphs(lines, file, params)


def divide(file: InputFile, params: Params, max_bytes: int) -> list[line_ranges.LineRange]:
    """Return ranges of lines for `read_range`; none if the file is read as a whole."""
    is_office = params.kind == "documents" and _detect_office(file)
    return line_ranges.find(file, params, max_bytes) if _is_per_line(params) and not is_office else []


def read_range(file: InputFile, params: Params, part: line_ranges.LineRange) -> Iterator[records.Record]:
    """Yield the records of some lines of one file."""
    return _read_each(_count_unreadable(line_ranges.read(file, params, part), file), file, params)


def _is_per_line(params: Params) -> bool:
    return params.kind != "documents" or params.per == "line"


def _read_each(lines: Iterator[Line | Quarantined], file: InputFile, params: Params) -> Iterator[records.Record]:
    for line in lines:
        yield from _read_line(line, file, params) if isinstance(line, Line) else (line,)


def _count_unreadable(lines: Iterator[Line | Quarantined], file: InputFile) -> Iterator[Line | Quarantined]:
    for line in lines:
        if isinstance(line, Quarantined):
            file.count_rows(line.num_records)
        yield line


def _detect_office(file: InputFile) -> str:
    with file.open() as opened:
        return office.detect_kind(opened.read(START_BYTES), file.name)


def _read_office(file: InputFile, kind: str, params: Params) -> Iterator[records.Record]:
    """Yield the document of a PDF, Word or EPUB file, or its paragraphs or lines."""
    location = Location(file.name)
    try:
        with file.open() as opened:
            content = opened.read(params.max_line_bytes + 1)
        if len(content) > params.max_line_bytes:
            raise UnusableRecord("too_long", f"The file has more than max_line_bytes = {params.max_line_bytes} bytes.")
        text = office.extract_text(content, kind, params.max_ratio)
    except UnusableRecord as error:
        file.count_rows()
        yield location.quarantine(error)
        return
    lines = (Line(Location(file.name, number), line) for number, line in enumerate(text.split("\n"), 1))
    if params.per == "file":
        yield from _read_whole_file(lines, file, params)
    elif params.per == "paragraph":
        yield from _read_paragraphs(lines, file, params)
    else:
        for line in lines:
            yield from _read_line(line, file, params)


def _read_line(line: Line, file: InputFile, params: Params) -> Iterator[records.Record]:
    if not line.text or line.text.isspace():
        return
    file.count_rows()
    names = COLUMNS[params.kind]
    parts = [line.text] if params.kind == "documents" else line.text.split(params.separator)
    if len(parts) < len(names):
        detail = f"The line has {len(parts)} parts between separators; expected {', '.join(names)}."
        yield line.location.quarantine(UnusableRecord("missing_field", detail, names[len(parts)]))
        return
    row = {getattr(params.fields, name): part for name, part in zip(names, parts, strict=False)}
    yield from records.from_row(row, line.location, params)


def _read_whole_file(lines: Iterator[Line | Quarantined], file: InputFile, params: Params) -> Iterator[records.Record]:
    document = join_lines(None, lines, params.max_line_bytes)
    location = Location(file.name)
    yield from document.unreadable
    if document.is_unreadable:
        return
    if document.too_long or document.text.strip():
        file.count_rows()
    if document.too_long:
        yield location.quarantine(document.too_long)
    elif document.text.strip():
        yield from records.from_row({params.fields.text: document.text}, location, params)


def _read_paragraphs(lines: Iterator[Line | Quarantined], file: InputFile, params: Params) -> Iterator[records.Record]:
    """Yield one record per paragraph. A paragraph ends at a blank line, or before it exceeds max_line_bytes."""
    paragraph: list[Line] = []
    size = 0
    for line in lines:
        if isinstance(line, Quarantined):
            yield line
        elif line.text.strip() and size + len(line.text) < params.max_line_bytes:
            paragraph.append(line)
            size += len(line.text) + 1
        else:
            yield from _read_paragraph(paragraph, file, params)
            paragraph = [line] if line.text.strip() else []
            size = len(line.text)
    yield from _read_paragraph(paragraph, file, params)


def _read_paragraph(paragraph: list[Line], file: InputFile, params: Params) -> Iterator[records.Record]:
    if paragraph:
        file.count_rows()
        row = {params.fields.text: "\n".join(line.text for line in paragraph)}
        yield from records.from_row(row, paragraph[0].location, params)
