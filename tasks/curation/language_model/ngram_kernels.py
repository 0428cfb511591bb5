"""Compiled loops of the n-gram language model: count n-grams in a hash table, and compute the perplexity of texts.

The model is a trigram model with interpolated Kneser-Ney smoothing (Chen and Goodman 1999, eq. 25) over the tokens of
`words`: words in languages with spaces, single characters in Chinese. BEGIN stands twice before each text.

- The key of an n-gram extends the key of its first n - 1 tokens: key = (key ^ token) * MULTIPLIER, key ^= key >> 32,
  modulo 2^64; its lowest bit is set, so that 0 means a free slot. The key of no token is SEED.
- A slot holds the key of an n-gram and three numbers. COUNT is the number of occurrences of a trigram; of a shorter
  n-gram, it is the number of different tokens that precede it. TOTAL is the sum of the counts of all n-grams that
  extend it by one token, and TYPES is their number.
"""

import math

import numpy as np

from tasks.compiled import kernel
from tasks.curation.arrays import Float64Array, Int64Array, UInt8Array, UInt32Array, UInt64Array
from tasks.curation.text.words import (
    BYTES,
    HASHES,
    MULTIPLIER,
    OFFSETS,
    SEED,
    TABLE,
    Texts,
    fold_table,
    padded_buffers,
    token_hashes,
)

ORDER = 3
BEGIN = 0  # the token before a text; no word has this hash, except by a chance of 2^-63
COUNT, TOTAL, TYPES = 0, 1, 2  # columns of the numbers of a slot
USED, UNIGRAM_TOTAL, UNIGRAM_TYPES, NUM_TOKENS, NUM_IGNORED = 0, 1, 2, 3, 4  # entries of `sums`
NUM_SUMS = 5
MAX_LOAD = 0.75  # share of used slots above which new trigrams are ignored
SLOTS_PER_TRIGRAM = 5  # a new trigram (a, b, c) may need the slots abc, ab, bc, b and c

_SEED, _MULTIPLIER, _BEGIN = np.uint64(SEED), np.uint64(MULTIPLIER), np.uint64(BEGIN)
_U0, _U1, _U32 = np.uint64(0), np.uint64(1), np.uint64(32)
NUMBERS = "uint32[:, ::1]"


@kernel("uint64(uint64, uint64)", inline="always")
def extend_key(key: np.uint64, token: np.uint64) -> np.uint64:
    """Return the key of an n-gram, from the key of its first n - 1 tokens and its last token."""
    extended = (key ^ token) * _MULTIPLIER
    return (extended ^ extended >> _U32) | _U1


@kernel(f"int64({HASHES}, uint64)")
def find_slot(keys: UInt64Array, key: np.uint64) -> int:
    """Return the slot of a key, or the free slot where it belongs: open addressing with linear probing.

    keys: uint64 [power of two] with at least one free slot.
    """
    mask = np.uint64(len(keys) - 1)
    slot = (key >> _U32) & mask
    while keys[slot] != _U0 and keys[slot] != key:
        slot = (slot + _U1) & mask
    index: int = np.int64(slot)  # type: ignore[assignment]
    return index


@kernel(f"int64({HASHES}, uint64, int64[::1])")
def _find_or_add(keys: UInt64Array, key: np.uint64, sums: Int64Array) -> int:
    slot = find_slot(keys, key)
    if keys[slot] == _U0:
        keys[slot] = key
        sums[USED] += 1
    return slot


@kernel(f"boolean({HASHES}, {NUMBERS}, uint64, uint64, int64, int64[::1], int64[:, ::1])")
def _count_ngram(
    keys: UInt64Array,
    numbers: UInt32Array,
    context: np.uint64,
    token: np.uint64,
    order: int,
    sums: Int64Array,
    frequencies: Int64Array,
) -> bool:
    """Count one n-gram, and the extension of its context; return whether the n-gram is new."""
    slot = _find_or_add(keys, extend_key(context, token), sums)
    numbers[slot, COUNT] += 1
    count = numbers[slot, COUNT]
    if count <= 2:
        frequencies[order - 1, count - 1] += 1
    if 2 <= count <= 3:
        frequencies[order - 1, count - 2] -= 1
    if order == 1:
        sums[UNIGRAM_TOTAL] += 1
        sums[UNIGRAM_TYPES] += count == 1
    else:
        slot = _find_or_add(keys, context, sums)
        numbers[slot, TOTAL] += 1
        numbers[slot, TYPES] += count == 1
    is_new: bool = count == 1
    return is_new


