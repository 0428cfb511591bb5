"""Decode files line by line. A line that cannot be decoded is quarantined; all other lines are kept.

A line ends with LF, CRLF or CR, also where a file has several of them. U+2028 and U+0085 do not end a line, because
JSON strings may contain them. Memory is bounded by one chunk and `max_line_bytes`, for files of any size.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import ftfy

from tasks.ingestion.files import charsets, encodings
from tasks.ingestion.files.decompression import Damage, read_chunks
from tasks.ingestion.normalization import to_nfc
from tasks.ingestion.opening import FileParams, InputFile
from tasks.tables import Quarantined

MIN_PIECE_BYTES = 1 << 20
_SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
_CP932_PRIVATE = re.compile("[\uf8f0-\uf8f3]")  # as which Python decodes the bytes 80, a0 and fd to ff
# "Mojibake": the characters that appear if UTF-8 was decoded as Latin-1 or Windows-1252, and as GBK.
_LATIN_MOJIBAKE = re.compile("[\u00c2-\u00f4][\u0080-\u00bf\u0152-\u0178\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]")
_GBK_MOJIBAKE = re.compile("[锛銆鐨鈥]")


class UnusableRecord(ValueError):
    """A record, or a field of it, cannot be used. `reason` is a fixed identifier, `detail` a sentence for the user."""

    def __init__(self, reason: str, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.field = reason, detail, field


@dataclass(frozen=True, slots=True)
class Location:
    """The location of a record: file, line (from 1), offset in decompressed bytes; None if it has none.

    part: its number in the list of records that the line contains, if it does.
    """

    file: str
    line: int | None = None
    offset: int | None = None
    part: int | None = None

    def quarantine(self, error: UnusableRecord, num_records: int = 1) -> Quarantined:
        """Return the record at this location, or so many from it on, as ones that cannot be used."""
        detail = error.detail if self.part is None else f"Record {self.part} of the list: {error.detail}"
        return Quarantined(self.file, error.reason, detail, self.line, self.offset, error.field, num_records)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text without its line end."""

    location: Location
    text: str


def read_lines(file: InputFile, params: FileParams) -> Iterator[Line | Quarantined]:
    """Yield every line of `file`; a line that cannot be read is yielded as Quarantined."""
    with file.open() as opened:
        pieces = join_chunks(read_chunks(opened, file.name, params.max_ratio))
        yield from LineDecoder(file.name, params).read(pieces)


@dataclass
class JoinedLines:
    """The text of several lines, the lines that could not be read, and an error if the text is too long."""

    text: str
    unreadable: list[Quarantined]
    too_long: UnusableRecord | None = None

    @property
    def is_unreadable(self) -> bool:
        """Whether lines could not be read and nothing else is left of the file."""
        return bool(self.unreadable) and not self.too_long and not self.text.strip()


def join_lines(first: Line | None, rest: Iterator[Line | Quarantined], max_bytes: int) -> JoinedLines:
    """Join `first` and all of `rest`. Lines that cannot be read are left out of the text.

    A text of more than `max_bytes` characters is not kept in memory, but `rest` is still read to its end.
    """
    texts = [first.text] if first else []
    unreadable: list[Quarantined] = []
    size = sum(map(len, texts))
    for line in rest:
        if isinstance(line, Quarantined):
            unreadable.append(line)
            continue
        size += len(line.text) + 1
        if size <= max_bytes:
            texts.append(line.text)
    if size > max_bytes:
        error = UnusableRecord("too_long", f"The text has {size} characters; max_line_bytes is {max_bytes}.")
        return JoinedLines("", unreadable, error)
    return JoinedLines("\n".join(texts), unreadable)


