"""WARC files as crawlers write them: lengths, line ends, encodings and types that deviate from ISO 28500."""

import gzip
import zlib
from pathlib import Path

import pytest
import zstandard

from tasks.documents import Document
from tasks.ingestion.formats.archives import WarcReader, WarcRecord
from tasks.ingestion.records import Record
from tasks.ingestion.sources import warc
from tests.ingestion.world import outcome, read

SENTENCE = "The ferry to the island leaves at noon and returns before the evening. "
PAGE = f"<html><body><article><p>{SENTENCE * 4}</p></article></body></html>".encode()
TEXT = (SENTENCE * 4).strip()


def record(body: bytes, kind: str = "conversion", extra: str = "", length: str = "", end: str = "\r\n") -> bytes:
    head = f"WARC/1.0\nWARC-Type: {kind}\nWARC-Target-URI: http://a.org/\n{extra}Content-Length: "
    head += f"{length or len(body)}\n\n"
    return head.replace("\n", end).encode() + body + (end * 2).encode()


def response(
    body: bytes, header: str = "Content-Type: text/html\r\n", extra: str = "", status: str = "200 OK"
) -> bytes:
    return record(f"HTTP/1.1 {status}\r\n{header}\r\n".encode() + body, "response", extra)


def documents(path: Path, content: bytes) -> list[Record]:
    path.write_bytes(content)
    return list(warc.read(warc.Params(paths=str(path))))


BODIES = {
    "gzip": ("Content-Encoding: gzip", gzip.compress(PAGE)),
    "x-gzip": ("Content-Encoding: x-gzip", gzip.compress(PAGE)),
    "zstd": ("Content-Encoding: zstd", zstandard.compress(PAGE)),
    "deflate as zlib": ("Content-Encoding: deflate", zlib.compress(PAGE)),
    "deflate without header": ("Content-Encoding: deflate", zlib.compress(PAGE)[2:-4]),
    "two encodings": ("Content-Encoding: zstd, gzip", gzip.compress(zstandard.compress(PAGE))),
    "gzip, but plain": ("Content-Encoding: gzip", PAGE),
    "zstd, but plain": ("Content-Encoding: zstd", PAGE),
    "deflate, but plain": ("Content-Encoding: deflate", PAGE),
    "brotli, but plain": ("Content-Encoding: br", PAGE),
    "chunked": (
        "Transfer-Encoding: chunked",
        b"a\r\n%s\r\n%x;a=b\r\n%s\r\n0\r\n\r\n" % (PAGE[:10], len(PAGE) - 10, PAGE[10:]),
    ),
    "chunked, but plain": ("Transfer-Encoding: chunked", PAGE),
}


@pytest.mark.parametrize("case", BODIES)
def test_bodies(case: str, tmp_path: Path) -> None:
    field, body = BODIES[case]
    content = response(body, f"Content-Type: text/html\r\n{field}\r\n")
    assert read(warc, tmp_path / "a.warc", content) == ([TEXT], [])


DAMAGED_BODIES = {
    "gzip": ("Content-Encoding: gzip", gzip.compress(PAGE)[:-20], "damaged_page"),
    "zstd": ("Content-Encoding: zstd", zstandard.compress(PAGE)[:-9], "damaged_page"),
    "deflate": ("Content-Encoding: deflate", zlib.compress(PAGE)[:-20], "damaged_page"),
    "chunk": ("Transfer-Encoding: chunked", b"fff\r\n" + PAGE, "damaged_page"),
    "brotli": ("Content-Encoding: br", b"\x1b\x2c\x00\xf8\x8d\xd4\xd9\xa7", "unsupported_encoding"),
}


@pytest.mark.parametrize("case", DAMAGED_BODIES)
def test_a_damaged_body_is_not_cut_silently(case: str, tmp_path: Path) -> None:
    field, body, reason = DAMAGED_BODIES[case]
    content = response(body, f"Content-Type: text/html\r\n{field}\r\n") + record(b"two")
    assert read(warc, tmp_path / "a.warc", content) == (["two"], [reason])


def test_a_page_that_the_crawler_truncated_is_kept_and_marked(tmp_path: Path) -> None:
    page = gzip.compress(PAGE, 0)
    content = response(page[:-40], "Content-Type: text/html\r\nContent-Encoding: gzip\r\n", "WARC-Truncated: length\n")
    [document] = documents(tmp_path / "a.warc", content)
    assert isinstance(document, Document)
    assert document.text.startswith(SENTENCE.strip())
    assert document.metadata["truncated"] == "length"
    assert document.changes == {"the crawler stored only a part of the page": 1}


