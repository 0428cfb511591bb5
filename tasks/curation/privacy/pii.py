"""Mask personal data: e-mail and IP addresses, telephone numbers, Chinese identity numbers, and payment cards.

A compiled pass over the bytes marks the few spans with an "@", with enough digits (also full-width), or with the start
of an IPv6 address. Patterns and checksums decide there. Personal data is counted, but neither logged nor stored.
"""

import datetime
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, Field

from tasks.curation.arrays import Int64Array
from tasks.curation.privacy.pii_kernels import mark_candidates
from tasks.curation.text.words import Texts, chunks, padded_buffers

PII_TYPES = ("email", "ip", "phone", "mobile", "identity", "card")

_IDENTITY_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_IDENTITY_CHECKS = "10X98765432"  # GB 11643-1999, as ISO 7064 mod 11-2

# Prefixes of card numbers, and the lengths that numbers with these prefixes have.
_ISSUERS = {
    "3[47]": (15,),
    "3[0689]": (14,),
    "35|6[0-9]": (16, 17, 18, 19),  # JCB; UnionPay, Discover, Maestro
    "4": (13, 16, 19),
    "5[1-5]|2[2-7]": (16,),
}

# Patterns match bytes, so that \w and \d are ASCII only and Chinese characters may adjoin a number. Of matches that
# begin at the same byte the longest wins, then the first of this table.
_START, _END = rb"(?<![\w.])", rb"(?!\w|\.\d)"
_BYTE = rb"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_IPV6 = rb"(?<![\w.:])[23fF][\dA-Fa-f]{3}(?::[\dA-Fa-f]{0,4}){2,7}(?:(?<=[\dA-Fa-f])|(?<=::))(?!\w|:\w)"
_PATTERNS = {
    "email": rb"(?<![\w.%+-])[A-Za-z0-9][\w.%+-]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,24}(?![\w-])",
    "identity": rb"(?<!\w)[1-9]\d{16}[\dXx](?!\w)",
    "card": _START + rb"(?:\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{5}|\d{13,19})" + _END,
    "mobile": _START + rb"(?:(?:\+|00)?86[ -]?)?1[3-9]\d([ -]?)\d{4}\1\d{4}" + _END,
    "ip": _START + _BYTE + rb"(?:\." + _BYTE + rb"){3}" + _END + rb"|" + _IPV6,
    "phone": _START
    + rb"(?:\+\d{1,3}(?:[ .-]?(?:\(\d{1,4}\)|\d{1,4})){2,5}"  # with a country code
    + rb"|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[ .-]\d{4}"  # North America
    + rb"|(?:\(0\d{2,3}\) ?|0\d{2,3}[- ])\d{7,8}|[48]00-\d{3,4}-\d{3,4}"  # China
    + rb"|0\d{2,4} \d{3,4} \d{3,4})"  # elsewhere, with a trunk prefix
    + _END,
}


_FULL_WIDTH = re.compile(rb"\xef\xbc[\x81-\xbf]|\xef\xbd[\x80-\x9e]")  # full-width ASCII, U+FF01 to U+FF5E
_FULL_WIDTH_OFFSET = 0xFEE0


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
        low, high = max(begin, position), min(end + 2, len(text))
        find = _find_full_width if _FULL_WIDTH.search(text, low, high) else _find
        for replacement in sorted(find(text, low, high, params), key=lambda match: (match[0], -match[1])):
            if replacement[0] >= position:
                position = replacement[1]
                yield replacement


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


def _find(text: bytes, low: int, high: int, params: Params) -> Iterator[Replacement]:
    """Yield all matches between two bytes that pass the check of their type."""
    for pii_type, pattern in _COMPILED.items():
        if pii_type in params.masks:
            matches = pattern.finditer(text, low, high)
            yield from ((m.start(), m.end(), pii_type) for m in matches if _is_valid(pii_type, m.group(), params))


def _find_full_width(text: bytes, low: int, high: int, params: Params) -> Iterator[Replacement]:
    """As `_find`, for spans with full-width characters, which are converted to ASCII first."""
    start = max(low - 1, 0)  # the patterns look at the byte before a number
    ascii_text, origins = _to_ascii(text[start:high])
    for begin, end, pii_type in _find(ascii_text, low - start, len(ascii_text), params):
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


def _is_valid(pii_type: str, match: bytes, params: Params) -> bool:
    """Whether a match passes the check of its type: range, checksum or number of digits."""
    if pii_type == "ip":
        return _is_address(match.decode(), params.public_ips_only)
    check = _CHECKS.get(pii_type)
    return check is None or check(re.sub(rb"[^0-9Xx]", b"", match).decode())


def _is_address(text: str, public_only: bool) -> bool:
    try:
        return ipaddress.ip_address(text).is_global or not public_only
    except ValueError:
        return False


def is_identity_number(number: str) -> bool:
    """Whether 18 digits (the last may be X) are a Chinese identity number: a date of birth and the check digit."""
    total = sum(int(digit) * weight for digit, weight in zip(number, _IDENTITY_WEIGHTS, strict=False))
    try:
        birth = datetime.date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    return 1850 <= birth.year <= 2100 and number[17].upper() == _IDENTITY_CHECKS[total % 11]


def is_card_number(number: str) -> bool:
    """Whether digits are a payment card number: a known issuer, its length, and Luhn's check digit (ISO/IEC 7812)."""
    digits = [int(digit) for digit in reversed(number)]
    # Every second digit from the right counts double; of a product with two digits, their sum counts.
    total = sum(digits[0::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    is_issued = any(re.match(issuer, number) and len(number) in lengths for issuer, lengths in _ISSUERS.items())
    return is_issued and len(set(number)) > 1 and total % 10 == 0


def _is_phone_number(number: str) -> bool:
    """Whether the number of digits is possible (at most 15, ITU-T E.164), and not nearly all digits are equal."""
    return 7 <= len(number) <= 15 and len(set(number)) > 2


_CHECKS: dict[str, Callable[[str], bool]] = {
    "identity": is_identity_number,
    "card": is_card_number,
    "phone": _is_phone_number,
}
_COMPILED = {pii_type: re.compile(pattern) for pii_type, pattern in _PATTERNS.items()}
