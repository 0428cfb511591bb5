"""Mask personal data: e-mail and IP addresses, telephone numbers, Chinese identity numbers, and payment cards.

A compiled pass over the bytes marks the few spans with an "@", with enough digits (also full-width), or with the start
of an IPv6 address. Patterns and checksums decide there. Personal data is counted, but neither logged nor stored.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, Field

from tasks.curation.arrays import Int64Array
from tasks.curation.privacy.pii_kernels import mark_candidates
from tasks.curation.privacy.pii_patterns import COMPILED, CONTEXT, PII_TYPES, is_valid
from tasks.curation.text.words import Texts, chunks, padded_buffers

_FULL_WIDTH = re.compile(rb"\xef\xbc[\x81-\xbf]|\xef\xbd[\x80-\x9e]")  # full-width ASCII, U+FF01 to U+FF5E
_FULL_WIDTH_OFFSET = 0xFEE0


_FULL_WIDTH_BRACKET = "（".encode()
_AT = re.compile(rb"@|[(\[{][aA][tT][)\]}]")
_BEFORE_AT = re.compile(rb'(?:[\w.%+-]|[\xc3-\xc9][\x80-\xbf])*(?: ?|"[\w .+-]{1,40}")$')

Span = tuple[int, int]
"""(begin, end) in bytes."""

Replacement = tuple[int, int, str]
"""(begin, end, type) of personal data in a text; in bytes."""


class Params(BaseModel, frozen=True, extra="forbid"):
    """Which types of personal data are masked, and by what."""

    masks: dict[str, str] = Field(
        {pii_type: f"<{pii_type}>" for pii_type in PII_TYPES},
        description=f"Replacement by type of personal data ({', '.join(PII_TYPES)}). An empty replacement removes the "
        "data; a type that is not listed is not masked.",
    )
    public_ips_only: bool = Field(True, description="Mask only IP addresses that are reachable on the internet.")

    def model_post_init(self, _: Any) -> None:
        """Raises ValueError for an unknown type."""
        unknown = set(self.masks) - set(PII_TYPES)
        if unknown:
            raise ValueError(f"masks: unknown types {sorted(unknown)}; available: {', '.join(PII_TYPES)}")


def mask(texts: Texts, params: Params) -> tuple[Texts, dict[str, Int64Array]]:
    """Return the texts with personal data replaced, and for each type its number of occurrences per text: int64[n]."""
    counts = {pii_type: np.zeros(len(texts), np.int64) for pii_type in params.masks}
    changed: dict[int, str] = {}
    for row, text, spans in _candidates(texts):
        replacements = list(find_replacements(text, spans, params))
        for _, _, pii_type in replacements:
            counts[pii_type][row] += 1
        if replacements:
            changed[row] = _replace(text, replacements, params)
    if not changed:
        return texts, counts
    is_changed = np.zeros(len(texts), np.bool_)
    is_changed[list(changed)] = True
    return pc.replace_with_mask(texts, pa.array(is_changed), pa.array(list(changed.values()), texts.type)), counts


def mask_column(values: pa.Array, params: Params) -> tuple[pa.Array, Counter[str]]:
    """Return a column of strings, or of lists of messages, masked, and the number of masks of each type.

    Of a message, the content is masked.
    """
    if not pa.types.is_list(values.type):
        masked, counts = mask(values, params)
        return masked, Counter({pii_type: n for pii_type, each in counts.items() if (n := int(each.sum()))})
    messages = values.flatten()  # without what an offset or a null hides
    contents, totals = mask_column(messages.field("content"), params)
    fields = [contents if field.name == "content" else messages.field(field.name) for field in messages.type]
    structs = pa.StructArray.from_arrays(fields, fields=list(messages.type))
    sizes = pc.fill_null(pc.list_value_length(values), 0)
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, structs, type=values.type, mask=pc.is_null(values)), totals


def find_pii(text: str, params: Params) -> list[tuple[str, str]]:
    """Return (type, matched text) of all personal data in one text, for tests and for the explanation of a document."""
    return [
        (pii_type, data[begin:end].decode())
        for _, data, spans in _candidates(pa.array([text], pa.large_string()))
        for begin, end, pii_type in find_replacements(data, spans, params)
    ]


def find_replacements(text: bytes, spans: Iterable[Span], params: Params) -> Iterator[Replacement]:
    """Yield what is to be masked within some spans of a text, ordered by position and without overlaps."""
    position = 0
    for begin, end in spans:
        # A span ends behind its last digit; the patterns look at what follows, such as ".5".
        high = min(end + 2, len(text))
        has_at = _AT.search(text, begin, end) is not None
        low = max(_first_byte(text, begin, has_at), position)
        find = _find_full_width if _FULL_WIDTH.search(text, low, high) else _find
        replacements = list(find(text, low, high, has_at, params))
        if len(replacements) > 1:
            replacements.sort(key=lambda match: (match[0], -match[1]))
        for replacement in replacements:
            if replacement[0] >= position:
                position = replacement[1]
                yield replacement


def _first_byte(text: bytes, begin: int, has_at: bool) -> int:
    """Return where personal data may begin whose marked span begins at `begin`.

    The kernel knows neither letters with accents, nor quotes and spaces before an "@", nor the letters of a passport
    number, nor a full-width bracket.
    """
    if has_at:
        match = _BEFORE_AT.search(text, max(0, begin - CONTEXT), begin)
        return begin if match is None else match.start()
    if text[begin - 3 : begin] == _FULL_WIDTH_BRACKET:
        return begin - 3
    first = begin
    while first > max(0, begin - 2) and text[first - 1 : first].isalpha():
        first -= 1
    return first


def _candidates(texts: Texts) -> Iterator[tuple[int, bytes, list[Span]]]:
    """Yield (row, bytes, spans that may hold personal data) of the texts that have such spans."""
    for start, chunk in chunks(texts):
        for first, data, offsets in padded_buffers(chunk):
            out = np.empty((int(offsets[-1] - offsets[0]) // 2 + 1, 3), np.int64)
            marked = out[: mark_candidates(data, offsets, out)]
            rows, begins = np.unique(marked[:, 0], return_index=True)
            groups = np.split(marked[:, 1:], begins)[1:]
            for row, spans in zip(rows.tolist(), groups, strict=True):
                text = data[offsets[row] : offsets[row + 1]].tobytes()
                yield start + first + row, text, (spans - offsets[row]).tolist()


def _find(text: bytes, low: int, high: int, has_at: bool, params: Params) -> Iterator[Replacement]:
    """Yield all matches between two bytes that pass the check of their type; of a span with "@", only addresses."""
    for name, pii_type, min_bytes, word, pattern in COMPILED:
        if (
            (pii_type == "email") == has_at
            and high - low >= min_bytes
            and pii_type in params.masks
            and (not word or text.find(word, low, high) >= 0)
        ):
            matches = pattern.finditer(text, low, high)
            yield from ((m.start(), m.end(), pii_type) for m in matches if is_valid(name, m, params.public_ips_only))


def _find_full_width(text: bytes, low: int, high: int, has_at: bool, params: Params) -> Iterator[Replacement]:
    """As `_find`, for spans with full-width characters, which are converted to ASCII first."""
    start = max(low - CONTEXT, 0)  # the patterns look at what is before a number
    while start > 0 and text[start] & 0xC0 == 0x80:  # not within a character
        start -= 1
    ascii_text, origins = _to_ascii(text[start:high])
    for begin, end, pii_type in _find(ascii_text, bisect_left(origins, low - start), len(ascii_text), has_at, params):
        yield start + origins[begin], start + origins[end], pii_type


def _to_ascii(text: bytes) -> tuple[bytes, list[int]]:
    """Return `text` with full-width characters as ASCII, the original position of each byte, and at last the end."""
    converted, origins, position = bytearray(), list[int](), 0
    for match in _FULL_WIDTH.finditer(text):
        converted += text[position : match.start()]
        converted.append(ord(match.group().decode()) - _FULL_WIDTH_OFFSET)
        origins += range(position, match.start() + 1)
        position = match.end()
    return bytes(converted + text[position:]), [*origins, *range(position, len(text) + 1)]


def _replace(text: bytes, replacements: list[Replacement], params: Params) -> str:
    parts, position = [], 0
    for begin, end, pii_type in replacements:
        parts += [text[position:begin], params.masks[pii_type].encode()]
        position = end
    return b"".join([*parts, text[position:]]).decode()
