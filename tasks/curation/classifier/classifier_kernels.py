"""Compiled loops of the classifier: from texts to hashed n-grams, their tf-idf values, scores, and training.

Every digit counts as "0" and every run of white space as one space; width, case and traditional characters are folded,
and at most three equal characters in a row are counted. White space and symbols that disguise words ("代 开 发*票") are
removed between Han characters. The lower half of the feature numbers belongs to characters, the upper half to words,
and its end to the shape of the text: its length with the numbers of its contacts, prices and so on. Each of the three
is a block that is scaled to length 1, and shapes to the length `shape`.
"""

import math

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

SPACE, DIGIT, SINGLE, TABLE_SIZE = characters.SPACE, characters.DIGIT, characters.SINGLE, characters.TABLE_SIZE
LETTER, UPPER = characters.LETTER, characters.UPPER
class_table = characters.class_table
NUM_SHAPES, LONG_NUMBER, NUM_LAST = 512, 7, 24  # a contact among the NUM_LAST last characters ends a text
HYPHEN, POINT, EXCLAMATION, LEFT_BRACKET = map(ord, "-.!【")
UNITS_BEFORE, UNITS_AFTER = tuple(map(ord, "$£¥€")), tuple(map(ord, "%元万折"))  # of a price or a rate
# Which of the first 256 characters are removed between two Han characters, because writers of spam insert them.
DISGUISES = np.array([chr(code) in " *.'`^~|/_-+·¨´" for code in range(256)])
MAX_GRAM = 4
FOLD = np.uint64(29)
COUNT_BITS, COUNT = np.uint64(16), np.uint64(0xFFFF)  # a slot of the hash table: (feature + 1) << 16 | count
MAX_LOG = np.uint64(255)
# 1 + log(count) by count, limited to MAX_LOG.
LOGS = np.array([0.0, *(1 + math.log(count) for count in range(1, 256))])
READ_BYTES, READ_OFFSETS = "Array(uint8, 1, 'C', readonly=True)", "Array(int64, 1, 'C', readonly=True)"


@kernel("int64(uint32[::1], uint16[::1], uint32[::1], int64)")
def normalize(codes: UInt32Array, kinds: UInt16Array, folded: UInt32Array, n: int) -> int:
    """Fold characters, and replace digits by "0" and runs of white space by one space; return the number that remains.

    The arrays are changed in place: the output is never longer than the input.
    """
    length = 0
    for i in range(n):
        if kinds[i] & SPACE:
            if length and codes[length - 1] == 0x20:
                continue
            codes[length] = 0x20
        elif kinds[i] & DIGIT:
            codes[length] = 0x30
        else:
            if kinds[i] & SINGLE and length > 1 and kinds[length - 2] & SINGLE:
                last = codes[length - 1]
                if last < len(DISGUISES) and DISGUISES[last]:
                    length -= 1
            code = folded[codes[i]] if codes[i] < TABLE_SIZE else codes[i]
            # "plzzzzzz" and "plzzz" are equal.
            if length > 2 and codes[length - 1] == code == codes[length - 2] == codes[length - 3]:
                continue
            codes[length] = code
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


@kernel("int64(int64)", inline="always")
def shape_slots(bits: int) -> int:
    """Return the number of features that are reserved for shapes, a power of two; they are the last ones."""
    return min(NUM_SHAPES, 1 << (bits - 3))


@kernel("int64(int64, int64)", inline="always")
def block_of(feature: int, bits: int) -> int:
    """Return the block of a feature: 0 for characters, 1 for words, 2 for shapes."""
    return 2 if feature >= (1 << bits) - shape_slots(bits) else feature >> (bits - 1)


@kernel("boolean(uint32)", inline="always")
def is_ascii_word(code: np.uint32) -> bool:
    """Return whether a folded character is an ASCII letter or digit."""
    return bool(0x61 <= code <= 0x7A or 0x30 <= code <= 0x39)


