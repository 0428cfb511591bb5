"""Ranges of lines give the lines of the whole file, and a file where that is not certain has none."""

import gzip
import random
from pathlib import Path

import pytest

from tasks.ingestion import decoding
from tasks.ingestion.division import line_ranges
from tasks.ingestion.files import decompression
from tasks.ingestion.opening import FileParams, InputFile, find_files


def written(path: Path, content: bytes) -> InputFile:
    path.write_bytes(content)
    return find_files([str(path)], (".txt",))[0]


def params(encoding: str = "auto", max_line_bytes: int = 100) -> FileParams:
    return FileParams(paths=("file",), encoding=encoding, max_line_bytes=max_line_bytes)


def test_ranges_begin_at_lines(tmp_path: Path) -> None:
    """The first line that begins at byte 3 or later begins at 5, after two line ends."""
    file = written(tmp_path / "a.txt", b"a\nbb\nccc\nd")
    assert line_ranges.find(file, params(), 3) == [(0, 4, 1), (5, 8, 3), (9, 10, 4)]
    assert line_ranges.find(file, params(), 6) == [(0, 8, 1), (9, 10, 4)]
    assert line_ranges.find(file, params(), 10) == []
    assert line_ranges.find(written(tmp_path / "b.txt", b"a\nbb\nccc\n"), params(), 9) == []


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(b"a\nb\nc\n"),
        b"a\rb\rc\rd",
        b"a\nb\rc\nd\n",
        b"a\nb\r\r\nc\n",
        "a\nb\nc\n".encode("utf-16"),
        "这是一个中文句子。\n他们说的是我们的时候。\n".encode("gb18030"),
        b" \n \n \n",
        b"%PDF-1.4\n\n\n\n",
        b"",
    ],
)
def test_files_that_are_not_divided(tmp_path: Path, content: bytes) -> None:
    assert line_ranges.find(written(tmp_path / "a.txt", content), params(), 1) == []


@pytest.mark.parametrize("seed", range(40))
def test_ranges_give_the_lines_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Lines of random parts, in pieces of 64 bytes, so that parts and line ends lie across pieces."""
    monkeypatch.setattr(decoding, "MIN_PIECE_BYTES", 64)
    monkeypatch.setattr(decompression, "CHUNK", 64)
    monkeypatch.setattr(line_ranges, "CHUNK", 50)
    rng = random.Random(seed)
    parts = [b"text", " 文字".encode(), b"\xff", b"\0", b"x" * 120, b"\n", b"\n", b"\r\n", b"\n\n", b" "]
    start = rng.choice([b"", b"\xef\xbb\xbf"])
    file = written(tmp_path / "a.txt", start + b"start\n" + b"".join(rng.choices(parts, k=60)))
    settings = params(rng.choice(["auto", "utf-8"]))
    for max_bytes in (1, 30, 200):
        ranges = line_ranges.find(file, settings, max_bytes)
        lines = [line for each in ranges for line in line_ranges.read(file, settings, each)]
        assert len(ranges) > 1
        assert lines == list(decoding.read_lines(file, settings))
