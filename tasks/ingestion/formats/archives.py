"""Split WARC files (web archives, ISO 28500) into records. Damage costs one record; reading continues at the next one.

A record is a version line, named fields, an empty line, and a body whose length the field Content-Length states. Only
after damage is the next version line searched for, because a body may itself contain such a line. Every byte is
examined a bounded number of times, so that the time is linear in the size of the file, whatever it contains.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.ingestion.decoding import Location, UnusableRecord, join_chunks
from tasks.ingestion.files.decompression import Damage
from tasks.tables import Quarantined

MAX_HEADER_BYTES = 1 << 16
_VERSION_LINE = re.compile(rb"WARC/\d\.\d{1,2}[ \t]{0,9}\r?\n")
# A version line and all following lines but empty and version lines. Possessive quantifiers prevent backtracking.
_HEADER = re.compile(rb"WARC/\d\.\d{1,2}[ \t]{0,9}\r?\n(?:(?!WARC/\d\.|\r?\n)[^\n]*+\n)*+")
_EMPTY_LINE = re.compile(rb"\r?\n")
_CONTINUATION = re.compile(rb"\r?\n[ \t]+")
_FIELD = re.compile(rb"^([\w-]+)[ \t]{0,9}:(.*)$", re.MULTILINE)
_LENGTH = re.compile(r"\+?([0-9]{1,4000})")
_BOUNDARY = re.compile(rb"\r?\n\r?\n|[\r\n]{0,4}(?:WARC/\d\.\d|\Z)")
_NEXT_RECORD = re.compile(rb"\r?\n(?:\r?\n)?(?=WARC/\d\.\d{1,2}[ \t]{0,9}\r?\n[\w-]{1,99}:)")
_BOUNDARY_BYTES = 16  # enough to recognize what follows a record


@dataclass(frozen=True, slots=True)
class WarcRecord:
    """One record: its fields by lower-case name and its body. `stated_length` is set if it is not that of the body."""

    location: Location
    fields: dict[str, str]
    content: bytes
    stated_length: int | None = None


class WarcReader:
    """Splits the decompressed chunks of one file; holds at most one record and one chunk in memory."""

    def __init__(self, name: str, chunks: Iterator[bytes | Damage], max_record_bytes: int) -> None:
        self._name, self._chunks, self._max_record_bytes = name, join_chunks(chunks), max_record_bytes
        self._buffer = bytearray()  # deleting its first bytes does not copy the others
        self._offset = 0  # of the start of the buffer, in decompressed bytes
        self._damage: Damage | None = None  # that follows the buffer

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

    def _read_record(self) -> WarcRecord:
        """Return the record at the start of the buffer. An error skips its header, so that the next one is found."""
        location = Location(self._name, None, self._offset)
        fields = self._read_fields()
        stated = _LENGTH.fullmatch(fields.get("content-length", ""))
        if stated is None:
            raise UnusableRecord("damaged_warc", "A record has no valid Content-Length.", "Content-Length")
        length = int(stated[1])
        if length > self._max_record_bytes:
            detail = f"A record has {length} bytes; max_line_bytes is {self._max_record_bytes}."
            raise UnusableRecord("too_long", detail)
        actual = self._find_length(length)
        content = bytes(self._buffer[:actual])
        self._skip(actual)
        return WarcRecord(location, fields, content, None if actual == length else length)

    def _read_fields(self) -> dict[str, str]:
        """Return the fields of the header at the start of the buffer, and skip the header."""
        while True:
            match = _HEADER.match(self._buffer, 0, MAX_HEADER_BYTES)
            end = match.end() if match else 0
            if empty_line := _EMPTY_LINE.match(self._buffer, end):
                break
            # The header goes on beyond the buffer, unless it is too long or followed by another version line.
            is_cut = end > len(self._buffer) - 2 or b"\n" not in self._buffer[end:MAX_HEADER_BYTES]
            if len(self._buffer) >= MAX_HEADER_BYTES or not is_cut or not self._read_more():
                self._skip(max(5, end))
                raise UnusableRecord("damaged_warc", "The header of a record has no end.")
        header = _CONTINUATION.sub(b" ", bytes(self._buffer[:end]))
        self._skip(empty_line.end())
        return {
            name.decode().lower(): value.strip().decode("utf-8", "replace") for name, value in _FIELD.findall(header)
        }

    def _find_length(self, length: int) -> int:
        """Return the length of the body at the start of the buffer, which is `length` unless the header is wrong.

        After a body, an empty line or the next record follows. Where it does not, the body ends before the next record.
        """
        while len(self._buffer) < length + _BOUNDARY_BYTES and self._read_more():
            pass
        if len(self._buffer) >= length and _BOUNDARY.match(self._buffer, length, length + _BOUNDARY_BYTES):
            return length
        if match := _NEXT_RECORD.search(self._buffer):
            return match.start()
        if len(self._buffer) < length:
            if self._damage:
                raise self._take_damage()
            raise UnusableRecord("truncated_warc", "The file ends in the middle of a record.")
        searched = 0
        while len(self._buffer) <= self._max_record_bytes:
            if not self._read_more():
                return len(self._buffer.rstrip(b"\r\n"))
            if match := _NEXT_RECORD.search(self._buffer, max(0, searched - 200)):
                return match.start()
            searched = len(self._buffer)
        return length

    def _find_start(self, is_synchronized: bool) -> int | None:
        """Return where the next record starts in the buffer, None at the end of the file.

        What precedes it is discarded as the buffer grows. Unless synchronized, it is the rest of a record that was
        already reported, so it is not reported again.
        """
        while True:
            if match := _VERSION_LINE.search(self._buffer):
                return match.start()
            if len(self._buffer) > MAX_HEADER_BYTES:
                if is_synchronized and self._buffer.strip():
                    raise UnusableRecord("damaged_warc", "The bytes before the next record belong to no record.")
                self._skip(len(self._buffer) - 32)  # a version line has fewer bytes and may have begun
            if not self._read_more():
                if self._damage:
                    raise self._take_damage()
                if is_synchronized and self._buffer.strip(b"\r\n\t \0"):
                    size = len(self._buffer)
                    self._skip(size)
                    raise UnusableRecord("damaged_warc", f"{size} bytes at the end belong to no record.")
                return None

    def _read_more(self) -> bool:
        """Append the next chunk to the buffer. Return False at the end of the file and before damage."""
        if self._damage is None:
            chunk = next(self._chunks, None)
            if isinstance(chunk, bytes):
                self._buffer += chunk
                return True
            self._damage = chunk
        return False

    def _take_damage(self) -> UnusableRecord:
        """Return the damage that follows the buffer as an error; it also costs what is buffered."""
        damage, self._damage = self._damage, None
        assert damage is not None
        self._offset = damage.offset
        self._buffer.clear()
        return UnusableRecord(damage.reason, damage.detail)

    def _skip(self, size: int) -> None:
        del self._buffer[:size]
        self._offset += size

    def _quarantine(self, error: UnusableRecord) -> Quarantined:
        return Location(self._name, None, self._offset).quarantine(error)