TYPES = {
    "none, but HTML": (PAGE, "", "", [TEXT], []),
    "none, and no HTML": (b"GIF89a", "", "", [], ["not_a_page"]),
    "octets, but HTML": (PAGE, "Content-Type: application/octet-stream\r\n", "", [TEXT], []),
    "image, but identified": (
        PAGE,
        "Content-Type: image/x\r\n",
        "WARC-Identified-Payload-Type: text/html\n",
        [TEXT],
        [],
    ),
    "image": (PAGE, "Content-Type: image/png\r\n", "", [], ["not_a_page"]),
    "upper case": (PAGE, "CONTENT-TYPE: TEXT/HTML; CHARSET=UTF-8\r\n", "", [TEXT], []),
}


@pytest.mark.parametrize("case", TYPES)
def test_content_types(case: str, tmp_path: Path) -> None:
    page, header, extra, kept, reasons = TYPES[case]
    assert read(warc, tmp_path / "a.warc", response(page, header, extra)) == (kept, reasons)


@pytest.mark.parametrize(("status", "is_kept"), [("200", 1), ("203 OK", 1), ("206 Part", 0), ("404", 0), ("301 x", 0)])
def test_status(status: str, is_kept: int, tmp_path: Path) -> None:
    kept, reasons = read(warc, tmp_path / "a.warc", response(PAGE, status=status))
    assert (len(kept), reasons) == (is_kept, [] if is_kept else ["http_error"])


LENGTHS = {
    "too long": record(b"one", length="13"),
    "beyond the next record": record(b"one", length="150"),
    "beyond the file": record(b"one", length="99999"),
    "too short": record(b"one and a half", length="3"),
    "with a plus": record(b"one", length="+3"),
}


@pytest.mark.parametrize("case", LENGTHS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_wrong_lengths_cost_nothing(case: str, end: str, tmp_path: Path) -> None:
    content = LENGTHS[case].replace(b"\r\n", end.encode()) + record(b"two", end=end) + record(b"three", end=end)
    kept, reasons = outcome(documents(tmp_path / "a.warc", content))
    assert (kept[0][:3], kept[1:], reasons) == ("one", ["two", "three"], [])
    if case == "too short":
        assert kept[0] == "one and a half"


def test_a_wrong_length_is_counted(tmp_path: Path) -> None:
    first, second = documents(tmp_path / "a.warc", record(b"one", length="13") + record(b"two"))
    assert isinstance(first, Document)
    assert isinstance(second, Document)
    assert first.changes == {"a wrong Content-Length of a WARC record is corrected": 1}
    assert not second.changes


def test_text_that_contains_a_warc_header_is_one_record(tmp_path: Path) -> None:
    inner = record(b"inner").decode().replace("\r\n", "\n").strip()
    assert read(warc, tmp_path / "a.warc", record(inner.encode()) + record(b"two")) == ([inner, "two"], [])


def test_records_without_empty_lines_between_them(tmp_path: Path) -> None:
    content = record(b"one")[:-4] + record(b"two")[:-2] + record(b"three")
    assert read(warc, tmp_path / "a.warc", content) == (["one", "two", "three"], [])


def test_junk_between_records_is_not_added_to_a_text(tmp_path: Path) -> None:
    content = record(b"one") + b"WARX/1.0 damaged\r\n\r\nlost\r\n\r\n" + record(b"two")
    assert read(warc, tmp_path / "a.warc", content) == (["one", "two"], ["damaged_warc"])


def test_pages_of_one_site_are_one_group() -> None:
    urls = ["http://A.org:80/x", "https://www.a.org/y?b#c", "a.org/z", "http://user@a.org", "https://a.org:443"]
    assert {warc._site(url) for url in urls} == {"a.org"}
    assert warc._site("file:///a.html") == ""


HOSTILE = {
    "version lines": b"WARC/1.0\r\n",
    "headers without end": b"WARC/1.0\r\na: b\r\n",
    "long headers": b"WARC/1.0\r\n" + b"a: b\r\n" * 9000,
    "spaces in a field": b"WARC/1.0\r\na:" + b" " * 40_000 + b"b\r\nContent-Length: 1\r\n\r\nx\r\n\r\n",
    "continuation lines": b"WARC/1.0\r\na: b\r\n" + b" c\r\n" * 9000 + b"Content-Length: 1\r\n\r\nx\r\n\r\n",
    "lengths beyond the file": record(b"x", length="60000000"),
    "lengths too short": record(b"x" * 20, length="1"),
    "small records": record(b"x"),
    "junk": b"\r\n\r\nWARC/1.",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_time_is_linear(case: str) -> None:
    """Quadratic time would be 6 * 10^6 squared / 2 steps, which do not end within the time limit of a test."""
    pattern = HOSTILE[case]
    content = pattern * (6_000_000 // len(pattern))
    chunks = (content[start : start + 1_000_000] for start in range(0, len(content), 1_000_000))
    read_records = list(WarcReader("a", chunks, 64 << 20).read())
    num_expected = content.count(b"Content-Length") - (case == "lengths beyond the file")  # the last one is truncated
    assert sum(isinstance(r, WarcRecord) for r in read_records) == max(0, num_expected)
