"""Small files of bad Parquet, CSV, text, HTML and WARC: the reason for each bad record; its neighbors are kept."""

import gzip
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.ingestion.sources import csv, html, markdown, parquet, text, warc
from tests.ingestion.world import read


def table(path: Path, values: list[Any], kind: pa.DataType | None = None, **options: Any) -> bytes:
    pq.write_table(pa.table({"text": pa.array(values, kind)}), path, **options)
    return path.read_bytes()


def test_parquet_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    assert read(parquet, path, table(path, ["one", None, "", "a\0b", "two"])) == (
        ["one", "two"],
        ["missing_field", "empty_text", "nul"],
    )
    assert read(parquet, path, table(path, [1, 2])) == ([], ["wrong_type"] * 2)


def test_parquet_with_invalid_utf8_costs_the_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    broken = pa.StringArray.from_buffers(3, pa.py_buffer(struct.pack("<4i", 0, 3, 4, 7)), pa.py_buffer(b"one\xfftwo"))
    pq.write_table(pa.table({"text": broken}), path)
    assert read(parquet, path, path.read_bytes()) == (["one", "two"], ["invalid_utf8"])


def test_parquet_without_the_column(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["one"]}), path)
    assert read(parquet, path, path.read_bytes()) == ([], ["missing_field"])


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\0" * 100 + b"PAR1", b"no parquet at all"])
def test_parquet_that_is_none(content: bytes, tmp_path: Path) -> None:
    _, reasons = read(parquet, tmp_path / "a.parquet", content)
    assert reasons == ["damaged_parquet" if content else "empty_file"]


