"""Split a JSON file of any layout into its records: arrays, single objects, and objects one after another.

The text is split at brackets outside of strings, so that memory is bounded by one chunk and one record, and an invalid
record costs only itself. A raw line end within a string is invalid JSON: it ends the record, and the next record
begins at the next line that starts with an opening brace.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tasks.ingestion.decoding import Location, UnusableRecord, join_chunks
from tasks.ingestion.files import charsets, encodings
from tasks.ingestion.files.decompression import Damage, read_chunks
from tasks.ingestion.opening import FileParams, InputFile
from tasks.tables import Quarantined

Layout = Literal["array", "lines", "values", "empty"]
START_CHARACTERS = 1 << 20  # of the file, from which its layout is recognized
_STRUCTURE = re.compile(r'["{}\[\],]')
# The possessive quantifiers prevent backtracking, which would take quadratic time.
_STRING_REST = re.compile(r'(?:[^"\\\n\r]|\\.)*+')
_INVALID_BYTE = re.compile("[\udc80-\udcff]")
_BLANK = " \t\r\n\ufeff\x1e"


@dataclass(frozen=True, slots=True)
class JsonValue:
    """The text of one record."""

    location: Location
    text: str


def detect_layout(file: InputFile, params: FileParams) -> Layout:
    """Return how the records of a file are arranged, judged by its first characters.

    An array begins with a bracket that is followed by an object, by its end or by a line end; in a file of one object
    per line, the first line is complete.
    """
    start = ""
    for piece in _read_text(file, params):
        start += piece if isinstance(piece, str) else ""
        if len(start) >= START_CHARACTERS:
            break
    text = start.lstrip(_BLANK)
    if not text:
        return "empty"
    if re.match(r"\[\s*+(?:[{\]]|\Z)|\[[ \t]*\r?\n", text):
        return "array"
    first, line_end, _ = text.partition("\n")
    return "values" if line_end and not _is_complete(first) else "lines"


def split_values(file: InputFile, params: FileParams) -> Iterator[JsonValue | Quarantined]:
    """Yield the objects of a file, and those of its arrays, in order. `line` of a location is the number of the record.

    A record that cannot be decoded, or is longer than max_line_bytes, is yielded as Quarantined.
    """
    splitter = _Splitter(params.max_line_bytes)
    number = 0
    for piece in _read_text(file, params):
        if isinstance(piece, Damage):
            yield Quarantined(file.name, piece.reason, piece.detail, number + 1, piece.offset)
            continue
        for text, size in splitter.feed(piece):
            number += 1
            yield _check(text, size, Location(file.name, number), params.max_line_bytes)
    for text, size in splitter.finish():
        number += 1
        yield _check(text, size, Location(file.name, number), params.max_line_bytes)


def _check(text: str, size: int, location: Location, max_size: int) -> JsonValue | Quarantined:
    if size > max_size:
        detail = f"The record has {size} characters; max_line_bytes is {max_size}."
        return location.quarantine(UnusableRecord("too_long", detail))
    if invalid := _INVALID_BYTE.search(text):
        detail = f"The record has an invalid byte at character {invalid.start()}."
        return location.quarantine(UnusableRecord("invalid_utf8", detail))
    if "\0" in text:
        return location.quarantine(UnusableRecord("nul", "The record contains a NUL character."))
    return JsonValue(location, text)


def _is_complete(line: str) -> bool:
    """Return whether every bracket of a line is closed in it."""
    splitter = _Splitter(len(line))
    return any(True for _ in splitter.feed(line)) and not splitter.is_inside


class _Splitter:
    """Yields (text, number of characters) of every value; of a value that is too long only the number is kept."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._parts: list[str] = []
        self._size = 0
        self._depth = 0  # of brackets within the value
        self._in_string = self._is_broken = False
        self._carry = ""  # a backslash at the end of a chunk

    @property
    def is_inside(self) -> bool:
        """Whether a value has begun and not ended."""
        return bool(self._size)

    def feed(self, chunk: str) -> Iterator[tuple[str, int]]:
        """Yield the values that end in `chunk`."""
        chunk, self._carry = self._carry + chunk, ""
        start = position = 0
        while position < len(chunk):
            if self._is_broken:
                position = self._find_next_line(chunk, position)
                self._add(chunk[start:position])
                start = position
                if not self._is_broken:
                    yield self._take()
            elif self._in_string:
                position = self._skip_string(chunk, position)
            elif token := _STRUCTURE.search(chunk, position):
                position = token.end()
                if ends_at := self._apply(token[0], token.start()):
                    is_closed = token[0] in "}]" and ends_at == "closed"
                    self._add(chunk[start : position if is_closed else token.start()])
                    start = position
                    if self._has_content():
                        yield self._take()
                    self._parts, self._size = [], 0
            else:
                break
        self._add(chunk[start : len(chunk) - len(self._carry)])

    def finish(self) -> Iterator[tuple[str, int]]:
        """Yield what has begun and not ended."""
        self._add(self._carry)
        if self._has_content():
            yield self._take()

    def _apply(self, token: str, position: int) -> str:
        """Return "closed" if the token ends an object, "separator" if it stands between values, otherwise ""."""
        if token == '"':
            self._in_string = True
        elif token == "{" or (token == "[" and self._depth):
            self._depth += 1
        elif token in "}]" and self._depth:
            self._depth -= 1
            return "" if self._depth else "closed"
        elif not self._depth:
            return "separator"  # the brackets of an array of records, and the commas in it
        return ""

    def _skip_string(self, chunk: str, position: int) -> int:
        end = _STRING_REST.match(chunk, position).end()  # type: ignore[union-attr]  # it also matches ""
        if end == len(chunk):
            return end
        if chunk[end] == "\\":
            if end + 1 == len(chunk):
                self._carry = "\\"
                return len(chunk)
            self._is_broken, self._in_string = True, False  # a backslash before a line end
            return end + 1
        self._is_broken, self._in_string = chunk[end] != '"', False
        return end + (chunk[end] == '"')

    def _find_next_line(self, chunk: str, position: int) -> int:
        """Return where the line of the next record starts, after which the splitter is no longer in a broken one."""
        if match := re.compile(r"[\n\r]\s*+(?=\{)").search(chunk, position):
            self._is_broken, self._depth = False, 0
            return match.end()
        return len(chunk)

    def _add(self, text: str) -> None:
        self._size += len(text)
        if self._size <= self._max_size:
            self._parts.append(text)
        else:
            self._parts = [""]

    def _has_content(self) -> bool:
        return self._size > self._max_size or any(part.strip(_BLANK) for part in self._parts)

    def _take(self) -> tuple[str, int]:
        value = "".join(self._parts).strip(_BLANK), self._size
        self._parts, self._size = [], 0
        return value


def _read_text(file: InputFile, params: FileParams) -> Iterator[str | Damage]:
    """Yield the decoded text of a file in pieces. An invalid byte becomes one of U+DC80 to U+DCFF."""
    encoding = "" if params.encoding == "auto" else charsets.codec_name(params.encoding)
    decoder: codecs.IncrementalDecoder | None = None
    is_first = True
    with file.open() as opened:
        for piece in join_chunks(read_chunks(opened, file.name, params.max_ratio)):
            if isinstance(piece, Damage):
                yield piece
                continue
            if is_first:
                marked, length = encodings.detect_byte_order_mark(piece)
                piece, is_first = piece[length:], False
                encoding = encoding or marked or encodings.detect_utf16(piece[: encodings.SAMPLE_BYTES])
            if decoder is None and not encoding and piece.isascii():
                yield piece.decode()
                continue
            if decoder is None:
                encoding = encoding or encodings.detect_encoding(piece)
                decoder = codecs.getincrementaldecoder(encoding)(
                    "replace" if encoding.startswith("utf-16") or encoding.startswith("utf-32") else "surrogateescape"
                )
            yield decoder.decode(piece)
        if decoder is not None:
            yield decoder.decode(b"", final=True)
