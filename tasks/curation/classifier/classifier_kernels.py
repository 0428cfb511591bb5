"""Compiled loops of the classifier: texts to hashed n-grams, their weights, scores, and training.

Digits count as "0" and runs of space as one; characters keep their case, words lose it. The upper half of the feature
numbers belongs to words, the lower to characters; each half is a block, scaled to length 1 by itself.
"""

import math
from functools import cache

import numpy as np

from tasks.curation.arrays import (
    Float32Array,
    Float64Array,
    Int16Array,
    Int64Array,
    UInt8Array,
    UInt16Array,
    UInt32Array,
    UInt64Array,
)
from tasks.curation.compiled import kernel
from tasks.curation.signals.repetition_kernels import BASE, ONE, mix
from tasks.curation.signals.signal_kernels import decode, split_words
from tasks.curation.text import characters

SPACE, DIGIT, TABLE_SIZE = characters.SPACE, characters.DIGIT, characters.TABLE_SIZE
MAX_GRAM = 4
FOLD = np.uint64(29)
COUNT_BITS, COUNT = np.uint64(16), np.uint64(0xFFFF)
MAX_LOG = np.uint64(255)
LOGS = np.array([0.0, *(1 + math.log(count) for count in range(1, 256))])  # more often counts no more
READ_BYTES, READ_OFFSETS = "Array(uint8, 1, 'C', readonly=True)", "Array(int64, 1, 'C', readonly=True)"


@cache
def tables() -> tuple[UInt16Array, UInt32Array]:
    """The classes of code points, and each one in lower case, uint32 [TABLE_SIZE]."""
    lower = [ord(low) if len(low := chr(code).lower()) == 1 else code for code in range(TABLE_SIZE)]
    return characters.classes(), np.array(lower, np.uint32)


@kernel("int64(uint32[::1], uint16[::1], int64)")
def plain(codes: UInt32Array, kinds: UInt16Array, n: int) -> int:
    """Digits become "0", runs of space one " ", in place; how many characters are left."""
    left = 0
    for i in range(n):
        if kinds[i] & SPACE:
            if left and codes[left - 1] == 0x20:
                continue
            codes[left] = 0x20
        else:
            codes[left] = 0x30 if kinds[i] & DIGIT else codes[i]
        kinds[left] = kinds[i]
        left += 1
    return left


@kernel("int64(uint64, uint64[::1], uint64, int64[::1], int64)", inline="always")
def count(number: np.uint64, table: UInt64Array, mask: np.uint64, used: Int64Array, num_used: int) -> int:
    """Count a feature in an open-addressing table of (number + 1) << 16 | count; how many slots are used now."""
    key, slot = number + ONE, number & mask
    while table[slot] != 0 and table[slot] >> COUNT_BITS != key:
        slot = (slot + ONE) & mask
    if table[slot] != 0:
        table[slot] += ONE
        return num_used
    table[slot] = key << COUNT_BITS | ONE
    used[num_used] = slot
    return num_used + 1


@kernel("int64(uint32[::1], int64, int64, uint64[::1], uint64, int64[::1])")
def count_characters(
    codes: UInt32Array, n: int, bits: int, features: UInt64Array, mask: np.uint64, used: Int64Array
) -> int:
    """Count the character n-grams; how many slots are used."""
    shift, found = np.uint64(65 - bits), 0
    for i in range(n):
        key = np.uint64(0)
        for length in range(min(MAX_GRAM, n - i)):
            key = (key + np.uint64(codes[i + length])) * BASE
            found = count(((key ^ key >> FOLD) * BASE) >> shift, features, mask, used, found)
    return found


@kernel("int64(uint64[::1], uint64[::1], int64, int64, uint64[::1], uint64, int64[::1], int64)")
def count_words(
    sums: UInt64Array,
    inverses: UInt64Array,
    num_words: int,
    bits: int,
    features: UInt64Array,
    mask: np.uint64,
    used: Int64Array,
    found: int,
) -> int:
    """Count the words and the pairs of words; how many slots are used."""
    shift, half = np.uint64(65 - bits), ONE << np.uint64(bits - 1)
    before = np.uint64(0)
    for w in range(num_words):
        word = mix((sums[w + 1] - sums[w]) * inverses[w])
        found = count((word >> shift) + half, features, mask, used, found)
        if w:
            found = count((mix(before * BASE + word) >> shift) + half, features, mask, used, found)
        before = word
    return found


@kernel(
    f"int64({READ_BYTES}, int64, int64, uint16[::1], uint32[::1], int64, int64, uint32[::1], uint16[::1],"
    " uint64[:, ::1], int64[::1], uint16[::1], uint64[::1], int64[::1])"
)
def count_features(
    data: UInt8Array,
    start: int,
    end: int,
    table: UInt16Array,
    lower: UInt32Array,
    bits: int,
    max_characters: int,
    codes: UInt32Array,
    kinds: UInt16Array,
    hashes: UInt64Array,
    chars: Int64Array,
    all_kinds: UInt16Array,
    features: UInt64Array,
    used: Int64Array,
) -> int:
    """Fill a clear table with the features of one text; how many slots are used. From `codes` on all is scratch."""
    stop = min(end, start + 4 * max_characters)
    while stop < end and data[stop] & 0xC0 == 0x80:
        stop += 1
    n = plain(codes, kinds, min(decode(data, start, stop, table, codes, kinds), max_characters))
    size = 4
    while size < 6 * n:
        size *= 2
    mask = np.uint64(size - 1)
    found = count_characters(codes, n, bits, features, mask, used)
    for i in range(n):
        codes[i] = lower[codes[i]] if codes[i] < TABLE_SIZE else codes[i]
    words = split_words(codes, kinds, n, hashes[0], hashes[1], hashes[2], chars, all_kinds)
    return count_words(hashes[0], hashes[2], words, bits, features, mask, used, found)