@pytest.mark.parametrize("share", [0.2, 0.7, 0.999])
def test_truncated_parquet(share: float, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    whole = table(path, [f"row {i}" for i in range(1000)])
    assert read(parquet, path, whole[: int(share * len(whole))]) == ([], ["damaged_parquet"])


def test_a_damaged_row_group_costs_that_group(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [f"row {i}" for i in range(300)]
    content = bytearray(table(path, rows, row_group_size=100, compression="zstd", write_page_checksum=True))
    group = pq.ParquetFile(path).metadata.row_group(1).column(0)
    start = group.dictionary_page_offset or group.data_page_offset
    content[start + group.total_compressed_size - 9] ^= 0xFF
    kept, reasons = read(parquet, path, bytes(content))
    assert (kept, reasons) == (rows[:100] + rows[200:], ["damaged_parquet"])


@pytest.mark.parametrize("index", range(5, 400, 23))
def test_parquet_survives_a_flipped_byte_anywhere(index: int, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    content = bytearray(table(path, [f"row {i}" for i in range(20)], write_page_checksum=True))
    content[index % len(content)] ^= 0x41
    kept, reasons = read(parquet, path, bytes(content))
    assert kept or reasons


def test_parquet_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MIN_BOMB", 1 << 20)
    path = tmp_path / "a.parquet"
    content = table(path, ["x" * (2 << 20)], compression="zstd", use_dictionary=False)
    assert read(parquet, path, content, max_ratio=100) == ([], ["decompression_bomb"])


CSV_CASES = {
    "plain": (b"text,id\none,1\ntwo,2\n", ["one", "two"], []),
    "CRLF": (b"text,id\r\none,1\r\ntwo,2\r\n", ["one", "two"], []),
    "line end within quotes": (b'text,id\n"one\nmore",1\ntwo,2\n', ["one\nmore", "two"], []),
    "quote within quotes": (b'text,id\n"say ""one""",1\ntwo,2\n', ['say "one"', "two"], []),
    "a quote nobody closes": (b'text,id\n"one,1\ntwo,2\nthree,3\n', ["two", "three"], ["unclosed_quote"]),
    "a lone quote within": (b'text,id\n5" pipe,1\ntwo,2\n', ['5" pipe', "two"], []),
    "too many columns": (b"text,id\none,1,1\ntwo,2\n", ["two"], ["wrong_columns"]),
    "too few columns": (b"text,id\none\ntwo,2\n", ["two"], ["wrong_columns"]),
    "empty value": (b"text,id\n,1\ntwo,2\n", ["two"], ["missing_field"]),
    "no such column": (b"body,id\none,1\n", [], ["missing_field"] * 2),  # the header and its row
    "column twice": (b"text,text\none,1\n", [], ["duplicate_key"] * 2),
    "semicolons": (b"text;id\none;1\n", ["one"], []),
    "invalid line": ("text,id\n一,1\n".encode() + b"a\xff,2\ntwo,3\n", ["一", "two"], ["invalid_utf8"]),
}


@pytest.mark.parametrize("case", CSV_CASES)
def test_csv(case: str, tmp_path: Path) -> None:
    content, kept, reasons = CSV_CASES[case]
    assert read(csv, tmp_path / "a.csv", content) == (kept, reasons)


def test_a_bad_line_of_a_text_costs_that_line(tmp_path: Path) -> None:
    content = "一\n".encode() + b"b\xff\nthree\n"
    assert read(text, tmp_path / "a.txt", content) == (["一\nthree\n"], ["invalid_utf8"])
    assert read(text, tmp_path / "a.txt", content, per="line") == (["一", "three"], ["invalid_utf8"])
    assert read(text, tmp_path / "a.txt", b"a" * 200, max_line_bytes=99) == ([], ["too_long"])
    assert read(text, tmp_path / "a.txt", b"a\n" * 100, max_line_bytes=99) == ([], ["too_long"])


def test_markdown_without_words(tmp_path: Path) -> None:
    assert read(markdown, tmp_path / "a.md", b"---\ntitle: x\n---\n") == ([], ["empty_text"])


PAGE = b"<html><body><article><p>" + b"The quick brown fox jumps over the lazy dog, as it does every day. " * 5

PAGES = {
    "nothing": (b"", "empty_file"),
    "no text": (b"<html><body><script>let a = 1</script></body></html>", "no_text"),
    "tags 50,000 deep": (b"<div>" * 50_000, "no_text"),
    "no page at all": (bytes(range(256)) * 20, None),
    "truncated gzip": (gzip.compress(PAGE)[:-9], "truncated_gzip"),
    "too long": (PAGE + b" " * (9 << 20), "too_long"),
}


@pytest.mark.parametrize("case", PAGES)
def test_bad_pages(case: str, tmp_path: Path) -> None:
    content, reason = PAGES[case]
    kept, reasons = read(html, tmp_path / "a.html", content)
    assert reasons == [reason] if reason else len(kept) + len(reasons) == 1


def record(kind: str, content: bytes, length: int | None = None) -> bytes:
    size = len(content) if length is None else length
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://a.org/{size}\r\nContent-Length: {size}"
    return head.encode() + b"\r\n\r\n" + content + b"\r\n\r\n"


ONE, TWO = record("conversion", b"one"), record("conversion", b"two two")
WARCS = {
    "plain": (ONE + TWO, ["one", "two two"], []),
    "crawl information": (record("warcinfo", b"x") + ONE, ["one"], []),
    "rubbish between": (ONE + b"rubbish\r\n" + TWO, ["one", "two two"], ["damaged_warc"]),
    "no length": (
        ONE + b"WARC/1.0\r\nWARC-Type: conversion\r\n\r\nlost\r\n\r\n" + TWO,
        ["one", "two two"],
        ["damaged_warc"],
    ),
    "length beyond the end": (ONE + record("conversion", b"lost", 10**6), ["one"], ["truncated_warc"]),
    "length beyond reason": (ONE + record("conversion", b"lost", 10**15) + TWO, ["one", "two two"], ["too_long"]),
    "cut": ((ONE + TWO)[:-6], ["one"], ["truncated_warc"]),
    "invalid utf-8": (record("conversion", b"a\xff") + TWO, ["two two"], ["invalid_utf8"]),
    "empty text": (record("conversion", b" ") + TWO, ["two two"], ["empty_text"]),
    "not found": (
        record("response", b"HTTP/1.1 404 No\r\nContent-Type: text/html\r\n\r\n" + PAGE) + TWO,
        ["two two"],
        ["http_error"],
    ),
    "an image": (
        record("response", b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\nx") + TWO,
        ["two two"],
        ["not_a_page"],
    ),
    "no record": (b"no archive", [], ["damaged_warc"]),
}


@pytest.mark.parametrize("case", WARCS)
def test_warc(case: str, tmp_path: Path) -> None:
    content, kept, reasons = WARCS[case]
    assert read(warc, tmp_path / "a.warc", content) == (kept, reasons)


def test_a_damaged_member_of_a_warc_costs_its_record(tmp_path: Path) -> None:
    bad = bytearray(gzip.compress(record("conversion", b"lost " * 50)))
    bad[40] ^= 0xFF
    content = gzip.compress(ONE) + bytes(bad) + gzip.compress(TWO)
    kept, reasons = read(warc, tmp_path / "a.warc.gz", content)
    assert (kept, reasons) == (["one", "two two"], ["damaged_gzip"])