def clean_text(text: str, field: str | None = None) -> str:
    """Repair mojibake and normalize to Unicode NFC. Raises UnusableRecord for NUL and unpaired surrogates."""
    if "\0" in text:
        raise UnusableRecord("nul", "The text contains a NUL character.", field)
    if text.isascii():
        return text
    # ftfy is slow and may alter correct text, so it is applied only to text that contains typical mojibake.
    if _LATIN_MOJIBAKE.search(text):
        text = ftfy.fix_encoding(text)
    if _GBK_MOJIBAKE.search(text):
        text = _repair_gbk(text)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnusableRecord("lone_surrogate", "The text contains half of a surrogate pair.", field) from None
    return to_nfc(text)


def _repair_gbk(text: str) -> str:
    """Undo the decoding of UTF-8 as GBK. Correct Chinese text is not valid UTF-8 after this encoding and stays."""
    try:
        return text.encode("gb18030").decode()
    except UnicodeError:
        return text


def join_chunks(chunks: Iterator[bytes | Damage]) -> Iterator[bytes | Damage]:
    """Join chunks to pieces of at least MIN_PIECE_BYTES: enough to detect the encoding, and fast to split."""
    pending: list[bytes] = []
    size = 0
    for chunk in chunks:
        if isinstance(chunk, bytes):
            pending.append(chunk)
            size += len(chunk)
        if pending and (isinstance(chunk, Damage) or size >= MIN_PIECE_BYTES):
            yield b"".join(pending)
            pending, size = [], 0
        if isinstance(chunk, Damage):
            yield chunk
    if pending:
        yield b"".join(pending)


