"""Compiled loops of the classifier: from texts to hashed n-grams, their tf-idf values, scores, and training.

Every digit counts as "0" and every run of white space as one space. Character n-grams keep their case, word n-grams are
lower case. The lower half of the feature numbers belongs to characters, the upper half to words. Each half is a block
that is scaled to length 1 by itself.
"""

import math
from functools import cache

import numpy as np

from tasks.compiled import kernel
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
from tasks.curation.signals.repetition_kernels import BASE, ONE, mix
from tasks.curation.signals.signal_kernels import decode_text, split_words
from tasks.curation.text import characters

SPACE, DIGIT, TABLE_SIZE = characters.SPACE, characters.DIGIT, characters.TABLE_SIZE
MAX_GRAM = 4
FOLD = np.uint64(29)
COUNT_BITS, COUNT = np.uint64(16), np.uint64(0xFFFF)  # a slot of the hash table: (feature + 1) << 16 | count
MAX_LOG = np.uint64(255)
# 1 + log(count) by count, limited to MAX_LOG.
LOGS = np.array([0.0, *(1 + math.log(count) for count in range(1, 256))])
READ_BYTES, READ_OFFSETS = "Array(uint8, 1, 'C', readonly=True)", "Array(int64, 1, 'C', readonly=True)"


@cache
def tables() -> tuple[UInt16Array, UInt32Array]:
    """Return the classes of all code points, uint16[TABLE_SIZE], and their lower case, uint32[TABLE_SIZE]."""
    lower = [ord(low) if len(low := chr(code).lower()) == 1 else code for code in range(TABLE_SIZE)]
    return characters.class_table(), np.array(lower, np.uint32)


@kernel("int64(uint32[::1], uint16[::1], int64)")
def normalize(codes: UInt32Array, kinds: UInt16Array, n: int) -> int:
    """Replace digits by "0" and runs of white space by one space, in place; return the new number of characters."""
    length = 0
    for i in range(n):
        if kinds[i] & SPACE:
            # The output is never longer than the input, so that both can share an array.
            if length and codes[length - 1] == 0x20:
                continue
            codes[length] = 0x20
        else:
            codes[length] = 0x30 if kinds[i] & DIGIT else codes[i]
        kinds[length] = kinds[i]
        length += 1
    return length


@kernel("int64(uint64, uint64[::1], uint64, int64[::1], int64)", inline="always")
def count_feature(feature: np.uint64, table: UInt64Array, mask: np.uint64, used: Int64Array, num_used: int) -> int:
    """Count a feature in an open-addressing hash table; return the new number of used slots.

    A slot holds (feature + 1) << 16 | count, so that 0 means free. `used` lists the slots in use: clearing these is
    faster than clearing the table.
    """
    key, slot = feature + ONE, feature & mask
    # Linear probing: move on while the slot belongs to another feature.
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
    """Count the n-grams of 1 to 4 characters; return the number of used slots."""
    # The top bits of a product depend on all bits of its factors: the shift leaves bits - 1 of them, the lower half.
    shift, num_used = np.uint64(65 - bits), 0
    for i in range(n):
        # Extend the n-gram at i by one character at a time; each prefix is a feature.
        key = np.uint64(0)
        for length in range(min(MAX_GRAM, n - i)):
            key = (key + np.uint64(codes[i + length])) * BASE
            num_used = count_feature(((key ^ key >> FOLD) * BASE) >> shift, features, mask, used, num_used)
    return num_used


@kernel("int64(uint64[::1], uint64[::1], int64, int64, uint64[::1], uint64, int64[::1], int64)")
def count_words(
    sums: UInt64Array,
    inverses: UInt64Array,
    num_words: int,
    bits: int,
    features: UInt64Array,
    mask: np.uint64,
    used: Int64Array,
    num_used: int,
) -> int:
    """Count the words and the pairs of neighboring words; return the number of used slots.

    The hash of a word is a difference of prefix sums, times the inverse power of the base at its position, which makes
    it independent of where the word is (see `split_words`).
    """
    shift, half = np.uint64(65 - bits), ONE << np.uint64(bits - 1)
    previous = np.uint64(0)
    for w in range(num_words):
        word = mix((sums[w + 1] - sums[w]) * inverses[w])
        num_used = count_feature((word >> shift) + half, features, mask, used, num_used)
        if w:
            pair = mix(previous * BASE + word)
            num_used = count_feature((pair >> shift) + half, features, mask, used, num_used)
        previous = word
    return num_used


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
    """Fill a clear hash table with the features of one text, data[start:end]; return the number of used slots.

    table, lower: of `tables`. All arrays from `codes` on are buffers: `features` and `used` receive the result.
    """
    # A character has at most 4 bytes. Then move to the next start of a character: bytes 0b10xxxxxx continue one.
    stop = min(end, start + 4 * max_characters)
    while stop < end and data[stop] & 0xC0 == 0x80:
        stop += 1
    n = normalize(codes, kinds, min(decode_text(data, start, stop, table, codes, kinds), max_characters))
    # n characters have at most 6 n features (see `classifier._fit`). A short text uses the start of the table only.
    size = 4
    while size < 6 * n:
        size *= 2
    mask = np.uint64(size - 1)
    num_used = count_characters(codes, n, bits, features, mask, used)
    # Character n-grams have been counted with their case; from here on, only words are needed.
    for i in range(n):
        codes[i] = lower[codes[i]] if codes[i] < TABLE_SIZE else codes[i]
    num_words = split_words(codes, kinds, n, hashes[0], hashes[1], hashes[2], chars, all_kinds)
    return count_words(hashes[0], hashes[2], num_words, bits, features, mask, used, num_used)