@kernel("int64(uint32[::1], uint16[::1], int64, int64, uint64[::1], uint64, int64[::1], int64)")
def count_shapes(
    codes: UInt32Array,
    kinds: UInt16Array,
    n: int,
    bits: int,
    features: UInt64Array,
    mask: np.uint64,
    used: Int64Array,
    num_used: int,
) -> int:
    """Count eight features about the shape of a text: its length with its numbers of contacts, prices and so on.

    A long number has at least 7 digits, which "-" may divide. An address is a point between ASCII letters or digits.
    Returns the number of used slots.
    """
    if n == 0:
        return num_used
    han = capitals = letters = exclamations = brackets = prices = numbers = addresses = digits = 0
    last_contact = -n
    for i in range(n):
        code, kind = codes[i], kinds[i]
        if kind & DIGIT:
            digits += 1
            if digits == LONG_NUMBER:
                numbers, last_contact = numbers + 1, i
            continue
        prices += (digits > 0 and code in UNITS_AFTER) or code in UNITS_BEFORE
        if code != HYPHEN:
            digits = 0
        han += kind & SINGLE != 0
        letters += kind & LETTER != 0
        capitals += kind & UPPER != 0
        exclamations += code == EXCLAMATION
        brackets += code == LEFT_BRACKET
        if code == POINT and 0 < i < n - 1 and is_ascii_word(codes[i - 1]) and is_ascii_word(codes[i + 1]):
            addresses, last_contact = addresses + 1, i
    script, length, contacts = 3 * han > n, min(int(math.log2(n)), 15), min(numbers, 2) * 3 + min(addresses, 2)
    ends, case = n - last_contact < NUM_LAST, 0 if capitals == 0 else 1 + int(3 * capitals / (letters + 1))
    shapes = (
        length,
        16 + contacts,
        32 + min(numbers, 2) * 16 + length,
        80 + min(addresses, 2) * 16 + length,
        128 + (2 * ends + min(brackets, 1)) * 16 + length,
        192 + min(prices, 3) * 9 + contacts,
        232 + min(exclamations, 3) * 4 + min(case, 3),
        248 + 2 * min(brackets, 1) + ends,
    )
    slots = shape_slots(bits)
    first = (1 << bits) - slots
    for shape in shapes:
        feature = first + ((shape + 256 * script) & (slots - 1))
        num_used = count_feature(np.uint64(feature), features, mask, used, num_used)
    return num_used