class LineDecoder:
    """Splits one file into lines and decodes them.

    The bytes are split before they are decoded, so that an invalid byte affects its own line only.
    encoding: the detected one; "" as long as the file is ASCII.
    """

    def __init__(self, name: str, params: FileParams) -> None:
        self._name, self._max_bytes = name, params.max_line_bytes
        self.encoding = "" if params.encoding == "auto" else charsets.codec_name(params.encoding)
        self._line_end, self._is_first = b"\n", True
        self._line_number, self._offset = 1, 0
        self._unfinished: list[bytes] = []  # parts of the line whose end has not been read yet
        self._unfinished_bytes = 0
        self._is_blank = True  # whether the file has had nothing but white space so far

    def start_at(self, line: int, offset: int) -> None:
        """Read a file in UTF-8 from a line on that starts at `offset`, without the end of a blank file."""
        self._line_number, self._offset, self.encoding = line, offset, "utf-8"
        self._is_first, self._is_blank = offset == 0, False

    def read(self, pieces: Iterable[bytes | Damage]) -> Iterator[Line | Quarantined]:
        """Yield the lines of one file, and one Quarantined if it has none."""
        for piece in pieces:
            if isinstance(piece, Damage):
                self._is_blank = False
                yield Quarantined(self._name, piece.reason, piece.detail, self._line_number, piece.offset)
                self._discard_unfinished(piece.offset)
                continue
            for content in self._split(self.examine(piece)):
                yield from self._finish_line(content)
        if self._unfinished:
            yield from self._finish_line(b"".join(self._unfinished))
        if self._is_blank:
            yield Quarantined(self._name, "empty_file", "The file contains nothing but white space.", None, 0)

    def examine(self, piece: bytes) -> bytes:
        """Detect the encoding by the next piece of the file. Return it without the byte order mark."""
        if self._is_first:
            piece, self._is_first = self._start(piece), False
        if not self.encoding and (not piece.isascii() or b"\x1b$" in piece):
            self.encoding = encodings.detect_encoding(piece)
        return piece

    def _start(self, piece: bytes) -> bytes:
        """Detect a byte order mark, UTF-16 without one, and the line end of classic Mac OS files (CR)."""
        encoding, length = encodings.detect_byte_order_mark(piece)
        if not self.encoding:
            self.encoding = encoding or encodings.detect_utf16(piece[: encodings.SAMPLE_BYTES])
        line_feed, carriage_return = (
            end.encode(self.encoding if self._code_unit_bytes > 1 else "ascii") for end in "\n\r"
        )
        is_mac = line_feed not in piece and carriage_return in piece.rstrip(carriage_return)
        self._line_end = carriage_return if is_mac else line_feed
        self._offset = length
        return piece[length:]

    @property
    def _code_unit_bytes(self) -> int:
        """Bytes of one code unit: 2 in UTF-16, 4 in UTF-32, otherwise 1."""
        return {"utf-16": 2, "utf-32": 4}.get(self.encoding[:6], 1)

    def _split(self, piece: bytes) -> Iterator[bytes]:
        """Yield the lines that end in `piece` and keep the rest; of a line that is too long only its size is kept."""
        head, *rest = self._split_at_line_ends(piece)
        self._unfinished_bytes += len(head)
        if self._unfinished_bytes <= self._max_bytes:
            self._unfinished.append(head)
        else:
            self._unfinished = [b""]  # _finish_line needs only the size to quarantine the line
        if not rest:
            return
        yield b"".join(self._unfinished)
        self._unfinished = []
        for content in rest[:-1]:
            self._unfinished_bytes = len(content)
            yield content
        self._unfinished, self._unfinished_bytes = [rest[-1]], len(rest[-1])

    def _split_at_line_ends(self, piece: bytes) -> list[bytes]:
        """Split at line ends that are aligned to code units: in UTF-16, the bytes of LF also occur across two units."""
        if self._code_unit_bytes == 1:
            return piece.split(self._line_end)
        first_offset = self._unfinished_bytes % self._code_unit_bytes
        parts: list[bytes] = []
        start = 0
        end = piece.find(self._line_end)
        while end >= 0:
            if (end - start + (first_offset if not parts else 0)) % self._code_unit_bytes:
                end = piece.find(self._line_end, end + 1)
                continue
            parts.append(piece[start:end])
            start = end + self._code_unit_bytes
            end = piece.find(self._line_end, start)
        return [*parts, piece[start:]]

    def _finish_line(self, content: bytes) -> Iterator[Line | Quarantined]:
        location = Location(self._name, self._line_number, self._offset)
        size = self._unfinished_bytes
        self._line_number += 1
        self._offset += size + len(self._line_end)
        try:
            if size > self._max_bytes:
                raise UnusableRecord("too_long", f"The line has {size} bytes; max_line_bytes is {self._max_bytes}.")
            text = self._decode_line(content)
        except UnusableRecord as error:
            self._is_blank = False
            yield location.quarantine(error)
            return
        self._is_blank = self._is_blank and not text.strip()
        if "\r" not in text:
            yield Line(location, text)
            return
        for part in text.split("\r"):  # line ends of classic Mac OS among others
            yield Line(Location(self._name, self._line_number - 1, location.offset), part)
            self._line_number += 1
        self._line_number -= 1

    def _decode_line(self, content: bytes) -> str:
        try:
            text = content.decode(self.encoding or "ascii", charsets.STRICT)
        except UnicodeDecodeError as error:
            if self.encoding in ("utf-8", ""):
                # Python's UTF-8 codec refuses surrogates, which some programs write as three bytes (CESU-8).
                reason = "lone_surrogate" if _SURROGATE.match(content, error.start) else "invalid_utf8"
                raise UnusableRecord(reason, f"The line is not valid UTF-8 at byte {error.start}.") from None
            detail = f"The line is not valid {self.encoding}, the encoding of the file, at byte {error.start}."
            raise UnusableRecord("invalid_encoding", detail) from None
        if self.encoding == "cp932" and (private := _CP932_PRIVATE.search(text)):
            detail = f"The line is not valid cp932, the encoding of the file, at character {private.start()}."
            raise UnusableRecord("invalid_encoding", detail)
        if "\0" in text:
            detail = f"The line contains a NUL character at character {text.index(chr(0))}."
            raise UnusableRecord("nul", detail)
        return text.removesuffix("\r")

    def _discard_unfinished(self, offset: int) -> None:
        self._unfinished, self._unfinished_bytes = [], 0
        self._offset = offset