@kernel(f"void({READ_BYTES}, {READ_OFFSETS}, uint16[::1], uint32[::1], int64, int64, int16[:, ::1], float64[::1])")
def score(
    data: UInt8Array,
    offsets: Int64Array,
    table: UInt16Array,
    lower: UInt32Array,
    bits: int,
    max_characters: int,
    weights: Int16Array,
    scores: Float64Array,
) -> None:
    """Write the score of each text: the sum over its features of weight times tf-idf, each block scaled to length 1.

    table, lower: of `tables`; weights: int16[2**bits, 2] of idf, and weight times idf; scores: float64[n].
    """
    # All buffers are allocated once and reused for every text. The bytes that are read, 4 per character, may all be
    # characters. A text uses a power of two of slots, at least 6 and less than 12 per character.
    length = 4 * max_characters + 4
    codes, kinds = np.empty(length, np.uint32), np.empty(length, np.uint16)
    hashes, chars = np.empty((3, length), np.uint64), np.empty(length, np.int64)
    all_kinds = np.empty(length, np.uint16)
    counted, used = np.zeros(16 * max_characters, np.uint64), np.empty(8 * max_characters, np.int64)
    totals, squares = np.empty(2), np.empty(2)
    for d in range(len(offsets) - 1):
        num_used = count_features(
            data, offsets[d], offsets[d + 1], table, lower, bits, max_characters,
            codes, kinds, hashes, chars, all_kinds, counted, used,
        )  # fmt: skip
        # Sum and squared length of each block are gathered in one pass: dividing by the length afterwards gives the
        # same score as scaling the features first, without storing them.
        totals[:], squares[:] = 0.0, 0.0
        for slot in used[:num_used]:
            feature = np.int64((counted[slot] >> COUNT_BITS) - ONE)
            frequency = LOGS[min(counted[slot] & COUNT, MAX_LOG)]
            # Leave the table empty for the next text.
            counted[slot] = 0
            block = feature >> (bits - 1)
            totals[block] += np.float64(weights[feature, 1]) * frequency
            squares[block] += (np.float64(weights[feature, 0]) * frequency) ** 2
        scores[d] = 0.0
        for half in range(2):
            if squares[half] > 0:
                scores[d] += totals[half] / math.sqrt(squares[half])


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
    """Write the features of text d to features[ends[d]:ends[d + 1]], and 1 + log(count) of each to `values`."""
    length = 4 * max_characters + 4
    codes, kinds = np.empty(length, np.uint32), np.empty(length, np.uint16)
    hashes, chars = np.empty((3, length), np.uint64), np.empty(length, np.int64)
    all_kinds = np.empty(length, np.uint16)
    counted, used = np.zeros(16 * max_characters, np.uint64), np.empty(8 * max_characters, np.int64)
    ends[0] = 0
    for d in range(len(offsets) - 1):
        num_used = count_features(
            data, offsets[d], offsets[d + 1], table, lower, bits, max_characters,
            codes, kinds, hashes, chars, all_kinds, counted, used,
        )  # fmt: skip
        ends[d + 1] = ends[d]
        for slot in used[:num_used]:
            features[ends[d + 1]] = np.int64((counted[slot] >> COUNT_BITS) - ONE)
            values[ends[d + 1]] = LOGS[min(counted[slot] & COUNT, MAX_LOG)]
            counted[slot] = 0
            ends[d + 1] += 1


@kernel("void(int64[::1], float32[::1], int64[::1], float32[::1], int64)")
def apply_idf(features: Int64Array, values: Float32Array, ends: Int64Array, idf: Float32Array, bits: int) -> None:
    """Multiply `values` by the idf of their features, and scale the two blocks of each text to length 1, in place."""
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
    """Update `weights` and `dual` by one pass of dual coordinate descent over the texts in `order`.

    Algorithm 1 of Hsieh et al. 2008 for the squared hinge loss. signs: 1 or -1 by label, float64[n]; the last weight is
    the bias; dual: one variable per text, which is never negative.
    """
    diagonal, bias = 0.5 / penalty, len(weights) - 1
    # The weights are kept equal to the sum of dual * sign * features, so that a step costs one pass over the text.
    for d in order:
        margin, square = weights[bias], 1.0 + diagonal
        for at in range(ends[d], ends[d + 1]):
            margin += weights[features[at]] * values[at]
            square += values[at] * values[at]
        gradient = signs[d] * margin - 1.0 + diagonal * dual[d]
        # The exact minimum along this dual variable, limited to dual >= 0.
        step = (max(dual[d] - gradient / square, 0.0) - dual[d]) * signs[d]
        if step == 0.0:
            continue
        dual[d] += step * signs[d]
        weights[bias] += step
        for at in range(ends[d], ends[d + 1]):
            weights[features[at]] += step * values[at]
