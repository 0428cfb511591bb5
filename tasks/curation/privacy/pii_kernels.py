"""Compiled loops that mark the few spans of a text that may hold personal data, for the patterns of pii.py.

They may mark too much, but never too little. They read single bytes of UTF-8, in which every byte of a character beyond
ASCII is at least 0x80.
"""

import numpy as np

from tasks.compiled import kernel
from tasks.curation.arrays import Int64Array, UInt8Array
from tasks.curation.text.words import BYTES, OFFSETS, load64

# Numba reads constants of a module as constants. `byte | LOWER_CASE` turns ASCII capitals into small letters.
LOWER_CASE = 0x20
AT, COLON, PERCENT, PLUS, HYPHEN, DOT, UNDERSCORE = (ord(character) for character in "@:%+-._")
SPACE, OPEN_BRACKET, CLOSE_BRACKET, QUOTE = (ord(character) for character in ' ()"')
CLOSE_SQUARE, OPEN_BRACE, CLOSE_BRACE = (ord(character) for character in "]{}")
SMALL_T, LETTERS_BEYOND_ASCII = ord("t"), 0xC3
MAX_DOMAIN = 64  # bytes after "(at)", or after the "@" before a domain in another script
ZERO, NINE, SMALL_A, SMALL_F, SMALL_X, SMALL_Z = (ord(character) for character in "09afxz")

# Full-width ASCII has 3 bytes. U+FF01 to U+FF3F ("!" to "_") are EF BC 81 to EF BC BF.
FULL_WIDTH_0, FULL_WIDTH_1, FULL_WIDTH_OFFSET = 0xEF, 0xBC, 0x60
FULL_WIDTH_ZERO, FULL_WIDTH_NINE = 0x90, 0x99  # their third bytes

MAX_GAP = 3  # this many separators in a row end a number
MIN_DIGITS = 7  # of the shortest telephone number
MIN_ADDRESS_DOTS, MIN_ADDRESS_DIGITS = 3, 4  # of an IPv4 address, such as 1.1.1.1
IDENTITY_DIGITS = 17  # of a Chinese identity number, before its check digit, which may be an X
MIN_ADDRESS_COLONS = 2  # of an IPv6 address

# Words before accounts and addresses, as `load64` reads their first bytes.
_FIVE_BYTES, _SIX_BYTES = np.uint64((1 << 40) - 1), np.uint64((1 << 48) - 1)
_WECHAT, _WXID, _RESIDENCE, _HOME_ADDRESS = (
    np.uint64(int.from_bytes(word.encode()[:8], "little")) for word in ("微信", "wxid_", "住址", "家庭地址")
)
MIN_ACCOUNT = 6  # bytes
MAX_BEFORE_ACCOUNT, MAX_RESIDENCE = 24, 120  # bytes from the word on
NEW_LINE, SMALL_W, FIRST_OF_HOME, FIRST_OF_RESIDENCE = ord("\n"), ord("w"), 0xE5, 0xE4

# Two bytes at which `mark_candidates` looks further: one test for nearly all bytes of a text.
MAY_BEGIN = np.zeros((256, 256), np.bool_)
MAY_BEGIN[list(b"0123456789@([{+:")] = MAY_BEGIN[FULL_WIDTH_0, FULL_WIDTH_1] = True
for word in ("wxid_", "微信", "住址", "家庭地址"):
    MAY_BEGIN[tuple(word.encode()[:2])] = True


@kernel("boolean(uint8)", inline="always")
def _is_email_byte(byte: np.uint8) -> bool | np.bool_:
    """Whether a byte may be part of an e-mail address beside the "@"."""
    lower = byte | LOWER_CASE
    return SMALL_A <= lower <= SMALL_Z or ZERO <= byte <= NINE or byte in (DOT, HYPHEN, UNDERSCORE, PLUS, PERCENT)


@kernel(f"boolean({BYTES}, int64)", inline="always")
def _is_written_at(data: UInt8Array, i: int) -> bool:
    """Whether "(at)", "[at]" or "{at}" is at i."""
    close = data[i + 3]
    is_at = data[i + 1] | LOWER_CASE == SMALL_A and data[i + 2] | LOWER_CASE == SMALL_T
    return bool(is_at and close in (CLOSE_BRACKET, CLOSE_SQUARE, CLOSE_BRACE))


@kernel(f"Tuple((int64, boolean))({BYTES}, int64, int64)")
def _scan_number(data: UInt8Array, i: int, end: int) -> tuple[int, bool]:
    """Return the end of the last digit of the number at i, and whether the number has enough digits to be examined."""
    j, last, digits, dots, gap = i, i, 0, 0, 0
    while j < end and gap < MAX_GAP:
        byte, size = np.int64(data[j]), 1
        if byte == FULL_WIDTH_0 and data[j + 1] == FULL_WIDTH_1:
            byte, size = np.int64(data[j + 2]) - FULL_WIDTH_OFFSET, 3
        if ZERO <= byte <= NINE:
            digits += 1
            gap = 0
            last = j + size
        elif byte in (SPACE, OPEN_BRACKET, CLOSE_BRACKET, PLUS, HYPHEN, DOT):
            gap += 1
            dots += byte == DOT
        elif (byte | LOWER_CASE) == SMALL_X and digits >= IDENTITY_DIGITS:
            last = j + size
        else:
            break
        j += size
    return last, digits >= MIN_DIGITS or (dots >= MIN_ADDRESS_DOTS and digits >= MIN_ADDRESS_DIGITS)


