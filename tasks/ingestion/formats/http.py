"""HTTP responses as web archives store them: status, header fields, and the body without its transfer encodings."""

import re
import zlib
from dataclasses import dataclass

import zstandard

from tasks.ingestion.decoding import UnusableRecord
from tasks.ingestion.files.decompression import ZSTD_INPUT_BYTES

MAX_HEADER_BYTES = 1 << 16
MAX_ENCODINGS = 3  # of one body; servers state one, rarely two
_HEADER_END = re.compile(rb"\r?\n\r?\n|\r?\n\Z")
_STATUS_LINE = re.compile(rb"HTTP/\d(?:\.\d)?[ \t]+(\d{3})\b")
_CONTINUATION = re.compile(rb"\r?\n[ \t]+")
_CHUNK_LINE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]{0,99}(?:;[^\r\n]{0,999})?\r\n")
_CUT = "The compressed page ends in the middle of its data."
_MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
# How browsers recognize HTML whose type is not stated (WHATWG MIME Sniffing Standard, section 7.1).
_HTML = re.compile(
    rb"[\t\n\f\r ]*+<(?:!--|\?xml|"
    rb"(?:!DOCTYPE HTML|HTML|HEAD|SCRIPT|IFRAME|H1|DIV|FONT|TABLE|A|STYLE|TITLE|B|BODY|BR|P)[ >])",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Response:
    """One response: `status` is "" if the record is a body without a header; fields have lower-case names."""

    status: str
    fields: dict[str, str]
    body: bytes

    @property
    def content_type(self) -> str:
        """The content type without parameters, in lower case; "" if it is not stated."""
        return self.fields.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def charset(self) -> str:
        """The charset that the content type names; "" if it names none."""
        parameters = self.fields.get("content-type", "").partition(";")[2].lower()
        return parameters.partition("charset=")[2].split(";")[0].strip(" \"'")


def parse_response(content: bytes, max_bytes: int, is_truncated: bool) -> Response:
    """Split a response and decode its body. Raises UnusableRecord if it is damaged or larger than `max_bytes`.

    Of a body that is known to be truncated, the part that can be decoded is returned.
    """
    status_line = _STATUS_LINE.match(content)
    if status_line is None:
        return Response("", {}, content)
    end = _HEADER_END.search(content, 0, MAX_HEADER_BYTES)
    if end is None:
        raise UnusableRecord("damaged_page", "The header of the HTTP response has no end.")
    fields = _parse_fields(content[: end.start()])
    body = content[end.end() :]
    if "chunked" in fields.get("transfer-encoding", "").lower():
        body = _join_http_chunks(body, is_truncated)
    encodings = [name.strip().lower() for name in fields.get("content-encoding", "").split(",")]
    for name in reversed(encodings[:MAX_ENCODINGS]):
        body = _decompress(body, name, max_bytes, is_truncated)
    if len(body) > max_bytes:
        raise _too_long(max_bytes)
    return Response(status_line[1].decode(), fields, body)


def is_html(body: bytes) -> bool:
    """Return whether a body whose type is not stated starts as HTML does."""
    return _HTML.match(body) is not None


def _parse_fields(header: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in _CONTINUATION.sub(b" ", header).split(b"\n")[1:]:
        name, _, value = line.partition(b":")
        fields.setdefault(name.strip().lower().decode("latin-1"), value.strip().decode("latin-1"))
    return fields


def _join_http_chunks(body: bytes, is_truncated: bool) -> bytes:
    """Return a body without chunked transfer coding (RFC 9112, 7.1); the same bytes if it does not have the coding."""
    parts: list[bytes] = []
    position = 0
    while match := _CHUNK_LINE.match(body, position):
        size, start = int(match[1], 16), match.end()
        if not size:
            return b"".join(parts)
        parts.append(body[start : start + size])
        position = start + size + 2
        if position > len(body) + 2 and not is_truncated:
            raise UnusableRecord("damaged_page", "The body of the HTTP response ends in the middle of a chunk.")
    if not parts:
        return body
    if body[position:].strip() and not is_truncated:
        raise UnusableRecord("damaged_page", f"A chunk of the HTTP response has no valid size at byte {position}.")
    return b"".join(parts)


def _decompress(body: bytes, name: str, max_bytes: int, is_truncated: bool) -> bytes:
    """Return the decompressed body; the same bytes if they are not compressed, as some crawlers store them."""
    name = name.removeprefix("x-")
    if name in ("", "identity", "none", "chunked", "utf-8") or not body.startswith(_MAGIC.get(name, b"")):
        return body
    if name == "gzip":
        return _inflate(body, 31, max_bytes, is_truncated) or b""
    if name == "zstd":
        return _decompress_zstd(body, max_bytes, is_truncated)
    if name == "deflate":  # zlib by the standard, but some servers send it without the header of zlib
        for window_bits in (15, -15):
            if (content := _inflate(body, window_bits, max_bytes, is_truncated, must_start=False)) is not None:
                return content
        return body
    if body[:1024].lstrip()[:1] == b"<":
        return body
    detail = f"The page is compressed as {name[:20]!r}, which cannot be read. Expected gzip, deflate or zstd."
    raise UnusableRecord("unsupported_encoding", detail, "Content-Encoding")


def _inflate(
    body: bytes, window_bits: int, max_bytes: int, is_truncated: bool, must_start: bool = True
) -> bytes | None:
    """Decompress the body with zlib. Return None if it is not of this kind and `must_start` is false."""
    decompressor = zlib.decompressobj(window_bits)
    parts: list[bytes] = []
    size = 0
    pending = body
    while pending and not decompressor.eof:
        try:
            part = decompressor.decompress(pending, max_bytes + 1 - size)
        except zlib.error as error:
            if not parts and not must_start:
                return None
            if is_truncated:
                break
            raise UnusableRecord("damaged_page", f"The compressed page is damaged: {error}.") from None
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise _too_long(max_bytes)
        pending = decompressor.unconsumed_tail
    if not decompressor.eof and not is_truncated:
        if not must_start and not size:
            return None
        raise UnusableRecord("damaged_page", _CUT)
    return b"".join(parts)


def _decompress_zstd(body: bytes, max_bytes: int, is_truncated: bool) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
    parts: list[bytes] = []
    size = position = 0
    while position < len(body) and not decompressor.eof:
        try:
            part = decompressor.decompress(body[position : position + ZSTD_INPUT_BYTES])
        except zstandard.ZstdError as error:
            if is_truncated:
                break
            raise UnusableRecord("damaged_page", f"The compressed page is damaged: {error}.") from None
        position += ZSTD_INPUT_BYTES
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise _too_long(max_bytes)
    if not decompressor.eof and not is_truncated:
        raise UnusableRecord("damaged_page", _CUT)
    return b"".join(parts)


def _too_long(max_bytes: int) -> UnusableRecord:
    return UnusableRecord("too_long", f"The page has more than max_page_bytes = {max_bytes} bytes.")
