"""Compiled loops for repeated word n-grams (Gopher, arXiv:2112.11446, table A1), as datatrove counts them.

Equality of n-grams is equality of 64-bit hashes. The top n-gram of equally frequent ones is the one that came first; a
duplicate n-gram is one seen before, and the search goes on behind it, so that no character is counted twice.

The bounds that were published for Chinese mean words of a dictionary, which have 1.75 characters in the mean (jieba on
news, reviews and answers). Where most words are single characters (Han, Kana), an n-gram is therefore as many of them
as n words of a dictionary have: `span(n)`.
"""

import numpy as np

from tasks.curation.arrays import Float64Array, Int64Array, UInt32Array, UInt64Array
from tasks.curation.compiled import kernel
from tasks.curation.signals.columns import Column

BASE = np.uint64(0x9E3779B97F4A7C15)
INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
MAX_POWER = 1024
ECHO = 14  # characters; about three words
SINGLE_ECHO = 9  # as many as the shortest duplicate n-gram of single characters has
POWERS = np.array([pow(int(BASE), i, 1 << 64) for i in range(MAX_POWER + 1)], np.uint64)
INVERSES = np.array([pow(int(INVERSE), i, 1 << 64) for i in range(MAX_POWER + 1)], np.uint64)
_MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)
_SHIFT = np.uint64(32)
ONE = np.uint64(1)
SLOT_SHIFT = np.uint64(20)


@kernel("uint64(uint64)", inline="always")
def mix(x: np.uint64) -> np.uint64:
    """Spread the bits of a polynomial hash, whose low bits depend on few characters."""
    x ^= x >> _SHIFT
    x *= _MULTIPLIER
    x ^= x >> _SHIFT
    x *= _MULTIPLIER
    return x ^ (x >> _SHIFT)


@kernel("uint64(uint32[::1], int64, int64)")
def polynomial(codes: UInt32Array, start: int, end: int) -> np.uint64:
    """The sum of code * BASE**position over codes[start:end], the first at position 0."""
    total, power = np.uint64(0), ONE
    while start < end:
        stop = min(end, start + MAX_POWER)
        part = np.uint64(0)
        for i in range(start, stop):
            part += np.uint64(codes[i]) * POWERS[i - start]
        total += part * power
        power *= POWERS[stop - start]
        start = stop
    return total


@kernel("int64(uint64[::1], int64)")
def clear_table(keys: UInt64Array, entries: int) -> int:
    """Clear a table for `entries` keys; the number of its slots, a power of two."""
    size = 4
    while size < 2 * entries:
        size *= 2
    keys[:size] = 0
    return size


@kernel("boolean(uint64, uint64[::1], uint64)")
def insert_if_new(key: np.uint64, keys: UInt64Array, mask: np.uint64) -> bool:
    """Insert `key` unless the table contains it; return whether it was inserted."""
    slot = (key >> SLOT_SHIFT) & mask
    while keys[slot] != 0:
        if keys[slot] == key:
            return False
        slot = (slot + ONE) & mask
    keys[slot] = key
    return True


@kernel("int64(int64)")
def span(n: int) -> int:
    """1.75 * n, rounded: the characters in n words of Chinese."""
    return (7 * n + 1) // 4


@kernel(
    "Tuple((int64, int64, int64))(uint64[::1], int64, int64, int64[::1], int64, uint64[::1], int64[::1], int64[::1])"
)
def top_n_gram(
    sums: UInt64Array,
    num_words: int,
    n: int,
    places: Int64Array,
    num_places: int,
    keys: UInt64Array,
    counts: Int64Array,
    slots: Int64Array,
) -> tuple[int, int, int]:
    """Occurrences of the most frequent n-gram, the word it first begins at, and how many places are left.

    places: where n-grams that may occur twice begin, ascending; left in it are those that do.
    """
    mask, power = np.uint64(clear_table(keys, num_places) - 1), ONE
    for _ in range(n):
        power *= BASE
    while num_places and places[num_places - 1] + n > num_words:
        num_places -= 1
    for p in range(num_places):
        w = places[p]
        key = mix(sums[w + n] - sums[w] * power) | ONE
        slot = (key >> SLOT_SHIFT) & mask
        while keys[slot] != 0 and keys[slot] != key:
            slot = (slot + ONE) & mask
        counts[slot] = counts[slot] + 1 if keys[slot] == key else 1
        keys[slot] = key
        slots[p] = slot
    most, first, left = 0, 0, 0
    for p in range(num_places):
        count = counts[slots[p]]
        if count > most:
            most, first = count, places[p]
        places[left] = places[p]
        left += count > 1
    return most, first, left