@kernel("boolean(uint8)", inline="always")
def _is_hex_digit(byte: np.uint8) -> np.bool_:
    return ZERO <= byte <= NINE or SMALL_A <= byte | LOWER_CASE <= SMALL_F


@kernel(f"int64({BYTES}, int64, int64, int64)")
def _ipv6_end(data: UInt8Array, i: int, first: int, end: int) -> int:
    """Return the end of a possible IPv6 address whose first ":" is at i; i if there is none.

    first, end: the text in `data`. The patterns accept addresses that begin with 4 hexadecimal digits, of which the
    first is 2 or 3 (global unicast) or F (local and multicast).
    """
    start = i
    while start > first and start > i - 5 and _is_hex_digit(data[start - 1]):
        start -= 1
    first_digit = data[start]
    if i - start != 4 or not (first_digit == 0x32 or first_digit == 0x33 or first_digit | LOWER_CASE == SMALL_F):
        return i
    j, colons = i, 0
    while j < end and (_is_hex_digit(data[j]) or data[j] == COLON):
        colons += data[j] == COLON
        j += 1
    return j if colons >= MIN_ADDRESS_COLONS else i


@kernel(f"int64({BYTES}, int64, int64)")
def _labeled_end(data: UInt8Array, i: int, end: int) -> int:
    """Return the end of a possible account or address whose word begins at i; i if there is no such word.

    The span contains no "@" and no line break, so that other patterns can be searched in it.
    """
    word, j = load64(data, i), i
    if word & _SIX_BYTES == _WECHAT or word & _FIVE_BYTES == _WXID:
        while j < min(end, i + MAX_BEFORE_ACCOUNT) and not _is_email_byte(data[j]):
            j += 1
        account = j
        while j < end and _is_email_byte(data[j]):
            j += 1
        return i if j < account + MIN_ACCOUNT or (j < end and data[j] == AT) else j
    if word & _SIX_BYTES != _RESIDENCE and word != _HOME_ADDRESS:
        return i
    stop = min(end, i + MAX_RESIDENCE)
    while j < stop and data[j] != AT and data[j] != NEW_LINE:
        j += 1
    while j > i and j < end and data[j] & 0xC0 == 0x80:  # not within a character
        j -= 1
    if j < end and data[j] == AT:  # the "@" marks its own address
        while j > i and _is_email_byte(data[j - 1]):
            j -= 1
    return j


@kernel(f"int64({BYTES}, {OFFSETS}, int64[:, ::1])")
def mark_candidates(data: UInt8Array, offsets: Int64Array, out: Int64Array) -> int:
    """Write (row, begin, end) of each span that may hold personal data to `out`, ordered; return their number.

    Begin and end are bytes of `data`. A span surrounds an "@", has many digits, follows a word such as "住址", or
    may be an IPv6 address. It has at least two bytes, so that half as many rows in `out` as there are bytes are enough.
    """
    num_spans = 0
    for row in range(len(offsets) - 1):
        i, end = offsets[row], offsets[row + 1]
        while i < end:
            byte = data[i]
            if not MAY_BEGIN[byte, data[i + 1]]:
                i += 1
                continue
            begin = stop = i
            if byte == AT:
                while begin > offsets[row] and _is_email_byte(data[begin - 1]):
                    begin -= 1
                stop = i + 1
                while stop < end and _is_email_byte(data[stop]):
                    stop += 1
                # An address has at least one byte before the "@" and three behind it, such as "b.c".
                if stop == i + 1 and begin < i and stop < end and data[stop] >= LETTERS_BEYOND_ASCII:
                    i, stop = stop, min(end, stop + MAX_DOMAIN)  # a domain in another script, or no address
                elif begin == i and i > offsets[row] and data[i - 1] == QUOTE:
                    i = stop  # a quoted local part
                else:
                    i, stop = stop, stop if begin < i and stop > i + 3 else begin
            elif byte == OPEN_BRACKET and _is_written_at(data, i):
                i, stop = i + 4, min(end, i + MAX_DOMAIN)
            elif ZERO <= byte <= NINE or byte in (PLUS, OPEN_BRACKET):
                last, is_long_enough = _scan_number(data, i, end)
                # Digits before an "@" belong to an e-mail address, which the "@" marks.
                if is_long_enough and not (last < end and data[last] == AT):
                    stop = last
                i = max(last, i + 1)
            elif (
                byte == FULL_WIDTH_0
                and data[i + 1] == FULL_WIDTH_1
                and FULL_WIDTH_ZERO <= data[i + 2] <= FULL_WIDTH_NINE
            ):
                last, is_long_enough = _scan_number(data, i, end)
                stop, i = last if is_long_enough else begin, last
            elif byte == COLON:
                stop = _ipv6_end(data, i, offsets[row], end)
                begin, i = (i - 4, stop) if stop > i else (stop, i + 1)
            elif byte | LOWER_CASE == OPEN_BRACE and _is_written_at(data, i):  # a square bracket, or a brace
                i, stop = i + 4, min(end, i + MAX_DOMAIN)
            elif byte in (SMALL_W, FIRST_OF_HOME, FIRST_OF_RESIDENCE):
                stop = _labeled_end(data, i, end)
                i = max(stop, i + 1)
            else:
                i += 1
            if stop > begin:
                out[num_spans, 0], out[num_spans, 1], out[num_spans, 2] = row, begin, stop
                num_spans += 1
    return num_spans
