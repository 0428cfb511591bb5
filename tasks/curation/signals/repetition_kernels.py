"""Compiled loops for repeated word n-grams (Gopher, arXiv:2112.11446, table A1), as datatrove counts them.

Two n-grams count as equal if their 64-bit hashes are equal. Of several n-grams that are most frequent, the top n-gram
is the one that occurs first. A duplicate n-gram is one that occurred before; the search continues after its end, so
that no character is counted twice.

The bounds that were published for Chinese refer to words of a dictionary, which have 1.75 characters on average (jieba
on news, reviews and answers). If most words of a text are single characters (Han, Kana), an n-gram therefore has as
many characters as n words of a dictionary: `span(n)`.
"""

import numpy as np

from tasks.compiled import kernel
from tasks.curation.arrays import Float64Array, Int64Array, UInt32Array, UInt64Array
from tasks.curation.signals.columns import Column

BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2^64
INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
MAX_POWER = 1024  # positions for which powers are in a table
PREFIX = 14  # characters; about three words
SINGLE_PREFIX = 9  # as many characters as the shortest duplicate n-gram of single characters has
POWERS = np.array([pow(int(BASE), i, 1 << 64) for i in range(MAX_POWER + 1)], np.uint64)
INVERSES = np.array([pow(int(INVERSE), i, 1 << 64) for i in range(MAX_POWER + 1)], np.uint64)
_MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)
_SHIFT = np.uint64(32)
ONE = np.uint64(1)
SLOT_SHIFT = np.uint64(20)


@kernel("uint64(uint64)", inline="always")
def mix(x: np.uint64) -> np.uint64:
    """Spread the bits of a polynomial hash.

    Without this, the low bits, which choose the slot in a hash table, depend only on the low bits of the characters.
    """
    x ^= x >> _SHIFT
    x *= _MULTIPLIER
    x ^= x >> _SHIFT
    x *= _MULTIPLIER
    return x ^ (x >> _SHIFT)


@kernel("uint64(uint32[::1], int64, int64)")
def polynomial(codes: UInt32Array, start: int, end: int) -> np.uint64:
    """Return the sum of code * BASE**position modulo 2^64 over codes[start:end]; the first has position 0."""
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
    """Clear the beginning of `keys` for a hash table of at most `entries` keys, and return the number of its slots.

    The number is a power of two, and at least twice `entries`, so that searches remain short. Key 0 means a free slot.
    Clearing only what a text needs keeps short texts fast, whatever the size of the scratch memory.
    """
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
    """Return 1.75 * n, rounded: the number of characters in n words of Chinese."""
    return (7 * n + 1) // 4


@kernel(
    "Tuple((int64, int64, int64))(uint64[::1], int64, int64, int64[::1], int64, uint64[::1], int64[::1], int64[::1])"
)
def top_n_gram(
    sums: UInt64Array,
    num_words: int,
    n: int,
    starts: Int64Array,
    num_starts: int,
    keys: UInt64Array,
    counts: Int64Array,
    slots: Int64Array,
) -> tuple[int, int, int]:
    """Return how often the most frequent n-gram occurs, the word with which it begins first, and the new `num_starts`.

    sums: word_sums of `repetition_signals`; starts[:num_starts]: the words with which n-grams begin that may occur
    twice, ascending. Only those that do occur twice remain. keys, counts, slots: scratch memory.
    """
    mask, power = np.uint64(clear_table(keys, num_starts) - 1), ONE
    for _ in range(n):
        power *= BASE
    while num_starts and starts[num_starts - 1] + n > num_words:
        num_starts -= 1
    for s in range(num_starts):
        w = starts[s]
        # The difference of two prefix sums, the first multiplied up to the same power, is the hash of the words w to
        # w + n - 1, wherever they are.
        key = mix(sums[w + n] - sums[w] * power) | ONE
        slot = (key >> SLOT_SHIFT) & mask
        while keys[slot] != 0 and keys[slot] != key:
            slot = (slot + ONE) & mask
        counts[slot] = counts[slot] + 1 if keys[slot] == key else 1
        keys[slot] = key
        slots[s] = slot
    most, first, num_repeated = 0, 0, 0
    for s in range(num_starts):
        count = counts[slots[s]]
        if count > most:
            most, first = count, starts[s]
        starts[num_repeated] = starts[s]
        num_repeated += count > 1
    return most, first, num_repeated


