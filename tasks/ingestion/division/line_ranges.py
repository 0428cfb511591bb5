"""Ranges of the lines of a large file, which several tasks read with the outcome of one that reads the whole file.

A file is divided only where that is certain: if it is not compressed, is ASCII or UTF-8 throughout, and its lines end
with LF or CRLF. Its lines are counted first, because ids and messages name them.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO

from tasks.errors import BadInput
from tasks.ingestion.decoding import Line, LineDecoder, join_chunks
from tasks.ingestion.files.decompression import CHUNK, Damage, is_compressed, read_chunks
from tasks.ingestion.files.file_types import START_BYTES
from tasks.ingestion.opening import FileParams, InputFile
from tasks.tables import Quarantined

LineRange = tuple[int, int, int]
"""The offsets of the first byte and of the end of the last line, and the number of the first line, from 1."""

_VISIBLE = re.compile(rb"[!-~]")


def find(file: InputFile, params: FileParams, max_bytes: int) -> list[LineRange]:
    """Return ranges of whole lines, each of which is longer than `max_bytes` by less than a line; none for one range.

    The result is empty, too, if the file is not divided, as stated above, or is damaged.
    """
    decoder = LineDecoder(file.name, params)
    starts, line, offset, ends_with_return = [(0, 1)], 1, 0, False
    with file.open() as opened:
        if is_compressed(opened.read(START_BYTES), file.name):
            return []
        opened.seek(0)
        for piece in join_chunks(read_chunks(opened, file.name, params.max_ratio)):
            if isinstance(piece, Damage) or (not offset and not _VISIBLE.search(piece)):
                return []
            decoder.examine(piece)
            is_split_further = _has_lone_return(piece, ends_with_return)
            ends_with_return = piece.endswith(b"\r")
            if decoder.encoding not in ("", "utf-8") or is_split_further:
                return []
            position = 0
            while (end := piece.find(b"\n", max(position, starts[-1][0] + max_bytes - 1 - offset))) >= 0:
                line += piece.count(b"\n", position, end + 1)
                position = end + 1
                starts.append((offset + position, line))
            line += piece.count(b"\n", position)
            offset += len(piece)
    if len(starts) > 1 and starts[-1][0] == offset:
        starts.pop()
    ends = [*(start - 1 for start, _ in starts[1:]), offset]
    ranges = [(start, end, first) for (start, first), end in zip(starts, ends, strict=True)]
    return ranges if len(ranges) > 1 else []


def _has_lone_return(piece: bytes, follows_return: bool) -> bool:
    """Return whether a CR is not followed by LF, up to the end of a piece, whose last CR is examined with the next."""
    if follows_return and not piece.startswith(b"\n"):
        return True
    return piece.count(b"\r") - piece.endswith(b"\r") != piece.count(b"\r\n")


def read(file: InputFile, params: FileParams, lines: LineRange) -> Iterator[Line | Quarantined]:
    """Yield the lines of a range, as `decoding.read_lines` does. Raises BadInput if the file is shorter than it was."""
    start, end, number = lines
    decoder = LineDecoder(file.name, params)
    decoder.start_at(number, start)
    with file.open() as opened:
        opened.seek(start)
        yield from decoder.read(_read_bytes(opened, end - start, file.name))


def _read_bytes(opened: BinaryIO, size: int, name: str) -> Iterator[bytes]:
    if not size:  # a blank line
        yield b""
    while size:
        content = opened.read(min(CHUNK, size))
        if not content:
            raise BadInput(f"{name} has become shorter while it was read. Run the command again when it is complete.")
        size -= len(content)
        yield content
