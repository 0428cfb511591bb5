"""Markdown files as documents: the text as it is written. Front matter is removed and becomes metadata."""

import re
from collections.abc import Iterator

from tasks.documents import Document
from tasks.ingestion import records, splits
from tasks.ingestion.decoding import Location, UnusableRecord, clean_text, join_lines, read_lines
from tasks.ingestion.opening import FileParams, InputFile, read_files
from tasks.ingestion.read_counts import ReadCounts
from tasks.tables import Quarantined

KINDS = ("documents",)  # of records that this source yields

SUFFIXES = (".md", ".markdown", ".mdx")
# Front matter is parsed with regular expressions instead of a YAML parser, because aliases in YAML let one kilobyte
# expand to a gigabyte.
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n(?:---|\.\.\.)(?:\n|\Z)", re.DOTALL)
_KEY_VALUE = re.compile(r"^(\w[\w-]*+):([^\n]*)$", re.MULTILINE)
_TITLE = re.compile(r"^# +([^\n]+)", re.MULTILINE)


class Params(FileParams, frozen=True, extra="forbid"):
    """Which files to read."""


def read(params: Params, counts: ReadCounts | None = None) -> Iterator[records.Record]:
    """Yield one document per file. Raises BadInput if a path is missing."""
    for file in read_files(params, SUFFIXES, counts):
        yield from [file] if isinstance(file, Quarantined) else read_file(file, params)


def read_file(file: InputFile, params: Params) -> Iterator[records.Record]:
    """Yield the document of one file, and its lines that cannot be read."""
    document, location = join_lines(None, read_lines(file, params), params.max_line_bytes), Location(file.name)
    file.count_rows(len(document.unreadable))
    yield from document.unreadable
    if document.is_unreadable:
        return
    file.count_rows()
    if document.too_long:
        yield location.quarantine(document.too_long)
        return
    metadata, text = _split_front_matter(document.text)
    if not text.strip():
        yield location.quarantine(UnusableRecord("empty_text", "The file contains nothing but front matter."))
        return
    try:
        group = splits.text_group(text)
        yield Document(file.name, clean_text(text), group, metadata, rows=(file.name,), format="Markdown")
    except UnusableRecord as error:
        yield location.quarantine(error)


def _split_front_matter(text: str) -> tuple[dict[str, str], str]:
    """Return metadata and text. If the front matter has no title, the first heading of level 1 is the title."""
    metadata: dict[str, str] = {}
    if front := _FRONT_MATTER.match(text):
        metadata = {key: value.strip().strip("\"'") for key, value in _KEY_VALUE.findall(front[1]) if value.strip()}
        text = text[front.end() :].lstrip("\n")
    if "title" not in metadata and (title := _TITLE.search(text)):
        metadata["title"] = title[1].strip(" #")
    return metadata, text
