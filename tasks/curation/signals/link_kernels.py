"""Compiled loops that count web addresses, e-mail addresses and telephone numbers."""

from tasks.compiled import kernel
from tasks.curation.arrays import Float64Array, UInt16Array, UInt32Array
from tasks.curation.signals.columns import Column
from tasks.curation.text import characters

LETTER, DIGIT, WORD, SPACE, SINGLE = (
    characters.LETTER,
    characters.DIGIT,
    characters.WORD,
    characters.SPACE,
    characters.SINGLE,
)
MIN_PHONE_DIGITS, MAX_PHONE_DIGITS = 10, 15  # E.164 allows 15; shorter sequences are mostly dates and versions
MAX_PHONE_GROUPS = 5
# Code points. A kernel cannot call ord().
_SPACE, _OPEN, _CLOSE, _HYPHEN, _DOT, _SLASH = 0x20, 0x28, 0x29, 0x2D, 0x2E, 0x2F
_COLON, _AT, _W = 0x3A, 0x40, 0x77
_LOWER = 0x20  # the bit that changes an ASCII letter to lower case


@kernel("boolean(uint32[::1], uint16[::1], int64, int64)")
def is_email(codes: UInt32Array, classes: UInt16Array, i: int, n: int) -> bool:
    """Return whether the "@" at i is between a word and a domain that contains a dot.

    Han and Kana do not count as words here, because an address is often written directly after Chinese text.
    """
    if i == 0 or not classes[i - 1] & WORD or classes[i - 1] & SINGLE:
        return False
    j = i + 1
    while j < n and (classes[j] & (WORD | SINGLE) == WORD or codes[j] == _HYPHEN):
        j += 1
    return i + 1 < j < n - 1 and codes[j] == _DOT and classes[j + 1] & (LETTER | SINGLE) == LETTER


@kernel("boolean(int64, int64, int64)")
def is_phone(digits: int, groups: int, triples: int) -> bool:
    """Return whether a sequence with so many digits and groups of digits is a telephone number.

    triples: the number of places with three digits in a row. A sequence without any is a list of small numbers.
    """
    return MIN_PHONE_DIGITS <= digits <= MAX_PHONE_DIGITS and groups <= MAX_PHONE_GROUPS and triples > 0


@kernel("int64(uint32[::1], uint16[::1], int64)")
def count_phones(codes: UInt32Array, classes: UInt16Array, n: int) -> int:
    """Count sequences of digits, separated by "-", space or brackets, that `is_phone` accepts."""
    phones, digits, groups, triples = 0, 0, 0, 0
    for i in range(n):
        if classes[i] & DIGIT:
            groups += i == 0 or not classes[i - 1] & DIGIT
            triples += i > 1 and classes[i - 1] & DIGIT and classes[i - 2] & DIGIT
            digits += 1
            continue
        if digits == 0:
            continue
        # A sequence continues after one separator and a digit, or after two: "555) 123", "555)-123", "1 (555".
        code = codes[i]
        next_code = codes[i + 1] if i + 1 < n else 0
        is_separator = (code == _HYPHEN) | (code == _SPACE) | (code == _OPEN) | (code == _CLOSE)
        is_pair = (next_code == _OPEN) | ((code == _CLOSE) & ((next_code == _SPACE) | (next_code == _HYPHEN)))
        if not (is_separator and next_code and (classes[i + 1] & DIGIT or is_pair)):
            # A letter directly after the digits makes the sequence part of an identifier.
            phones += is_phone(digits, groups, triples) and classes[i] & LETTER == 0
            digits, groups, triples = 0, 0, 0
    return phones + is_phone(digits, groups, triples)


@kernel("void(uint32[::1], uint16[::1], int64, float64[::1])")
def link_signals(codes: UInt32Array, classes: UInt16Array, n: int, row: Float64Array) -> None:
    """Count web addresses ("://", and "www." that is neither at the start nor after "/"), e-mail addresses, phones."""
    # The first loops have no branch, so that the compiler turns them into vector instructions. They decide whether the
    # slow loops run at all, which most texts do not need. Hence `&` instead of `and`.
    urls, ats, emails, triples = 0, 0, 0, 0
    for i in range(n - 2):
        urls += (codes[i] == _COLON) & (codes[i + 1] == _SLASH) & (codes[i + 2] == _SLASH)
        triples += (classes[i] & classes[i + 1] & classes[i + 2] & DIGIT) != 0
    for i in range(n - 4):
        is_www = ((codes[i + 1] | _LOWER) == _W) & ((codes[i + 2] | _LOWER) == _W) & ((codes[i + 3] | _LOWER) == _W)
        urls += is_www & (codes[i + 4] == _DOT) & (codes[i] != _SLASH)
    for i in range(n):
        ats += codes[i] == _AT
    for i in range(n if ats else 0):
        if codes[i] == _AT:
            emails += is_email(codes, classes, i, n)
    row[Column.num_urls], row[Column.num_emails] = urls, emails
    if triples:
        row[Column.num_phones] = count_phones(codes, classes, n)