@kernel("uint64(uint64, uint64, uint64)", inline="always")
def word_feature(number: np.uint64, half: np.uint64, slots: np.uint64) -> np.uint64:
    """Return the feature of a word's number, 0 <= number < half, outside of the slots of shapes."""
    return half + (number - slots if number >= half - slots else number)


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
    slots = np.uint64(shape_slots(bits))
    previous = np.uint64(0)
    for w in range(num_words):
        word = mix((sums[w + 1] - sums[w]) * inverses[w])
        num_used = count_feature(word_feature(word >> shift, half, slots), features, mask, used, num_used)
        if w:
            pair = mix(previous * BASE + word)
            num_used = count_feature(word_feature(pair >> shift, half, slots), features, mask, used, num_used)
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
    folded: UInt32Array,
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

    table, folded: of `classifier.tables`. All arrays from `codes` on are buffers: `features` and `used` receive the
    result.
    """
    # A character has at most 4 bytes. Then move to the next start of a character: bytes 0b10xxxxxx continue one.
    stop = min(end, start + 4 * max_characters)
    while stop < end and data[stop] & 0xC0 == 0x80:
        stop += 1
    n = normalize(codes, kinds, folded, min(decode_text(data, start, stop, table, codes, kinds), max_characters))
    # n characters have at most 6 n features (see `classifier._fit`), and 8 of shape. A short text uses the start of the
    # table only.
    size = 16
    while size < 6 * n + 16:
        size *= 2
    mask = np.uint64(size - 1)
    num_used = count_characters(codes, n, bits, features, mask, used)
    num_used = count_shapes(codes, kinds, n, bits, features, mask, used, num_used)
    num_words = split_words(codes, kinds, n, hashes[0], hashes[1], hashes[2], chars, all_kinds)
    return count_words(hashes[0], hashes[2], num_words, bits, features, mask, used, num_used)


@kernel(
    f"void({READ_BYTES}, {READ_OFFSETS}, uint16[::1], uint32[::1], int64, int64, float64, int16[:, ::1], float64[::1])"
)
def score(
    data: UInt8Array,
    offsets: Int64Array,
    table: UInt16Array,
    folded: UInt32Array,
    bits: int,
    max_characters: int,
    shape: float,
    weights: Int16Array,
    scores: Float64Array,
) -> None:
    """Write the score of each text: the sum over its features of weight times tf-idf, each block scaled to its length.

    table, folded: of `classifier.tables`; weights: int16[2**bits, 2] of idf, and weight times idf; scores: float64[n].
    """
    # All buffers are allocated once and reused for every text. The bytes that are read, 4 per character, may all be
    # characters. A text uses a power of two of slots, at least 6 and less than 12 per character.
    length = 4 * max_characters + 4
    codes, kinds = np.empty(length, np.uint32), np.empty(length, np.uint16)
    hashes, chars = np.empty((3, length), np.uint64), np.empty(length, np.int64)
    all_kinds = np.empty(length, np.uint16)
    counted, used = np.zeros(16 * max_characters + 64, np.uint64), np.empty(8 * max_characters + 16, np.int64)
    totals, squares = np.empty(3), np.empty(3)
    for d in range(len(offsets) - 1):
        num_used = count_features(
            data, offsets[d], offsets[d + 1], table, folded, bits, max_characters,
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
            block = block_of(int(feature), bits)
            totals[block] += np.float64(weights[feature, 1]) * frequency
            squares[block] += (np.float64(weights[feature, 0]) * frequency) ** 2
        scores[d] = 0.0
        for block in range(3):
            if squares[block] > 0:
                scores[d] += (shape if block == 2 else 1.0) * totals[block] / math.sqrt(squares[block])


@kernel(
    f"void({READ_BYTES}, {READ_OFFSETS}, uint16[::1], uint32[::1], int64, int64, int64[::1], float32[::1], int64[::1])"
)
def extract(
    data: UInt8Array,
    offsets: Int64Array,
    table: UInt16Array,
    folded: UInt32Array,
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
    counted, used = np.zeros(16 * max_characters + 64, np.uint64), np.empty(8 * max_characters + 16, np.int64)
    ends[0] = 0
    for d in range(len(offsets) - 1):
        num_used = count_features(
            data, offsets[d], offsets[d + 1], table, folded, bits, max_characters,
            codes, kinds, hashes, chars, all_kinds, counted, used,
        )  # fmt: skip
        ends[d + 1] = ends[d]
        for slot in used[:num_used]:
            features[ends[d + 1]] = np.int64((counted[slot] >> COUNT_BITS) - ONE)
            values[ends[d + 1]] = LOGS[min(counted[slot] & COUNT, MAX_LOG)]
            counted[slot] = 0
            ends[d + 1] += 1


@kernel("void(int64[::1], float32[::1], int64[::1], float32[::1], int64, float64)")
def apply_idf(
    features: Int64Array, values: Float32Array, ends: Int64Array, idf: Float32Array, bits: int, shape: float
) -> None:
    """Multiply `values` by the idf of their features, and scale the blocks of each text to their length, in place."""
    for d in range(len(ends) - 1):
        squares = np.zeros(3)
        for at in range(ends[d], ends[d + 1]):
            values[at] *= idf[features[at]]
            squares[block_of(features[at], bits)] += values[at] * values[at]
        for at in range(ends[d], ends[d + 1]):
            block = block_of(int(features[at]), bits)
            values[at] *= (shape if block == 2 else 1.0) / math.sqrt(squares[block])


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
