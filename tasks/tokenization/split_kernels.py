"""Kernels that split UTF-8 text into the matches of a pattern, by the rules of `patterns.Rules`.

Each kernel returns the byte after the match that starts at byte i, as the regular expression would: alternatives are
tried in order, and repetitions are greedy. The bytes data[i:end] must be valid UTF-8.
"""

import numpy as np

from tasks.compiled import kernel
from tasks.tokenization import patterns
from tasks.tokenization.patterns import Int64Array, Integer, UInt8Array

# Types of arrays in the signatures of kernels, in numba's notation. Arrow's buffers are read-only.
BYTES = "Array(uint8, 1, 'C', readonly=True)"
TABLE = "uint8[::1]"
RULES = "int64[::1]"
MAX_NUMBERS, MAX_RUN, CONTRACTIONS, NUMBER_HAS_SPACE, LINE_ENDS = range(5)  # places in the array of rules

_NUMBER, _HAN, _LETTER, _PREFIX, _PUNCTUATION, _SPACE, _LINE_END = (
    np.int64(bit)
    for bit in (
        patterns.NUMBER, patterns.HAN, patterns.LETTER, patterns.PREFIX, patterns.PUNCTUATION, patterns.SPACE,
        patterns.LINE_END,
    )
)  # fmt: skip
_BLANK, _APOSTROPHE, _LINE_FEED, _CARRIAGE_RETURN = ord(" "), ord("'"), ord("\n"), ord("\r")


@kernel(f"UniTuple(int64, 2)({BYTES}, int64, int64, {TABLE})", inline="always")
def character_at(data: UInt8Array, i: Integer, end: Integer, table: UInt8Array) -> tuple[Integer, Integer]:
    """Return the class bits of the character at byte i and the byte after it; (0, i) at the end of the text."""
    if i >= end:
        return np.int64(0), i
    first = np.int64(data[i])
    if first < 0x80:
        return np.int64(table[first]), i + 1
    second = np.int64(data[i + 1]) & 0x3F
    if first < 0xE0:
        return np.int64(table[(first & 0x1F) << 6 | second]), i + 2
    third = np.int64(data[i + 2]) & 0x3F
    if first < 0xF0:
        return np.int64(table[(first & 0x0F) << 12 | second << 6 | third]), i + 3
    code = (first & 0x07) << 18 | second << 12 | third << 6 | (np.int64(data[i + 3]) & 0x3F)
    return np.int64(table[code]), i + 4


@kernel(f"int64({BYTES}, int64, int64, {TABLE}, int64, int64)")
def run_end(
    data: UInt8Array, i: Integer, end: Integer, table: UInt8Array, bits: Integer, max_characters: Integer
) -> Integer:
    """Return the end of the run of at most `max_characters` characters of the classes `bits`."""
    while max_characters > 0:
        classes, after = character_at(data, i, end, table)
        if classes & bits == 0:
            break
        i = after
        max_characters -= 1
    return i


@kernel(f"int64({BYTES}, int64, int64, {TABLE}, {RULES})")
def _punctuation_end(data: UInt8Array, i: Integer, end: Integer, table: UInt8Array, rules: Int64Array) -> Integer:
    """Match punctuation, and the line ends after it if the pattern has them."""
    stop = run_end(data, i, end, table, _PUNCTUATION, rules[MAX_RUN])
    return run_end(data, stop, end, table, _LINE_END, rules[MAX_RUN]) if rules[LINE_ENDS] else stop


@kernel(f"int64({BYTES}, int64, int64, {TABLE}, {RULES})")
def _space_end(data: UInt8Array, i: Integer, end: Integer, table: UInt8Array, rules: Int64Array) -> Integer:
    r"""Match \\s*[\\r\\n]+, or \\s+(?!\\S), or \\s+, where * and + repeat at most rules[MAX_RUN] times."""
    stop = run_end(data, i, end, table, _SPACE, rules[MAX_RUN])
    next_classes, _ = character_at(data, stop, end, table)
    if rules[LINE_ENDS]:
        if next_classes & _LINE_END:  # the run was longer than MAX_RUN
            return run_end(data, stop, end, table, _LINE_END, rules[MAX_RUN])
        for k in range(stop - 1, i - 1, -1):  # back to the last line end
            if data[k] == _LINE_FEED or data[k] == _CARRIAGE_RETURN:
                return k + 1
    if stop >= end or next_classes & _SPACE:
        return stop
    last = stop - 1
    while data[last] & 0xC0 == 0x80:  # the first byte of the last space
        last -= 1
    return last if last > i else stop


@kernel(f"int64({BYTES}, int64, int64, boolean)")
def _contraction_size(data: UInt8Array, i: Integer, end: Integer, any_case: bool) -> Integer:
    """Return the number of bytes of s, t, re, ve, m, ll or d at byte i; 0 for none of them."""
    if i >= end:
        return 0
    case = 0x20 if any_case else 0  # the bit that distinguishes lower from upper case
    first = data[i] | case
    if first == ord("s") or first == ord("t") or first == ord("m") or first == ord("d"):
        return 1
    if i + 1 >= end:
        return 0
    second = data[i + 1] | case
    if second == ord("e") and (first == ord("r") or first == ord("v")):
        return 2
    if any_case and data[i] == 0xC5 and data[i + 1] == 0xBF:  # the long s, whose upper case is S
        return 2
    return 2 if first == ord("l") and second == ord("l") else 0


@kernel(f"int64({BYTES}, int64, int64, {TABLE}, {RULES})")
def match_end(data: UInt8Array, i: Integer, end: Integer, table: UInt8Array, rules: Int64Array) -> Integer:
    """Return the end of the match that starts at byte i < end."""
    classes, after = character_at(data, i, end, table)
    if rules[CONTRACTIONS] and data[i] == _APOSTROPHE:
        size = _contraction_size(data, i + 1, end, rules[CONTRACTIONS] == 2)
        if size:
            return i + 1 + size
    if classes & _NUMBER:
        return run_end(data, i, end, table, _NUMBER, rules[MAX_NUMBERS])
    if classes & _HAN:
        return run_end(data, i, end, table, _HAN, rules[MAX_RUN])
    next_classes, _ = character_at(data, after, end, table)
    if classes & _PREFIX and next_classes & _LETTER:
        return run_end(data, after, end, table, _LETTER, rules[MAX_RUN])
    if classes & _LETTER:
        return run_end(data, i, end, table, _LETTER, rules[MAX_RUN])
    if data[i] == _BLANK:
        if rules[NUMBER_HAS_SPACE] and next_classes & _NUMBER:
            return run_end(data, after, end, table, _NUMBER, rules[MAX_NUMBERS])
        if next_classes & _PUNCTUATION:
            return _punctuation_end(data, after, end, table, rules)
    if classes & _PUNCTUATION:
        return _punctuation_end(data, i, end, table, rules)
    return _space_end(data, i, end, table, rules) if classes & _SPACE else after


@kernel(f"int64({BYTES}, int64[::1], {TABLE}, {RULES}, int64[::1])")
def word_ends(data: UInt8Array, offsets: Int64Array, table: UInt8Array, rules: Int64Array, ends: Int64Array) -> int:
    """Write the end of each match in the texts to `ends`, which has one entry per byte; return their number."""
    count = 0
    for text in range(len(offsets) - 1):
        i = offsets[text]
        while i < offsets[text + 1]:
            i = match_end(data, i, offsets[text + 1], table, rules)
            ends[count] = i
            count += 1
    return count
