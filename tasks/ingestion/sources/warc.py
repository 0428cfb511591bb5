"""Web archives as documents: the main text of the pages in WARC files, and the texts in WET files."""

import re
from collections import Counter
from collections.abc import Iterator

from pydantic import Field

from tasks.documents import Document
from tasks.ingestion import records, splits
from tasks.ingestion.decoding import UnusableRecord, clean_text
from tasks.ingestion.files.decompression import read_chunks
from tasks.ingestion.formats import http, web
from tasks.ingestion.formats.archives import WarcReader, WarcRecord
from tasks.ingestion.opening import FileParams, InputFile, read_files
from tasks.ingestion.read_counts import ReadCounts
from tasks.tables import Quarantined

KINDS = ("documents",)  # of records that this source yields

SUFFIXES = (".warc", ".wet")
_CRAWL_TYPES = ("warcinfo", "request", "metadata", "revisit", "continuation")
_STATUSES = ("", "200", "203")  # none: a file without HTTP header; 203: a proxy changed the page
_UNKNOWN_TYPES = ("application/octet-stream", "unknown/unknown", "application/unknown", "*/*")
_HTML_TYPES, _TEXT_TYPE = ("text/html", "application/xhtml+xml"), "text/plain"


class Params(FileParams, frozen=True, extra="forbid"):
    """Which files to read. Records about the crawl itself (warcinfo, request, metadata, revisit) are ignored."""

    max_page_bytes: int = Field(
        8 << 20, gt=0, description="Maximum size of a page in bytes; larger ones are quarantined."
    )


def read(params: Params, counts: ReadCounts | None = None) -> Iterator[records.Record]:
    """Yield one document per page. Raises BadInput if a path is missing."""
    for file in read_files(params, SUFFIXES, counts):
        yield from [file] if isinstance(file, Quarantined) else read_file(file, params)


def read_file(file: InputFile, params: Params) -> Iterator[records.Record]:
    """Yield one document per page of one file."""
    num_by_type: Counter[str] = Counter()
    with file.open() as opened:
        reader = WarcReader(file.name, read_chunks(opened, file.name, params.max_ratio), params.max_line_bytes)
        for record in reader.read():
            kind = "" if isinstance(record, Quarantined) else record.fields.get("warc-type", "").lower()
            num_by_type[kind] += 1
            file.count_rows()
            if isinstance(record, Quarantined):
                yield record
            elif read_content := _CONTENT_READERS.get(kind):
                try:
                    yield _to_document(record, *read_content(record, params))
                except UnusableRecord as error:
                    yield record.location.quarantine(error)
            elif kind in _CRAWL_TYPES:
                file.counts.skip(file.name, f"warc_{kind}")
            else:
                expected = ", ".join((*_CONTENT_READERS, *_CRAWL_TYPES))
                detail = f"The WARC-Type is {kind[:60]!r}; expected one of {expected}."
                yield record.location.quarantine(UnusableRecord("unknown_type", detail, "WARC-Type"))
    if not set(num_by_type) - set(_CRAWL_TYPES):
        file.count_rows()
    if not num_by_type:
        yield Quarantined(file.name, "empty_file", "The file has no record.", None, 0)
    elif set(num_by_type) <= set(_CRAWL_TYPES):
        counts = ", ".join(f"{n} {kind}" for kind, n in sorted(num_by_type.items()))
        detail = f"The file has no page, only records about the crawl: {counts}. Add its WARC or WET files."
        yield Quarantined(file.name, "no_page", detail, None, 0)


def _to_document(record: WarcRecord, text: str, metadata: dict[str, str]) -> Document:
    url = record.fields.get("warc-target-uri", "").strip("<>")
    metadata = {"url": url, "date": record.fields.get("warc-date", ""), **metadata}
    changes = {}
    if truncated := record.fields.get("warc-truncated"):
        metadata["truncated"] = truncated
        changes["the crawler stored only a part of the page"] = 1
    if record.stated_length is not None:
        changes["a wrong Content-Length of a WARC record is corrected"] = 1
    identifier = f"{record.location.file}:{record.location.offset}"
    return Document(
        identifier,
        text,
        _site(url) or splits.text_group(text),
        metadata,
        changes=changes,
        rows=(record.location.file,),
        format=f"WARC {record.fields['warc-type'].lower()}",
    )


def _read_page(record: WarcRecord, params: Params) -> tuple[str, dict[str, str]]:
    """Return main text and metadata of an HTTP response, or of a file that was stored without its header."""
    is_truncated = "warc-truncated" in record.fields
    response = http.parse_response(record.content, params.max_page_bytes, is_truncated)
    if response.status not in _STATUSES:
        detail = f"The server responded with status {response.status}; expected {' or '.join(_STATUSES[1:])}."
        raise UnusableRecord("http_error", detail)
    content_type = response.content_type if response.status else _content_type(record.fields.get("content-type", ""))
    if content_type not in (*_HTML_TYPES, _TEXT_TYPE):
        identified = _content_type(record.fields.get("warc-identified-payload-type", ""))
        if identified in (*_HTML_TYPES, _TEXT_TYPE):
            content_type = identified
        elif content_type in ("", *_UNKNOWN_TYPES) and http.is_html(response.body):
            content_type = _HTML_TYPES[0]
        else:
            expected = ", ".join((*_HTML_TYPES, _TEXT_TYPE))
            detail = f"The content type is {content_type[:60]!r}; expected one of {expected}."
            raise UnusableRecord("not_a_page", detail)
    page = web.decode_page(response.body, response.charset)
    if content_type == _TEXT_TYPE:
        return _clean_nonempty(page), {}
    return web.extract_text(page, record.fields.get("warc-target-uri", "").strip("<>"))


def _content_type(field: str) -> str:
    return field.partition(";")[0].strip().lower()


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


def _site(url: str) -> str:
    """Return the host without port and `www.`, which is the group: pages of one site share texts and one split."""
    host = re.sub(r"^[a-z][a-z0-9+.-]{0,20}://", "", url.strip().lower())
    host = re.split(r"[/?#]", host, maxsplit=1)[0].rpartition("@")[2]
    return re.sub(r":\d{0,5}$", "", host).removeprefix("www.")
