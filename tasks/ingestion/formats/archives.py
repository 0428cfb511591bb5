"""Split WARC files (web archives, ISO 28500) into records. Damage costs one record; reading continues at the next one.

A record is a version line, named fields, an empty line, and a body whose length the field Content-Length states. Only
after damage is the next version line searched for, because a body may itself contain such a line.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.ingestion.decoding import Location, UnusableRecord
from tasks.ingestion.files.decompression import Damage
from tasks.tables import Quarantined

MAX_HEADER_BYTES = 1 << 16
_VERSION_LINE = re.compile(rb"WARC/\d\.\d{1,2}\r?\n")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_FIELD = re.compile(rb"^([\w-]+):[ \t]*(.*?)[ \t]*\r?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class WarcRecord:
    """One record: its fields by lower-case name, its bytes with header (`raw`) and without (`content`)."""

    location: Location
    fields: dict[str, str]
    raw: bytes
    content: bytes


class WarcReader:
    """Splits the decompressed chunks of one file; holds at most one record and one chunk in memory."""

    def __init__(self, name: str, chunks: Iterator[bytes | Damage], max_record_bytes: int) -> None:
        self._name, self._chunks, self._max_record_bytes = name, chunks, max_record_bytes
        self._buffer = b""
        self._offset = 0  # of the start of the buffer, in decompressed bytes

    def read(self) -> Iterator[WarcRecord | Quarantined]:
        """Yield every record in order; a part that cannot be read is yielded as Quarantined."""
        is_synchronized = True  # whether the buffer starts where a record should start
        while True:
            try:
                start = self._find_start(is_synchronized)
                if start is None:
                    return
                if start and is_synchronized and self._buffer[:start].strip():
                    yield self._quarantine(UnusableRecord("damaged_warc", f"{start} bytes belong to no record."))
                self._skip(start)
                is_synchronized = True
                yield self._read_record()
            except UnusableRecord as error:
                yield self._quarantine(error)
                is_synchronized = False
                self._skip(min(5, len(self._buffer)))  # skip "WARC/", so that the next version line is found

    def _read_record(self) -> WarcRecord:
        header_end = self._search(_HEADER_END, MAX_HEADER_BYTES)
        if header_end is None:
            raise UnusableRecord("damaged_warc", "The header of a record has no end.")
        fields = {
            name.decode().lower(): value.decode("utf-8", "replace")
            for name, value in _FIELD.findall(self._buffer[: header_end[0]])
        }
        length = fields.get("content-length", "")
        if not length.isdecimal():
            raise UnusableRecord("damaged_warc", "A record has no valid Content-Length.", "Content-Length")
        size = header_end[1] + int(length)
        location = Location(self._name, None, self._offset)
        if int(length) > self._max_record_bytes:
            raise UnusableRecord(
                "too_long", f"A record has {length} bytes; max_line_bytes is {self._max_record_bytes}."
            )
        if not self._fill(size):
            raise UnusableRecord("truncated_warc", "The file ends in the middle of a record.")
        raw = self._buffer[:size]
        self._skip(size)
        return WarcRecord(location, fields, raw, raw[header_end[1] :])

    def _find_start(self, is_synchronized: bool) -> int | None:
        """Return where the next record starts in the buffer, None at the end of the file.

        What precedes it is discarded as the buffer grows. Unless synchronized, it is the rest of a record that was
        already reported, so it is not reported again.
        """
        while True:
            if match := _VERSION_LINE.search(self._buffer):
                return match.start()
            if len(self._buffer) > MAX_HEADER_BYTES:
                self._skip(len(self._buffer) - 16)  # a version line has fewer than 16 bytes and may have begun
            if not self._read_more():
                if is_synchronized and self._buffer.strip():
                    rest, self._buffer = self._buffer, b""
                    raise UnusableRecord("damaged_warc", f"{len(rest)} bytes at the end belong to no record.")
                return None

    def _search(self, pattern: re.Pattern[bytes], max_bytes: int) -> tuple[int, int] | None:
        """Return the span of the first match in the first `max_bytes`, None if there is none."""
        while True:
            if match := pattern.search(self._buffer):
                return match.span()
            if len(self._buffer) > max_bytes or not self._read_more():
                return None

    def _fill(self, size: int) -> bool:
        """Read until the buffer has `size` bytes. Returns whether the file has so many."""
        while len(self._buffer) < size:
            if not self._read_more():
                return False
        return True

    def _read_more(self) -> bool:
        """Append the next chunk to the buffer. Raises UnusableRecord on damage, which also costs what is buffered."""
        chunk = next(self._chunks, None)
        if isinstance(chunk, Damage):
            self._offset, self._buffer = chunk.offset, b""
            raise UnusableRecord(chunk.reason, chunk.detail)
        if chunk is None:
            return False
        self._buffer += chunk
        return True

    def _skip(self, size: int) -> None:
        self._buffer = self._buffer[size:]
        self._offset += size

    def _quarantine(self, error: UnusableRecord) -> Quarantined:
        return Location(self._name, None, self._offset).quarantine(error)
