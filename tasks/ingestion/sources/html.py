"""HTML files as documents: the main text of each page."""

from collections.abc import Iterator

from pydantic import Field

from tasks.documents import Document
from tasks.ingestion import records, splits
from tasks.ingestion.decoding import Location, UnusableRecord
from tasks.ingestion.files.decompression import Damage, read_chunks
from tasks.ingestion.formats import web
from tasks.ingestion.opening import FileParams, InputFile, read_files
from tasks.ingestion.read_counts import ReadCounts
from tasks.tables import Quarantined

KINDS = ("documents",)  # of records that this source yields
SUFFIXES = (".html", ".htm", ".xhtml", ".mhtml", ".mht")


class Params(FileParams, frozen=True, extra="forbid"):
    """Which files to read."""

    max_page_bytes: int = Field(
        8 << 20, gt=0, description="Maximum size of a page in bytes; larger ones are quarantined."
    )


def read(params: Params, counts: ReadCounts | None = None) -> Iterator[records.Record]:
    """Yield one document per file. Raises BadInput if a path is missing."""
    for file in read_files(params, SUFFIXES, counts):
        yield from [file] if isinstance(file, Quarantined) else read_file(file, params)


def read_file(file: InputFile, params: Params) -> Iterator[records.Record]:
    """Yield the document of one file."""
    file.count_rows()
    try:
        yield _read_page(file, params)
    except UnusableRecord as error:
        yield Location(file.name).quarantine(error)


def _read_page(file: InputFile, params: Params) -> Document | Quarantined:
    chunks: list[bytes] = []
    with file.open() as opened:
        for chunk in read_chunks(opened, file.name, params.max_ratio):
            if isinstance(chunk, Damage):
                return Quarantined(file.name, chunk.reason, chunk.detail, None, chunk.offset)
            chunks.append(chunk)
            if sum(map(len, chunks)) > params.max_page_bytes:
                raise UnusableRecord(
                    "too_long", f"The page has more than max_page_bytes = {params.max_page_bytes} bytes."
                )
    content = b"".join(chunks)
    if not content.strip():
        raise UnusableRecord("empty_file", "The file contains nothing but white space.")
    content, charset = web.unpack_saved_page(content)
    encoding = charset if params.encoding == "auto" else params.encoding
    text, metadata = web.extract_text(web.decode_page(content, encoding))
    group = splits.text_group(text)
    return Document(file.name, text, group, metadata, rows=(file.name,), format="main text of a page")
