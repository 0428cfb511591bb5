"""Compiled loops that count what a reader is sent to: web addresses, e-mail addresses, telephone numbers."""

from tasks.curation.arrays import Float64Array, UInt16Array, UInt32Array
from tasks.curation.compiled import kernel
from tasks.curation.signals.columns import Column
from tasks.curation.text import characters

LETTER, DIGIT, WORD, SPACE, SINGLE = (
    characters.LETTER,
    characters.DIGIT,
    characters.WORD,
    characters.SPACE,
    characters.SINGLE,
)
MIN_PHONE_DIGITS, MAX_PHONE_DIGITS = 10, 15  # E.164 allows 15; shorter runs are mostly dates and versions
MAX_PHONE_GROUPS = 5


@kernel("boolean(uint32[::1], uint16[::1], int64, int64)")
def is_email(codes: UInt32Array, kinds: UInt16Array, i: int, n: int) -> bool:
    """Whether the "@" at i stands between a word and a domain with a dot in it."""
    if i == 0 or not kinds[i - 1] & WORD or kinds[i - 1] & SINGLE:
        return False
    j = i + 1
    while j < n and (kinds[j] & (WORD | SINGLE) == WORD or codes[j] == 0x2D):
        j += 1
    return i + 1 < j < n - 1 and codes[j] == 0x2E and kinds[j + 1] & (LETTER | SINGLE) == LETTER


@kernel("boolean(int64, int64, int64)")
def is_phone(digits: int, groups: int, triples: int) -> bool:
    """Whether so many digits in so many groups, three in a row so often, are a telephone number."""
    return MIN_PHONE_DIGITS <= digits <= MAX_PHONE_DIGITS and groups <= MAX_PHONE_GROUPS and triples > 0


@kernel("int64(uint32[::1], uint16[::1], int64)")
def count_phones(codes: UInt32Array, kinds: UInt16Array, n: int) -> int:
    """Runs of 10 to 15 digits in at most five groups, one of three or more, with "-", space or brackets between."""
    phones, digits, groups, triples = 0, 0, 0, 0
    for i in range(n):
        if kinds[i] & DIGIT:
            groups += i == 0 or not kinds[i - 1] & DIGIT
            triples += i > 1 and kinds[i - 1] & DIGIT and kinds[i - 2] & DIGIT
            digits += 1
            continue
        if digits == 0:
            continue
        code = codes[i]
        then = codes[i + 1] if i + 1 < n else 0
        separator = code == 0x2D or code == 0x20 or code == 0x28 or code == 0x29
        goes_on = then == 0x28 or (code == 0x29 and (then == 0x20 or then == 0x2D))
        if not (separator and then and (kinds[i + 1] & DIGIT or goes_on)):
            phones += is_phone(digits, groups, triples) and kinds[i] & LETTER == 0
            digits, groups, triples = 0, 0, 0
    return phones + is_phone(digits, groups, triples)


@kernel("void(uint32[::1], uint16[::1], int64, float64[::1])")
def link_signals(codes: UInt32Array, kinds: UInt16Array, n: int, row: Float64Array) -> None:
    """Count "://" and "www." behind neither "/" nor the start, e-mail addresses, and telephone numbers"""
    urls, ats, emails, triples = 0, 0, 0, 0
    for i in range(n - 2):
        urls += (codes[i] == 0x3A) & (codes[i + 1] == 0x2F) & (codes[i + 2] == 0x2F)
        triples += (kinds[i] & kinds[i + 1] & kinds[i + 2] & DIGIT) != 0
    for i in range(n - 4):
        www = ((codes[i + 1] | 0x20) == 0x77) & ((codes[i + 2] | 0x20) == 0x77) & ((codes[i + 3] | 0x20) == 0x77)
        urls += www & (codes[i + 4] == 0x2E) & (codes[i] != 0x2F)
    for i in range(n):
        ats += codes[i] == 0x40
    for i in range(n if ats else 0):
        if codes[i] == 0x40:
            emails += is_email(codes, kinds, i, n)
    row[Column.num_urls], row[Column.num_emails] = urls, emails
    if triples:
        row[Column.num_phones] = count_phones(codes, kinds, n)