@kernel(f"void({READ_BYTES}, {READ_OFFSETS}, uint16[::1], uint32[::1], int64, int64, int16[:, ::1], float64[::1])")
def score(
    data: UInt8Array,
    offsets: Int64Array,
    table: UInt16Array,
    lower: UInt32Array,
    bits: int,
    max_characters: int,
    weights: Int16Array,
    out: Float64Array,
) -> None:
    """out[d]: the sum of document d's weights, each block scaled to length 1. weights: idf and weight * idf."""
    length = 4 * max_characters + 4
    codes, kinds = np.empty(length, np.uint32), np.empty(length, np.uint16)
    hashes, chars = np.empty((3, length), np.uint64), np.empty(length, np.int64)
    all_kinds = np.empty(length, np.uint16)
    counted, used = np.zeros(16 * max_characters, np.uint64), np.empty(8 * max_characters, np.int64)
    totals, squares = np.empty(2), np.empty(2)
    for d in range(len(offsets) - 1):
        found = count_features(
            data, offsets[d], offsets[d + 1], table, lower, bits, max_characters,
            codes, kinds, hashes, chars, all_kinds, counted, used,
        )  # fmt: skip
        totals[:], squares[:] = 0.0, 0.0
        for slot in used[:found]:
            number, much = np.int64((counted[slot] >> COUNT_BITS) - ONE), LOGS[min(counted[slot] & COUNT, MAX_LOG)]
            counted[slot] = 0
            block = number >> (bits - 1)
            totals[block] += np.float64(weights[number, 1]) * much
            squares[block] += (np.float64(weights[number, 0]) * much) ** 2
        out[d] = 0.0
        for half in range(2):
            if squares[half] > 0:
                out[d] += totals[half] / math.sqrt(squares[half])


@kernel(
    f"void({READ_BYTES}, {READ_OFFSETS}, uint16[::1], uint32[::1], int64, int64, int64[::1], float32[::1], int64[::1])"
)
def extract(
    data: UInt8Array,
    offsets: Int64Array,
    table: UInt16Array,
    lower: UInt32Array,
    bits: int,
    max_characters: int,
    features: Int64Array,
    values: Float32Array,
    ends: Int64Array,
) -> None:
    """The features of document d and 1 + log(count), in features and values[ends[d]:ends[d + 1]], by number."""
    length = 4 * max_characters + 4
    codes, kinds = np.empty(length, np.uint32), np.empty(length, np.uint16)
    hashes, chars = np.empty((3, length), np.uint64), np.empty(length, np.int64)
    all_kinds = np.empty(length, np.uint16)
    counted, used = np.zeros(16 * max_characters, np.uint64), np.empty(8 * max_characters, np.int64)
    ends[0] = 0
    for d in range(len(offsets) - 1):
        found = count_features(
            data, offsets[d], offsets[d + 1], table, lower, bits, max_characters,
            codes, kinds, hashes, chars, all_kinds, counted, used,
        )  # fmt: skip
        ends[d + 1] = ends[d]
        for slot in used[:found]:
            features[ends[d + 1]] = np.int64((counted[slot] >> COUNT_BITS) - ONE)
            values[ends[d + 1]] = LOGS[min(counted[slot] & COUNT, MAX_LOG)]
            counted[slot] = 0
            ends[d + 1] += 1


@kernel("void(int64[::1], float32[::1], int64[::1], float32[::1], int64)")
def weigh(features: Int64Array, values: Float32Array, ends: Int64Array, idf: Float32Array, bits: int) -> None:
    """Multiply values by idf and scale the two blocks of each document to length 1."""
    for d in range(len(ends) - 1):
        squares = np.zeros(2)
        for at in range(ends[d], ends[d + 1]):
            values[at] *= idf[features[at]]
            squares[features[at] >> (bits - 1)] += values[at] * values[at]
        for at in range(ends[d], ends[d + 1]):
            values[at] /= math.sqrt(squares[features[at] >> (bits - 1)])


@kernel("void(int64[::1], float32[::1], int64[::1], float64[::1], int64[::1], float64, float64[::1], float64[::1])")
def descend(
    features: Int64Array,
    values: Float32Array,
    ends: Int64Array,
    signs: Float64Array,
    order: Int64Array,
    penalty: float,
    weights: Float64Array,
    dual: Float64Array,
) -> None:
    """One pass of dual coordinate descent over the documents in `order`; the last weight is the bias."""
    diagonal, bias = 0.5 / penalty, len(weights) - 1
    for d in order:
        margin, square = weights[bias], 1.0 + diagonal
        for at in range(ends[d], ends[d + 1]):
            margin += weights[features[at]] * values[at]
            square += values[at] * values[at]
        gradient = signs[d] * margin - 1.0 + diagonal * dual[d]
        step = (max(dual[d] - gradient / square, 0.0) - dual[d]) * signs[d]
        if step == 0.0:
            continue
        dual[d] += step * signs[d]
        weights[bias] += step
        for at in range(ends[d], ends[d + 1]):
            weights[features[at]] += step * values[at]
