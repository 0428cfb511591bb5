"""Decompress files as streams of bounded chunks. Damage is reported in the stream; a decompression bomb is stopped.

Nothing here raises because of the content of a file: one damaged file must not end the ingestion of all others.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import zstandard

from tasks.ingestion.files import file_types

CHUNK = 1 << 20
# Compressed bytes that zstandard receives at once. Its decompressobj has no limit on the output of one call, and an RLE
# block turns 4 bytes into 128 KiB, so 2 KiB of input produce at most 64 MiB.
ZSTD_INPUT_BYTES = 2048
MIN_BOMB = 64 << 20  # decompressed bytes below which the compression ratio is not checked
LZMA_MEMORY = 512 << 20  # the header of an .xz file may request a dictionary of 4 GiB
GZIP_MAGIC = b"\x1f\x8b\x08"
_MAGIC = {"gzip": GZIP_MAGIC, "zstd": b"\x28\xb5\x2f\xfd", "bzip2": b"BZh91AY&SY", "xz": b"\xfd7zXZ\0"}
_SUFFIXES = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz"}


@dataclass(frozen=True, slots=True)
class Damage:
    """A part of the stream, or all of its rest, cannot be read. `offset` is in decompressed bytes."""

    reason: str
    detail: str
    offset: int


class _CompressedInput:
    """A file that can be read ahead. `num_bytes` is the number of compressed bytes that were read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._buffer = b""
        self.num_bytes = 0

    def peek(self) -> bytes:
        if not self._buffer:
            self._buffer = self._file.read(CHUNK)
        return self._buffer

    def read(self, size: int = CHUNK) -> bytes:
        buffer = self.peek()
        content, self._buffer = buffer[:size], buffer[size:]
        self.num_bytes += len(content)
        return content


def read_chunks(file: BinaryIO, name: str, max_ratio: float, *, is_archive: bool = False) -> Iterator[bytes | Damage]:
    """Yield the content of `file` in chunks of a few MiB, decompressed as its first bytes or its name indicate.

    Damage is yielded, never raised. After damage, a gzip file continues with its next intact member; the other formats
    end. A file that is no text, such as an image, is named as what it is, unless `is_archive`. Beyond MIN_BOMB the
    stream ends if it is more than `max_ratio` times as large as its compressed input.
    """
    source = _CompressedInput(file)
    format_name = _detect_format(source.peek(), name)
    total = 0
    is_first = True
    for content in _DECOMPRESSORS[format_name](source):
        if isinstance(content, str):
            prefix = "truncated" if content == _TRUNCATED else "damaged"
            yield Damage(f"{prefix}_{format_name}", content, total)
            continue
        total += len(content)
        if format_name != "plain" and total > MIN_BOMB and total > max_ratio * source.num_bytes:
            detail = (
                f"The content is more than {max_ratio:g} times its compressed size. If it is valid, raise max_ratio."
            )
            yield Damage("decompression_bomb", detail, total)
            return
        if is_first and not is_archive:
            is_first = False
            if description := file_types.identify(content[: file_types.START_BYTES], name):
                yield Damage("unsupported_format", description, 0)
                return
        yield content


def is_compressed(start: bytes, name: str) -> bool:
    """Return whether `read_chunks` decompresses a file that begins with `start`."""
    return _detect_format(start, name) != "plain"


def _detect_format(start: bytes, name: str) -> str:
    for format_name, magic in _MAGIC.items():
        if start.startswith(magic):
            return format_name
    for suffix, format_name in _SUFFIXES.items():
        if name.lower().endswith(suffix) and start:
            return format_name
    return "plain"


_TRUNCATED = "The file ends in the middle of its compressed data."

# The decompressors below yield content as bytes and a description of damage as str.


def _read_plain(source: _CompressedInput) -> Iterator[bytes | str]:
    while content := source.read():
        yield content


def _read_gzip(source: _CompressedInput) -> Iterator[bytes | str]:
    """Decompress member by member; after a damaged member, continue at the next magic bytes.

    WARC files have one member per record, so damage costs one record. Magic bytes inside compressed data are a wrong
    start; the error that follows from one is not reported again (`is_reported`).
    """
    pending, member, is_reported = b"", None, False
    while pending or (pending := source.read()):
        if member is None:
            pending = pending.lstrip(b"\0")  # zero padding between members, as tar on tapes writes it
            if not pending:
                continue
            if pending.startswith(b"WARC/"):  # records that were appended without compression
                yield pending
                yield from _read_plain(source)
                return
            member = zlib.decompressobj(31)  # 31: a gzip header, and a window of 32 KiB
        try:
            content = member.decompress(pending, CHUNK)
        except zlib.error as error:
            if not is_reported:
                yield f"gzip: {error}"
            is_reported, member = True, None
            pending = _find_next_member(pending, source)
            continue
        if content:
            is_reported = False
            yield content
        pending = member.unconsumed_tail
        if member.eof:
            pending, member = member.unused_data, None
    if member is not None:
        while content := member.decompress(b"", CHUNK):
            yield content
        if not member.eof:
            yield _TRUNCATED


def _find_next_member(pending: bytes, source: _CompressedInput) -> bytes:
    """Return the input from the next magic bytes on; empty at the end of the file."""
    start = pending.find(GZIP_MAGIC, 1)
    while start < 0:
        following = source.read()
        if not following:
            return b""
        pending = pending[-2:] + following  # the three magic bytes may lie across two chunks
        start = pending.find(GZIP_MAGIC)
    return pending[start:]


def _read_zstd(source: _CompressedInput) -> Iterator[bytes | str]:
    """Decompress frame by frame (RFC 8878)."""
    frame = None
    pending = b""
    while pending or (pending := source.read(ZSTD_INPUT_BYTES)):
        frame = frame or zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
        try:
            content = frame.decompress(pending)
        except zstandard.ZstdError as error:
            yield f"zstd: {error}"
            return
        for start in range(0, len(content), CHUNK):
            yield content[start : start + CHUNK]
        pending = b""
        if frame.eof:
            pending, frame = frame.unused_data, None
    if frame is not None:
        yield _TRUNCATED


def _read_bzip2(source: _CompressedInput) -> Iterator[bytes | str]:
    return _read_streams(source, bz2.BZ2Decompressor)


def _read_xz(source: _CompressedInput) -> Iterator[bytes | str]:
    return _read_streams(source, lambda: lzma.LZMADecompressor(memlimit=LZMA_MEMORY))


def _read_streams(source: _CompressedInput, new_decompressor: Callable[[], Any]) -> Iterator[bytes | str]:
    """Decompress concatenated streams with a decompressor of the standard library."""
    decompressor, pending = None, b""
    while True:
        if decompressor is None or decompressor.needs_input:
            pending = pending or source.read()
            if not pending:
                break
        decompressor = decompressor or new_decompressor()
        try:
            content = decompressor.decompress(pending, CHUNK)
        except (OSError, EOFError, lzma.LZMAError) as error:
            yield str(error)
            return
        pending = b""
        if content:
            yield content
        if decompressor.eof:
            pending, decompressor = decompressor.unused_data.lstrip(b"\0"), None
    if decompressor is not None:
        yield _TRUNCATED


_DECOMPRESSORS = {
    "plain": _read_plain,
    "gzip": _read_gzip,
    "zstd": _read_zstd,
    "bzip2": _read_bzip2,
    "xz": _read_xz,
}