@kernel(
    "int64(uint64[::1], uint64[::1], int64[::1], int64, int64, int64, int64[::1], uint64[::1], int64[::1], int64[::1])"
)
def find_repeat_candidates(
    stream: UInt64Array,
    inverses: UInt64Array,
    chars: Int64Array,
    num_words: int,
    min_words: int,
    prefix: int,
    starts: Int64Array,
    keys: UInt64Array,
    counts: Int64Array,
    slots: Int64Array,
) -> int:
    """Write to `starts` the words, ascending, with which a repeated n-gram of `min_words` or more words may begin.

    Returns their number. It is the filter that makes `duplicate_n_gram_chars` fast: two n-grams that are equal without
    spaces have the same first `prefix` characters, wherever the words in them end. A word whose next `prefix`
    characters occur only once in the text cannot begin a repeated n-gram. It stays if its n-gram is shorter than that.
    stream, inverses, chars: as `split_words` writes them; keys, counts, slots: scratch memory.
    """
    mask, end = np.uint64(clear_table(keys, num_words) - 1), chars[num_words]
    for w in range(num_words - min_words + 1):
        start = chars[w]
        if start + prefix > end:
            slots[w] = -1
            continue
        key = mix((stream[start + prefix] - stream[start]) * inverses[w]) | ONE
        slot = (key >> SLOT_SHIFT) & mask
        while keys[slot] != 0 and keys[slot] != key:
            slot = (slot + ONE) & mask
        counts[slot] = counts[slot] + 1 if keys[slot] == key else 1
        keys[slot] = key
        slots[w] = slot
    num_starts = 0
    for w in range(num_words - min_words + 1):
        starts[num_starts] = w
        num_starts += slots[w] < 0 or counts[slots[w]] > 1 or chars[w + min_words] - chars[w] < prefix
    return num_starts


@kernel("int64(uint64[::1], uint64[::1], int64[::1], int64, int64, int64[::1], int64, uint64[::1])")
def duplicate_n_gram_chars(
    sums: UInt64Array,
    inverses: UInt64Array,
    chars: Int64Array,
    num_words: int,
    n: int,
    starts: Int64Array,
    num_starts: int,
    keys: UInt64Array,
) -> int:
    """Return the number of characters in n-grams that occurred before, where words are joined without spaces.

    starts[:num_starts]: of `find_repeat_candidates`.
    """
    mask = np.uint64(clear_table(keys, num_starts) - 1)
    num_chars, next_word = 0, 0
    for s in range(num_starts):
        w = starts[s]
        if w < next_word:  # inside the last duplicate n-gram
            continue
        if w + n > num_words:
            break
        key = mix((sums[w + n] - sums[w]) * inverses[w]) | ONE
        if not insert_if_new(key, keys, mask):
            num_chars += chars[w + n] - chars[w]
            next_word = w + n
    return num_chars


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
    starts: Int64Array,
    slots: Int64Array,
    row: Float64Array,
) -> None:
    """Write the twelve n-gram ratios.

    sums, stream, inverses, chars: as `split_words` writes them; single: whether most words are single characters; the
    other arrays are scratch memory.
    """
    # Top n-grams are compared word by word: word_sums[w] is a polynomial of the hashes of the words before w. Duplicate
    # n-grams are compared without spaces, as datatrove does: "ab c" equals "a bc". They use the sums of characters.
    word_sums[0] = 0
    for w in range(num_words):
        word_sums[w + 1] = word_sums[w] * BASE + mix((sums[w + 1] - sums[w]) * inverses[w])
        starts[w] = w
    num_starts = num_words
    for n in range(2, 5):
        size = span(n) if single else n
        if num_words < size:
            return
        # An n-gram occurs twice only where the shorter one with which it begins does. So `starts` shrinks as n grows,
        # and when it is empty, every n-gram occurs once, and the first one is the top one.
        most, first = 1, 0
        if num_starts:
            most, first, num_starts = top_n_gram(word_sums, num_words, size, starts, num_starts, keys, counts, slots)
        if num_starts == 0:
            most, first = 1, 0
        # Gopher counts the n - 1 spaces between the words of a top n-gram as characters of it.
        ratio = most * (chars[first + size] - chars[first] + n - 1) / num_chars
        row[Column.top_2_gram_ratio + n - 2] = ratio
        # An n-gram that occurs once is no repetition, but the published rule counts it: in a text of five words, the
        # first 2-gram makes up a third of the characters.
        row[Column.repeated_2_gram_ratio + n - 2] = ratio if most > 1 else 0.0
    min_words, prefix = (span(5), SINGLE_PREFIX) if single else (5, PREFIX)
    num_candidates = find_repeat_candidates(
        stream, inverses, chars, num_words, min_words, prefix, starts, keys, counts, slots
    )
    for n in range(5, 11 if num_candidates else 5):
        size = span(n) if single else n
        repeated_chars = duplicate_n_gram_chars(sums, inverses, chars, num_words, size, starts, num_candidates, keys)
        row[Column.duplicate_5_gram_ratio + n - 5] = repeated_chars / num_chars