@kernel(
    "int64(uint64[::1], uint64[::1], int64[::1], int64, int64, int64, int64[::1], uint64[::1], int64[::1], int64[::1])"
)
def find_echoes(
    stream: UInt64Array,
    inverses: UInt64Array,
    chars: Int64Array,
    num_words: int,
    least: int,
    echo: int,
    places: Int64Array,
    keys: UInt64Array,
    counts: Int64Array,
    slots: Int64Array,
) -> int:
    """Write the words at which a run of `least` words or more seen before may begin, ascending, into places.

    Returns how many they are. Two runs that are equal when written without spaces have their first `echo` characters in
    common, wherever their words are cut. Words of which this is true once only can be left out; those with less to
    compare are kept.
    """
    mask, end = np.uint64(clear_table(keys, num_words) - 1), chars[num_words]
    for w in range(num_words - least + 1):
        start = chars[w]
        if start + echo > end:
            slots[w] = -1
            continue
        key = mix((stream[start + echo] - stream[start]) * inverses[w]) | ONE
        slot = (key >> SLOT_SHIFT) & mask
        while keys[slot] != 0 and keys[slot] != key:
            slot = (slot + ONE) & mask
        counts[slot] = counts[slot] + 1 if keys[slot] == key else 1
        keys[slot] = key
        slots[w] = slot
    found = 0
    for w in range(num_words - least + 1):
        places[found] = w
        found += slots[w] < 0 or counts[slots[w]] > 1 or chars[w + least] - chars[w] < echo
    return found


@kernel("int64(uint64[::1], uint64[::1], int64[::1], int64, int64, int64[::1], int64, uint64[::1])")
def duplicate_n_gram_chars(
    sums: UInt64Array,
    inverses: UInt64Array,
    chars: Int64Array,
    num_words: int,
    n: int,
    places: Int64Array,
    num_places: int,
    keys: UInt64Array,
) -> int:
    """Characters in n-grams seen before, words joined without spaces. places: of `find_echoes`."""
    mask = np.uint64(clear_table(keys, num_places) - 1)
    repeated, behind = 0, 0
    for p in range(num_places):
        w = places[p]
        if w < behind:
            continue
        if w + n > num_words:
            break
        key = mix((sums[w + n] - sums[w]) * inverses[w]) | ONE
        if not insert_if_new(key, keys, mask):
            repeated += chars[w + n] - chars[w]
            behind = w + n
    return repeated


@kernel(
    "void(uint64[::1], uint64[::1], uint64[::1], int64[::1], int64, int64, boolean, uint64[::1], uint64[::1],"
    " int64[::1], int64[::1], int64[::1], float64[::1])"
)
def repetition_signals(
    sums: UInt64Array,
    stream: UInt64Array,
    inverses: UInt64Array,
    chars: Int64Array,
    num_words: int,
    num_chars: int,
    single: bool,
    word_sums: UInt64Array,
    keys: UInt64Array,
    counts: Int64Array,
    places: Int64Array,
    slots: Int64Array,
    row: Float64Array,
) -> None:
    """Write the nine n-gram ratios. An n-gram occurs twice only where the shorter one that it begins with does.

    The characters of a top n-gram include the n - 1 spaces between its words, as Gopher counts. sums, stream, inverses,
    chars: as `split_words` writes them; single: whether most words are single characters; the others are scratch.
    """
    word_sums[0] = 0
    for w in range(num_words):
        word_sums[w + 1] = word_sums[w] * BASE + mix((sums[w + 1] - sums[w]) * inverses[w])
        places[w] = w
    left = num_words
    for n in range(2, 5):
        size = span(n) if single else n
        if num_words < size:
            return
        most, first = 1, 0
        if left:
            most, first, left = top_n_gram(word_sums, num_words, size, places, left, keys, counts, slots)
        if left == 0:
            most, first = 1, 0
        row[Column.top_2_gram_ratio + n - 2] = most * (chars[first + size] - chars[first] + n - 1) / num_chars
    least, echo = (span(5), SINGLE_ECHO) if single else (5, ECHO)
    found = find_echoes(stream, inverses, chars, num_words, least, echo, places, keys, counts, slots)
    for n in range(5, 11 if found else 5):
        size = span(n) if single else n
        repeated = duplicate_n_gram_chars(sums, inverses, chars, num_words, size, places, found, keys)
        row[Column.duplicate_5_gram_ratio + n - 5] = repeated / num_chars
