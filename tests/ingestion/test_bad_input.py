"""Small files of bad input: the reason for each bad record, and its neighbors, which are kept.

Every case is one file with good rows around the bad ones. Nothing may crash, hang, or lose a neighbor.
"""

import bz2
import gzip
import json
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tasks.ingestion.files import decompression
from tasks.ingestion.sources import csv, jsonl, markdown, text
from tasks.tables import Quarantined
from tests.ingestion.world import read

GOOD = [b'{"text": "one"}', b'{"text": "two"}']
ZH = '{"text": "今天的天气很好，我们去公园里走一走"}'


def around(bad: bytes) -> bytes:
    """Return the bad line between two good ones."""
    return b"\n".join([GOOD[0], bad, GOOD[1]]) + b"\n"


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    return ('{"text": ' + opening * depth + closing * depth + "}").encode()


BAD_LINES = {
    "invalid utf-8 byte": (b'{"text": "a\xff b"}', "invalid_utf8"),
    "utf-8 cut in a character": ('{"text": "天'.encode()[:-1] + b'"}', "invalid_utf8"),
    "overlong utf-8": (b'{"text": "\xc0\xaf"}', "invalid_utf8"),
    "utf-8 beyond unicode": (b'{"text": "\xf5\x80\x80\x80"}', "invalid_utf8"),
    "surrogate as utf-8": (b'{"text": "\xed\xa0\x80"}', "lone_surrogate"),
    "high surrogate escape": (b'{"text": "\\ud800"}', "lone_surrogate"),
    "low surrogate escape": (b'{"text": "\\udc00 x"}', "lone_surrogate"),
    "high surrogate, then text": (b'{"text": "\\ud83dx"}', "lone_surrogate"),
    "NUL byte": (b'{"text": "a\x00b"}', "nul"),
    "NUL escape": (b'{"text": "a\\u0000b"}', "nul"),
    "raw control character": (b'{"text": "a\x01b"}', "invalid_json"),
    "no json": (b"hello", "invalid_json"),
    "cut json": (b'{"text": "a', "invalid_json"),
    "single quotes": (b"{'text': 'a'}", "invalid_json"),
    "trailing comma": (b'{"text": "a",}', "invalid_json"),
    "two objects": (b'{"text": "a"}{"text": "b"}', "invalid_json"),
    "array": (b'["text", "a"]', "not_an_object"),
    "string": (b'"text"', "not_an_object"),
    "number": (b"12", "not_an_object"),
    "null": (b"null", "not_an_object"),
    "array 100,000 deep": (nested(100_000), "too_deep"),
    "object 100,000 deep": (nested(100_000, '{"a":', "}").replace(b":}", b":1}", 1), "too_deep"),
    "brackets never closed": (b'{"text": ' + b"[" * 100_000, "too_deep"),
    "quote never closed before brackets": (b'{"text": "' + b"[" * 100_000, "invalid_json"),
    "missing field": (b'{"body": "a"}', "missing_field"),
    "empty object": (b"{}", "missing_field"),
    "null field": (b'{"text": null}', "missing_field"),
    "number for text": (b'{"text": 5}', "wrong_type"),
    "list for text": (b'{"text": ["a"]}', "wrong_type"),
    "object for text": (b'{"text": {"a": "b"}}', "wrong_type"),
    "truth for text": (b'{"text": true}', "wrong_type"),
    "empty text": (b'{"text": ""}', "empty_text"),
    "blank text": (b'{"text": " \\n\\t"}', "empty_text"),
    "duplicate key": (b'{"text": "a", "text": "b"}', "duplicate_key"),
    "duplicate key, one null": (b'{"text": null, "id": 3, "text": "b"}', "duplicate_key"),
    "line too long": (b'{"text": "' + b"a" * 3000 + b'"}', "too_long"),
    "latin-1 among utf-8": ('{"text": "été où"}'.encode("latin-1"), "invalid_utf8"),
    "gb18030 among utf-8": ('{"text": "中文"}'.encode("gb18030"), "invalid_utf8"),
    "utf-16 among utf-8": ('{"text": "a"}'.encode("utf-16-le"), "nul"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_costs_that_line(case: str, tmp_path: Path) -> None:
    bad, reason = BAD_LINES[case]
    content = ZH.encode() + b"\n" + around(bad)
    limit = 2000 if reason == "too_long" else 1 << 20
    kept, reasons = read(jsonl, tmp_path / "a.jsonl", content, max_line_bytes=limit)
    assert kept == [json.loads(ZH)["text"], "one", "two"]
    assert set(reasons) == {reason}
    assert len(reasons) == 1 + bad.count(b"\n")


KEPT = {
    "CRLF": (b"\r\n".join(GOOD) + b"\r\n", ["one", "two"]),
    "CR alone": (b"\r".join(GOOD), ["one", "two"]),
    "no end of the last line": (b"\n".join(GOOD), ["one", "two"]),
    "blank lines": (b"\n\n  \n".join(GOOD) + b"\n\n", ["one", "two"]),
    "U+2028 within a line": ('{"text": "a\u2028b"}\n{"text": "two"}'.encode(), ["a\u2028b", "two"]),
    "U+0085 within a line": ('{"text": "a\u0085b"}\n{"text": "two"}'.encode(), ["a\u0085b", "two"]),
    "form feed between": (b'{"text": "one"}\n\x0c\n{"text": "two"}', ["one", "two"]),
    "utf-8 mark": (b"\xef\xbb\xbf" + b"\n".join(GOOD), ["one", "two"]),
    "utf-16 with mark": ('{"text": "一"}\n{"text": "two"}\n'.encode("utf-16"), ["一", "two"]),
    "utf-16-le without mark": ('{"text": "one"}\n{"text": "two"}\n'.encode("utf-16-le"), ["one", "two"]),
    "utf-16-be without mark": ('{"text": "one"}\n{"text": "two"}\n'.encode("utf-16-be"), ["one", "two"]),
    "utf-32 with mark": ('{"text": "一"}\n{"text": "two"}\n'.encode("utf-32"), ["一", "two"]),
    "gb18030": ((ZH + "\n" + ZH).encode("gb18030"), [json.loads(ZH)["text"]] * 2),
    "big5": ('{"text": "今天的天氣很好，我們去公園裡走一走"}'.encode("big5"), ["今天的天氣很好，我們去公園裡走一走"]),
    "latin-1": ('{"text": "le café est déjà fermé"}'.encode("latin-1"), ["le café est déjà fermé"]),
    "windows-1252": ('{"text": "it’s “fine” – really"}'.encode("cp1252"), ["it’s “fine” – really"]),
    "mojibake": ('{"text": "cafÃ© â€“ dÃ©jÃ  vu"}'.encode(), ["café – déjà vu"]),
    "gbk mojibake": ('{"text": "鐨勫拰浜嬪緱鍙戜笘閲屽ソ"}'.encode(), ["的和事得发世里好"]),
    "decomposed letters": (b'{"text": "e\\u0301"}', ["é"]),
    "astral escapes": (b'{"text": "\\ud83d\\ude00"}', ["😀"]),
    "an array, pretty-printed": (b'[\n {"text": "one"},\n {"text": "two"}\n]\n', ["one", "two"]),
    "deep brackets within a string": (json.dumps({"text": "[" * 5000}).encode(), ["[" * 5000]),
    "duplicate key of no interest": (b'{"text": "one", "x": 1, "x": 2}', ["one"]),
    "the field's name as a value": (b'{"type": "text", "text": "one"}', ["one"]),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_can_be_read_is_read(case: str, tmp_path: Path) -> None:
    content, expected = KEPT[case]
    kept, reasons = read(jsonl, tmp_path / "a.json", content)
    assert reasons == []
    assert kept == expected


MANY = b"".join(b'{"text": "%d %s"}\n' % (i, b"%x" % hash((i, i))) for i in range(5000))
NUM_MANY = 5000

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, mtime=0),
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}
NAMES = {"gz": "gzip", "zst": "zstd", "bz2": "bzip2", "xz": "xz"}


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_compressed_files_are_read(suffix: str, tmp_path: Path) -> None:
    kept, reasons = read(jsonl, tmp_path / f"a.jsonl.{suffix}", COMPRESSORS[suffix](MANY))
    assert (len(kept), reasons) == (NUM_MANY, [])


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_compressed_files_are_known_by_their_first_bytes(suffix: str, tmp_path: Path) -> None:
    kept, reasons = read(jsonl, tmp_path / "a.jsonl", COMPRESSORS[suffix](MANY))
    assert (len(kept), reasons) == (NUM_MANY, [])


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_several_streams_in_one_file(suffix: str, tmp_path: Path) -> None:
    compress = COMPRESSORS[suffix]
    kept, reasons = read(jsonl, tmp_path / f"a.jsonl.{suffix}", compress(GOOD[0] + b"\n") + compress(GOOD[1] + b"\n"))
    assert (kept, reasons) == (["one", "two"], [])


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_keeps_what_comes_before(suffix: str, share: float, tmp_path: Path) -> None:
    whole = COMPRESSORS[suffix](MANY)
    kept, reasons = read(jsonl, tmp_path / f"a.jsonl.{suffix}", whole[: int(share * len(whole))])
    assert reasons == [f"truncated_{NAMES[suffix]}"]
    assert kept == [json.loads(line)["text"] for line in MANY.splitlines()[: len(kept)]]
    if suffix == "gz":
        assert len(kept) > 0.8 * share * NUM_MANY


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("index", [30, 1000, -1])
def test_a_flipped_bit_is_noticed(suffix: str, index: int, tmp_path: Path) -> None:
    flipped = bytearray(COMPRESSORS[suffix](MANY))
    flipped[index] ^= 0x10
    kept, reasons = read(jsonl, tmp_path / f"a.jsonl.{suffix}", bytes(flipped))
    damage = [r for r in reasons if r.startswith(("damaged_", "truncated_"))]
    assert len(damage) == 1
    assert len(kept) <= NUM_MANY


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_file_that_is_not_what_its_name_says(suffix: str, tmp_path: Path) -> None:
    _, reasons = read(jsonl, tmp_path / f"a.jsonl.{suffix}", b"this was never compressed")
    assert reasons == [f"damaged_{NAMES[suffix]}"]


def test_after_a_damaged_gzip_member_the_next_is_read(tmp_path: Path) -> None:
    bad = bytearray(gzip.compress(MANY))
    bad[len(bad) // 2] ^= 0xFF
    members = gzip.compress(GOOD[0] + b"\n") + bytes(bad) + gzip.compress(GOOD[1] + b"\n")
    kept, reasons = read(jsonl, tmp_path / "a.jsonl.gz", members)
    assert (kept[0], kept[-1]) == ("one", "two")
    assert "damaged_gzip" in reasons


def test_rubbish_after_a_gzip_member(tmp_path: Path) -> None:
    content = gzip.compress(b"\n".join(GOOD) + b"\n")
    assert read(jsonl, tmp_path / "a.jsonl.gz", content + b"\0" * 512) == (["one", "two"], [])
    assert read(jsonl, tmp_path / "b.jsonl.gz", content + b"rubbish") == (["one", "two"], ["damaged_gzip"])


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_bomb_is_stopped(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompression, "MIN_BOMB", 1 << 20)
    bomb = COMPRESSORS[suffix](GOOD[0] + b"\n" + (b" " * 1023 + b"\n") * (4 << 10))
    kept, reasons = read(jsonl, tmp_path / f"a.jsonl.{suffix}", bomb, max_ratio=100)
    assert (kept, reasons) == (["one"], ["decompression_bomb"])


def test_a_bomb_in_one_line_never_fills_the_memory(tmp_path: Path) -> None:
    bomb = gzip.compress(GOOD[0] + b"\n" + b"x" * (8 << 20) + b"\n" + GOOD[1])
    kept, reasons = read(jsonl, tmp_path / "a.jsonl.gz", bomb, max_line_bytes=1 << 20)
    assert (kept, reasons) == (["one", "two"], ["too_long"])


@pytest.mark.parametrize("content", [b"", b"\n\n \n", b"\xef\xbb\xbf", gzip.compress(b"")])
@pytest.mark.parametrize("source", [jsonl, csv, text, markdown])
def test_an_empty_file_is_reported_as_empty(source: Any, content: bytes, tmp_path: Path) -> None:
    assert read(source, tmp_path / f"a{source.SUFFIXES[0]}", content) == ([], ["empty_file"])


def test_location_is_file_line_and_offset(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes("\n".join([ZH, "rubbish", '{"text": "one"}', '{"text": 1}']).encode())
    bad = [r for r in jsonl.read(jsonl.Params(paths=str(path))) if isinstance(r, Quarantined)]
    start = len(ZH.encode()) + 1
    assert [(q.file, q.line, q.offset, q.field) for q in bad] == [
        (path.as_posix(), 2, start, None),
        (path.as_posix(), 4, start + 8 + 16, "text"),
    ]
    assert "rubbish" not in bad[0].detail


def test_offsets_count_bytes_of_utf_16(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "一"}\nbad\n'.encode("utf-16"))
    bad = [r for r in jsonl.read(jsonl.Params(paths=str(path))) if isinstance(r, Quarantined)]
    assert [(q.line, q.offset) for q in bad] == [(2, 2 + 2 * 14)]


def test_reading_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """10 MB of lines are read; the memory in use stays below a few pieces."""
    path = tmp_path / "a.jsonl"
    path.write_bytes((b'{"text": "' + b"word " * 200 + b'"}\n') * 10_000)
    tracemalloc.start()
    count = sum(1 for _ in jsonl.read(jsonl.Params(paths=str(path))))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 10_000
    assert peak < 6 << 20


def test_line_ends_of_several_kinds(tmp_path: Path) -> None:
    content = b'{"text": "one"}\r{"text": "two"}\r\n{"text": "three"}\n{"text": 4}\n'
    (tmp_path / "a.jsonl").write_bytes(content)
    *kept, bad = jsonl.read(jsonl.Params(paths=str(tmp_path)))
    assert [getattr(row, "text", "") for row in kept] == ["one", "two", "three"]
    assert isinstance(bad, Quarantined)
    assert bad.line == 4