@kernel(f"void({BYTES}, {OFFSETS}, {TABLE}, {HASHES}, {NUMBERS}, int64[::1], int64[:, ::1])")
def _count_texts(
    data: UInt8Array,
    offsets: Int64Array,
    fold_table: UInt32Array,
    keys: UInt64Array,
    numbers: UInt32Array,
    sums: Int64Array,
    frequencies: Int64Array,
) -> None:
    """Count as `count_ngrams`. data, offsets: of `words.padded_buffers`."""
    limit = np.int64(MAX_LOAD * len(keys)) - SLOTS_PER_TRIGRAM
    for row in range(len(offsets) - 1):
        tokens = np.empty(offsets[row + 1] - offsets[row] + 1, np.uint64)
        num_tokens = token_hashes(data, offsets[row], offsets[row + 1], fold_table, tokens)
        sums[NUM_TOKENS] += num_tokens
        first, second = _BEGIN, _BEGIN
        for token in tokens[:num_tokens]:
            last = extend_key(_SEED, second)
            both = extend_key(extend_key(_SEED, first), second)
            if sums[USED] > limit and keys[find_slot(keys, extend_key(both, token))] == _U0:
                sums[NUM_IGNORED] += 1
            # The count of a shorter n-gram is a number of different tokens, so that it grows with a new n-gram only.
            elif _count_ngram(keys, numbers, both, token, 3, sums, frequencies) and _count_ngram(
                keys, numbers, last, token, 2, sums, frequencies
            ):
                _count_ngram(keys, numbers, _SEED, token, 1, sums, frequencies)
            first, second = second, token


@kernel(f"float64({HASHES}, {NUMBERS}, uint64, uint64, float64, float64)")
def _interpolate(
    keys: UInt64Array, numbers: UInt32Array, context: np.uint64, token: np.uint64, discount: float, shorter: float
) -> float:
    """Return the probability of a token after a context. shorter: its probability after the context without a token."""
    slot = find_slot(keys, context)
    if keys[slot] == _U0 or numbers[slot, TOTAL] == 0:
        return shorter
    total, types = np.float64(numbers[slot, TOTAL]), np.float64(numbers[slot, TYPES])
    slot = find_slot(keys, extend_key(context, token))
    count = np.float64(numbers[slot, COUNT]) if keys[slot] != _U0 else 0.0
    return (max(count - discount, 0.0) + discount * types * shorter) / total


@kernel(f"void({BYTES}, {OFFSETS}, {TABLE}, {HASHES}, {NUMBERS}, int64[::1], float64[::1], float64[::1])")
def _measure_perplexities(
    data: UInt8Array,
    offsets: Int64Array,
    fold_table: UInt32Array,
    keys: UInt64Array,
    numbers: UInt32Array,
    sums: Int64Array,
    discounts: Float64Array,
    perplexities: Float64Array,
) -> None:
    """Write the perplexities as `perplexities` returns them. data, offsets: of `words.padded_buffers`."""
    types, total = np.float64(sums[UNIGRAM_TYPES]), np.float64(sums[UNIGRAM_TOTAL])
    # What the discount of the unigrams leaves is shared by all counted tokens and one more for unknown tokens.
    unknown = discounts[0] * types / total / (types + 1.0)
    for row in range(len(offsets) - 1):
        tokens = np.empty(offsets[row + 1] - offsets[row] + 1, np.uint64)
        num_tokens = token_hashes(data, offsets[row], offsets[row + 1], fold_table, tokens)
        first, second, nats = _BEGIN, _BEGIN, 0.0
        for token in tokens[:num_tokens]:
            last = extend_key(_SEED, second)
            both = extend_key(extend_key(_SEED, first), second)
            slot = find_slot(keys, extend_key(_SEED, token))
            count = np.float64(numbers[slot, COUNT]) if keys[slot] != _U0 else 0.0
            probability = max(count - discounts[0], 0.0) / total + unknown
            probability = _interpolate(keys, numbers, last, token, discounts[1], probability)
            probability = _interpolate(keys, numbers, both, token, discounts[2], probability)
            nats -= math.log(probability)
            first, second = second, token
        perplexities[row] = math.exp(nats / num_tokens) if num_tokens else math.nan


@kernel(f"void({HASHES}, {NUMBERS}, {HASHES}, {NUMBERS})")
def insert_entries(
    entry_keys: UInt64Array, entry_numbers: UInt32Array, keys: UInt64Array, numbers: UInt32Array
) -> None:
    """Insert stored entries into an empty hash table. All keys differ; the table has more slots than entries."""
    for i in range(len(entry_keys)):
        slot = find_slot(keys, entry_keys[i])
        keys[slot] = entry_keys[i]
        for column in range(3):
            numbers[slot, column] = entry_numbers[i, column]


def count_ngrams(
    texts: Texts, keys: UInt64Array, numbers: UInt32Array, sums: Int64Array, frequencies: Int64Array
) -> None:
    """Count the n-grams of texts in a hash table, in place. A new trigram is ignored where the table is full.

    texts: Arrow strings; keys: uint64 [slots], a power of two; numbers: uint32 [slots, 3]; sums: int64 [NUM_SUMS];
    frequencies: int64 [ORDER, 2], the number of n-grams of each order with the counts 1 and 2.
    """
    for _, data, offsets in padded_buffers(texts):
        _count_texts(data, offsets, fold_table(), keys, numbers, sums, frequencies)


def perplexities(
    texts: Texts, keys: UInt64Array, numbers: UInt32Array, sums: Int64Array, discounts: Float64Array
) -> Float64Array:
    """Return exp(mean nats per token) of each text, float64 [texts]; NaN for a text without a token.

    The other arguments are those of `count_ngrams`, which has counted a token; discounts: float64 [ORDER].
    """
    measured, table = np.empty(len(texts)), fold_table()
    for first, data, offsets in padded_buffers(texts):
        rows = slice(first, first + len(offsets) - 1)
        _measure_perplexities(data, offsets, table, keys, numbers, sums, discounts, measured[rows])
    return measured
