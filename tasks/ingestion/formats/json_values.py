"""Split a JSON file of any layout into its records: arrays, single objects, and objects one after another.

Python's parser finds the end of each record, so that memory is bounded by one chunk and one record. Where a record is
invalid, the next one is searched for: at a bracket that begins a line or follows a record, and before the key with
which the records begin. So an invalid record costs only itself, also where a bracket or quote of it is missing.
"""

import codecs
import json
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
MAX_LOOKAHEAD = 32  # an error so close to the end of the text may be that of a value that is not complete yet
MAX_LINES = 100  # of the start of a file
PIECE_CHARACTERS = 1 << 15  # examined at once, because an error of Python's parser counts all lines before it
OVERLAP = 1024  # characters that are searched again, because the start of a record may lie across two chunks
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)  # only the end of each value is needed
_BLANK = " \t\r\n\ufeff\x1e"
_SEPARATORS = re.compile(r"[\s,\[\]\ufeff\x1e]*+")  # between records, and the brackets of the array
_FIRST_KEY = re.compile(r'\{\s{0,200}"([^"\\\x00-\x1f]{1,200})"\s{0,9}:')
_INVALID_BYTE = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True, slots=True)
class JsonValue:
    """The text of one record."""

    location: Location
    text: str


def detect_layout(file: InputFile, params: FileParams) -> Layout:
    """Return how the records of a file are arranged, judged by its first characters.

    A file that begins with a bracket is an array, unless its first line is a complete one and others follow. In a file
    of one object per line, the first line is complete, or else most of the others are.
    """
    start = ""
    for piece in _read_text(file, params):
        start += piece if isinstance(piece, str) else ""
        if len(start) >= START_CHARACTERS:
            break
    text = start.lstrip(_BLANK)
    if not text:
        return "empty"
    first, line_end, rest = text.partition("\n")
    if text[0] == "[" and not (rest.strip(_BLANK) and _is_complete(first)):
        return "array"
    if not line_end or text[0] not in "{[" or _is_complete(first.removesuffix(",")):
        return "lines"
    others = [line.rstrip("\r") for line in rest.split("\n")[:MAX_LINES] if line.strip(_BLANK)]
    # Most lines are objects, and only the first one is damaged.
    return "lines" if 0 < len(others) < 2 * sum(map(_is_complete, others)) else "values"


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
    """Return whether a line is one JSON object or array."""
    if line[:1] not in ("{", "["):
        return False
    try:
        return _DECODER.raw_decode(line)[1] == len(line.rstrip(_BLANK))
    except RecursionError:
        return True
    except ValueError:
        return False


class _Splitter:
    """Yields (text, number of characters) of every value; of a value that is too long only the number is kept."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._pending: list[str] = []  # text that has not been examined yet, or is the start of a value
        self._num_pending = self._num_needed = 0  # characters of it, and how many the next attempt needs
        self._broken: list[str] | None = None  # the text of an invalid value, whose end is searched for
        self._num_broken = 0
        self._last_start = ""  # the start of the last valid value, which shows how values begin
        self._next_start = re.compile("")  # where the record after an invalid one starts

    def feed(self, chunk: str) -> Iterator[tuple[str, int]]:
        """Yield the values that end in `chunk`."""
        for start in range(0, len(chunk), PIECE_CHARACTERS):
            yield from self._feed(chunk[start : start + PIECE_CHARACTERS])

    def _feed(self, chunk: str, is_end: bool = False) -> Iterator[tuple[str, int]]:
        self._pending.append(chunk)
        self._num_pending += len(chunk)
        if self._num_pending < self._num_needed and not is_end:
            return  # each attempt has twice as much text, so that the time is linear in the length of a value
        text = "".join(self._pending)
        position = 0
        while True:
            if self._broken is not None:
                found = self._next_start.search(text, position)
                cut = found.end() if found else len(text) if is_end else max(position, len(text) - OVERLAP)
                self._keep(text[position:cut])
                position = cut
                if not found and not is_end:
                    break
                yield "".join(self._broken).strip(_BLANK), self._num_broken
                self._broken, self._num_broken = None, 0
            position = _SEPARATORS.match(text, position).end()  # type: ignore[union-attr]  # it also matches ""
            if position == len(text):
                break
            end = self._find_end(text, position, is_end)
            if end is None:
                break
            if end:
                self._last_start = text[position : position + OVERLAP // 2]
                yield text[position:end], end - position
                position = end
            else:
                self._start_broken(text, position)
                position += 1
        self._pending, self._num_pending = [text[position:]], len(text) - position
        self._num_needed = 0 if self._broken is not None else 2 * self._num_pending

    def finish(self) -> Iterator[tuple[str, int]]:
        """Yield what has begun and not ended."""
        yield from self._feed("", is_end=True)

    def _find_end(self, text: str, position: int, is_end: bool) -> int | None:
        """Return where the value ends that starts at `position`: 0 if it is invalid, None if it needs more text."""
        try:
            end = _DECODER.raw_decode(text, position)[1]
            is_cut = end == len(text) and text[position] not in '{"'  # a number may go on
        except json.JSONDecodeError as error:
            end = 0
            is_cut = error.pos >= len(text) - MAX_LOOKAHEAD or error.msg.startswith("Unterminated string")
        except RecursionError:
            end, is_cut = 0, False
        return None if is_cut and not is_end and len(text) - position <= self._max_size else end

    def _start_broken(self, text: str, position: int) -> None:
        """Search for the end of the invalid value at `position` from now on."""
        key = _FIRST_KEY.match(text, position) or _FIRST_KEY.match(self._last_start)
        indentation = text[text.rfind("\n", 0, position) + 1 : position]
        starts = [rf"[\n\r]{indentation}(?=\{{)"] if not indentation.strip(_BLANK) else []
        after = r'[\n\r},\]"]\s{0,200}'
        starts.append(rf'{after}(?=\{{\s{{0,200}}"{re.escape(key[1])}"\s{{0,9}}:)' if key else rf"{after}(?=\{{)")
        self._next_start = re.compile("|".join(starts))
        self._broken, self._num_broken = [], 0
        self._keep(text[position])

    def _keep(self, text: str) -> None:
        self._num_broken += len(text)
        assert self._broken is not None
        if self._num_broken <= self._max_size:
            self._broken.append(text)
        else:
            self._broken = [""]


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
                decoder = codecs.getincrementaldecoder(encoding)(charsets.MARK)
            yield decoder.decode(piece)
        if decoder is not None:
            yield decoder.decode(b"", final=True)
