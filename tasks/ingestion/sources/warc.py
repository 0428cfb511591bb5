"""Web archives as documents: the main text of the pages in WARC files, and the texts in WET files."""

import io
from collections import Counter
from collections.abc import Iterator

from pydantic import Field

from tasks.documents import Document
from tasks.ingestion import records
from tasks.ingestion.decoding import UnusableRecord, clean_text
from tasks.ingestion.files.decompression import read_chunks
from tasks.ingestion.formats import web
from tasks.ingestion.formats.archives import WarcReader, WarcRecord
from tasks.ingestion.opening import FileParams, InputFile, read_files
from tasks.tables import Quarantined

SUFFIXES = (".warc", ".wet")
_CRAWL_TYPES = ("warcinfo", "request", "metadata", "revisit", "continuation")
_HTML_TYPES, _TEXT_TYPE = ("text/html", "application/xhtml+xml"), "text/plain"


class Params(FileParams, frozen=True, extra="forbid"):
    """Which files to read. Records about the crawl itself (warcinfo, request, metadata, revisit) are ignored."""

    max_page_bytes: int = Field(
        8 << 20, gt=0, description="Maximum size of a page in bytes; larger ones are quarantined."
    )


def read(params: Params) -> Iterator[records.Record]:
    """Yield one document per page. Raises BadInput if a path is missing."""
    for file in read_files(params, SUFFIXES):
        yield from [file] if isinstance(file, Quarantined) else _read_file(file, params)


def _read_file(file: InputFile, params: Params) -> Iterator[records.Record]:
    num_by_type: Counter[str] = Counter()
    with file.open() as opened:
        reader = WarcReader(file.name, read_chunks(opened, file.name, params.max_ratio), params.max_line_bytes)
        for record in reader.read():
            kind = "" if isinstance(record, Quarantined) else record.fields.get("warc-type", "").lower()
            num_by_type[kind] += 1
            if isinstance(record, Quarantined):
                yield record
            elif read_content := _CONTENT_READERS.get(kind):
                try:
                    yield _to_document(record, *read_content(record, params))
                except UnusableRecord as error:
                    yield record.location.quarantine(error)
            elif kind not in _CRAWL_TYPES:
                expected = ", ".join((*_CONTENT_READERS, *_CRAWL_TYPES))
                detail = f"The WARC-Type is {kind[:60]!r}; expected one of {expected}."
                yield record.location.quarantine(UnusableRecord("unknown_type", detail, "WARC-Type"))
    if not num_by_type:
        yield Quarantined(file.name, "empty_file", "The file has no record.", None, 0)
    elif set(num_by_type) <= set(_CRAWL_TYPES):
        counts = ", ".join(f"{n} {kind}" for kind, n in sorted(num_by_type.items()))
        detail = f"The file has no page, only records about the crawl: {counts}. Add its WARC or WET files."
        yield Quarantined(file.name, "no_page", detail, None, 0)


def _to_document(record: WarcRecord, text: str, metadata: dict[str, str]) -> Document:
    url = record.fields.get("warc-target-uri", "").strip("<>")
    metadata = {"url": url, "date": record.fields.get("warc-date", ""), **metadata}
    warc_id = record.fields.get("warc-record-id", "").strip("<>").removeprefix("urn:uuid:")
    return Document(f"{record.location.file}:{record.location.offset}", text, _host(url) or warc_id, metadata)


def _read_page(record: WarcRecord, params: Params) -> tuple[str, dict[str, str]]:
    """Return main text and metadata of an HTTP response. warcio removes chunked transfer encoding and compression."""
    from warcio.archiveiterator import ArchiveIterator
    from warcio.exceptions import ArchiveLoadFailed

    try:
        response = next(iter(ArchiveIterator(io.BytesIO(record.raw))))
        headers = response.http_headers
        body = response.content_stream().read(params.max_page_bytes + 1)
    except (ArchiveLoadFailed, StopIteration, OSError, ValueError, EOFError) as error:
        raise UnusableRecord("damaged_warc", f"{type(error).__name__}: {str(error)[:200]}") from None
    if len(body) > params.max_page_bytes:
        raise UnusableRecord("too_long", f"The page has more than max_page_bytes = {params.max_page_bytes} bytes.")
    if headers is not None and headers.get_statuscode() != "200":
        raise UnusableRecord("http_error", f"The server responded with status {headers.get_statuscode()[:3]}, not 200.")
    header = (headers.get_header("Content-Type") if headers is not None else record.fields.get("content-type")) or ""
    content_type, _, rest = header.partition(";")
    charset = rest.lower().partition("charset=")[2].split(";")[0].strip(" \"'")
    content_type = content_type.strip().lower()
    if content_type not in (*_HTML_TYPES, _TEXT_TYPE):
        expected = ", ".join((*_HTML_TYPES, _TEXT_TYPE))
        raise UnusableRecord("not_a_page", f"The content type is {content_type[:60]!r}; expected one of {expected}.")
    page = web.decode_page(body, charset)
    if content_type == _TEXT_TYPE:
        return _clean_nonempty(page), {}
    return web.extract_text(page, record.fields.get("warc-target-uri", "").strip("<>"))


def _read_wet_text(record: WarcRecord, params: Params) -> tuple[str, dict[str, str]]:
    """Return the text of a WET record, which is UTF-8 by definition."""
    if len(record.content) > params.max_page_bytes:
        raise UnusableRecord("too_long", f"The text has more than max_page_bytes = {params.max_page_bytes} bytes.")
    try:
        return _clean_nonempty(record.content.decode()), {}
    except UnicodeDecodeError as error:
        raise UnusableRecord("invalid_utf8", f"The record is not valid UTF-8 at byte {error.start}.") from None


def _clean_nonempty(text: str) -> str:
    if not text.strip():
        raise UnusableRecord("empty_text", "The record has no text.")
    return clean_text(text)


_CONTENT_READERS = {"response": _read_page, "resource": _read_page, "conversion": _read_wet_text}
"""WARC-Type -> reader. `response` and `resource` are in WARC files, `conversion` in WET files."""


def _host(url: str) -> str:
    """Return the host, which is the group: pages of one site share texts and must be in the same split."""
    return url.partition("://")[2].split("/")[0].split("?")[0].lower()
