"""Mask what identifies a person: e-mail and IP addresses, telephone numbers, Chinese identity numbers, bank cards.

A compiled pass over the bytes marks the few places with an "@", enough digits (full-width ones too) or what begins like
an IPv6 address; patterns and checksums decide there. What was found is counted, and neither logged nor kept.
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
from tasks.curation.privacy.pii_kernels import mark
from tasks.curation.text.words import Texts, chunks, pieces

KINDS = ("email", "ip", "phone", "mobile", "identity", "card")

_IDENTITY_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_IDENTITY_CHECKS = "10X98765432"  # GB 11643-1999, as ISO 7064 mod 11-2

_ISSUERS = {
    "3[47]": (15,),
    "3[0689]": (14,),
    "35|6[0-9]": (16, 17, 18, 19),  # JCB; UnionPay, Discover, Maestro
    "4": (13, 16, 19),
    "5[1-5]|2[2-7]": (16,),
}

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


_WIDE = re.compile(rb"\xef\xbc[\x81-\xbf]|\xef\xbd[\x80-\x9e]")  # full-width ASCII, U+FF01 to U+FF5E
_WIDE_OFFSET = 0xFEE0


class Params(BaseModel, frozen=True, extra="forbid"):
    """The words that take the place of what is masked ("" removes it); a kind that is left out is left in the text."""

    masks: dict[str, str] = Field({kind: f"<{kind}>" for kind in KINDS})
    public_ips_only: bool = True

    def model_post_init(self, _: Any) -> None:
        """Raises ValueError for a kind that there is not."""
        unknown = set(self.masks) - set(KINDS)
        if unknown:
            raise ValueError(f"masks: {sorted(unknown)} unknown; there are {', '.join(KINDS)}")


def mask(texts: Texts, params: Params) -> tuple[Texts, dict[str, Int64Array]]:
    """The texts with what was found replaced, and for each kind how often it was in each text."""
    counts = {kind: np.zeros(len(texts), np.int64) for kind in params.masks}
    changed: dict[int, str] = {}
    for row, text, places in _candidates(texts):
        found = list(edits(text, places, params))
        for _, _, kind in found:
            counts[kind][row] += 1
        if found:
            changed[row] = _replaced(text, found, params)
    if not changed:
        return texts, counts
    where = np.zeros(len(texts), np.bool_)
    where[list(changed)] = True
    return pc.replace_with_mask(texts, pa.array(where), pa.array(list(changed.values()), texts.type)), counts


def find(text: str, params: Params) -> list[tuple[str, str]]:
    """(kind, what was found) in one text: for tests and for looking at a document's own verdict."""
    return [
        (kind, data[begin:end].decode())
        for _, data, places in _candidates(pa.array([text], pa.large_string()))
        for begin, end, kind in edits(data, places, params)
    ]


def _candidates(texts: Texts) -> Iterator[tuple[int, bytes, list[tuple[int, int]]]]:
    """(row, bytes, places worth a look) of the texts that have such places."""
    for start, some in chunks(texts):
        for first, data, offsets in pieces(some):
            out = np.empty((int(offsets[-1] - offsets[0]) // 2 + 1, 3), np.int64)
            found = out[: mark(data, offsets, out)]
            rows, begins = np.unique(found[:, 0], return_index=True)
            groups = np.split(found[:, 1:], begins)[1:]
            for row, places in zip(rows.tolist(), groups, strict=True):
                text = data[offsets[row] : offsets[row + 1]].tobytes()
                yield start + first + row, text, (places - offsets[row]).tolist()


def edits(text: bytes, places: Iterable[tuple[int, int]], params: Params) -> Iterator[tuple[int, int, str]]:
    """(begin, end, kind) of what is to be masked, from left to right."""
    done = 0
    for begin, end in places:
        low, high = max(begin, done), min(end + 2, len(text))
        find = _found_wide if _WIDE.search(text, low, high) else _found
        for edit in sorted(find(text, low, high, params), key=lambda edit: (edit[0], -edit[1])):
            if edit[0] >= done:
                done = edit[1]
                yield edit


def _found(text: bytes, low: int, high: int, params: Params) -> Iterator[tuple[int, int, str]]:
    for kind, pattern in _COMPILED.items():
        if kind in params.masks:
            matches = pattern.finditer(text, low, high)
            yield from ((m.start(), m.end(), kind) for m in matches if _holds(kind, m.group(), params))


def _found_wide(text: bytes, low: int, high: int, params: Params) -> Iterator[tuple[int, int, str]]:
    """As `_found`, with full-width ASCII read as plain."""
    start = max(low - 1, 0)  # what stands before a number matters
    plain, places = _plain(text[start:high])
    for begin, end, kind in _found(plain, low - start, len(plain), params):
        yield start + places[begin], start + places[end], kind


def _plain(text: bytes) -> tuple[bytes, list[int]]:
    """`text` with full-width ASCII made plain; where each of its bytes stood before, and at last the end."""
    made, places, done = bytearray(), list[int](), 0
    for wide in _WIDE.finditer(text):
        made += text[done : wide.start()]
        made.append(ord(wide.group().decode()) - _WIDE_OFFSET)
        places += range(done, wide.start() + 1)
        done = wide.end()
    return bytes(made + text[done:]), [*places, *range(done, len(text) + 1)]


def _replaced(text: bytes, found: list[tuple[int, int, str]], params: Params) -> str:
    parts, done = [], 0
    for begin, end, kind in found:
        parts += [text[done:begin], params.masks[kind].encode()]
        done = end
    return b"".join([*parts, text[done:]]).decode()


def _holds(kind: str, found: bytes, params: Params) -> bool:
    if kind == "ip":
        return _is_address(found.decode(), params.public_ips_only)
    check = _CHECKS.get(kind)
    return check is None or check(re.sub(rb"[^0-9Xx]", b"", found).decode())


def _is_address(text: str, public: bool) -> bool:
    try:
        return ipaddress.ip_address(text).is_global or not public
    except ValueError:
        return False


def valid_identity(number: str) -> bool:
    """Whether 18 digits (the last may be X) are a Chinese identity number: a date of birth and the check digit."""
    total = sum(int(digit) * weight for digit, weight in zip(number, _IDENTITY_WEIGHTS, strict=False))
    try:
        born = datetime.date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    return 1850 <= born.year <= 2100 and number[17].upper() == _IDENTITY_CHECKS[total % 11]


def valid_card(number: str) -> bool:
    """Whether digits are a payment card's: a known issuer, its length, and Luhn's check digit (ISO/IEC 7812)."""
    digits = [int(digit) for digit in reversed(number)]
    total = sum(digits[0::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    issued = any(re.match(issuer, number) and len(number) in lengths for issuer, lengths in _ISSUERS.items())
    return issued and len(set(number)) > 1 and total % 10 == 0


def _valid_phone(number: str) -> bool:
    return 7 <= len(number) <= 15 and len(set(number)) > 2


_CHECKS: dict[str, Callable[[str], bool]] = {
    "identity": valid_identity,
    "card": valid_card,
    "phone": _valid_phone,
}
_COMPILED = {kind: re.compile(pattern) for kind, pattern in _PATTERNS.items()}
