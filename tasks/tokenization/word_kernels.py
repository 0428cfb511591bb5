"""The kernel that encodes texts: it splits them into words, and looks each word up among those it has encoded before.

The memory of words is a hash table and two arrays that it points into, with the bytes and the ids of the words. When
one of them is full, all words are removed; frequent ones return at once.
"""

import numpy as np
import numpy.typing as npt

from tasks.compiled import kernel
from tasks.tokenization.merge_kernels import (
    IDS,
    INTS,
    KEYS,
    MAX_SCANNED,
    MULTIPLIER,
    UInt32Array,
    UInt64Array,
    encode_long,
    encode_short,
)
from tasks.tokenization.patterns import Int64Array, Integer, UInt8Array
from tasks.tokenization.split_kernels import BYTES, RULES, TABLE, match_end

NUM_SLOTS = 1 << 16  # of the table of words, of which half are used at most
MAX_WORD_BYTES = 32  # of a word that is kept; longer ones are seldom repeated
MEMORY = 1 << 20  # bytes, and ids, of the words that are kept

WORDS = "int64[:, ::1]"
HASH, SIZES, BYTES_START, IDS_START = range(4)
"""The columns of the table of words. SIZES is number of bytes << 32 | number of ids; 0 for a free slot."""
NUM_WORDS, NUM_BYTES, NUM_IDS = range(3)
"""The places in the array of counts."""

_SEED, _ROTATION, _SLOT_SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29), np.uint64(40)
_SIZE_BITS, _LOWER = np.int64(32), np.int64((1 << 32) - 1)


@kernel(f"int64({BYTES}, int64, int64)", inline="always")
def _word_hash(data: UInt8Array, start: Integer, end: Integer) -> Integer:
    h = _SEED
    for k in range(start, end):
        h = (h ^ np.uint64(data[k])) * MULTIPLIER
    return np.int64((h ^ h >> _ROTATION) * MULTIPLIER)


@kernel(f"boolean({BYTES}, int64, {TABLE}, int64, int64)")
def _is_equal(data: UInt8Array, start: Integer, word_bytes: UInt8Array, kept: Integer, size: Integer) -> bool:
    k = 0
    while k < size and data[start + k] == word_bytes[kept + k]:
        k += 1
    return k == size


@kernel(f"int64({BYTES}, int64, int64, int64, {WORDS}, {TABLE})")
def _find_slot(
    data: UInt8Array, start: Integer, end: Integer, h: Integer, words: npt.NDArray[np.int64], word_bytes: UInt8Array
) -> Integer:
    """Return the slot of the word data[start:end], or the free slot where it belongs."""
    slot = np.int64(np.uint64(h) >> _SLOT_SHIFT) & (NUM_SLOTS - 1)
    size = end - start
    while words[slot, SIZES] != 0:
        is_candidate = words[slot, HASH] == h and words[slot, SIZES] >> _SIZE_BITS == size
        if is_candidate and _is_equal(data, start, word_bytes, words[slot, BYTES_START], size):
            break
        slot = (slot + 1) & (NUM_SLOTS - 1)
    return slot


@kernel(f"void({BYTES}, int64, int64, int64, int64, {WORDS}, {INTS}, {TABLE}, {IDS}, {IDS}, int64, int64)")
def _keep_word(
    data: UInt8Array,
    start: Integer,
    end: Integer,
    h: Integer,
    slot: Integer,
    words: npt.NDArray[np.int64],
    counts: Int64Array,
    word_bytes: UInt8Array,
    word_ids: UInt32Array,
    out: UInt32Array,
    first: Integer,
    last: Integer,
) -> None:
    """Enter the word data[start:end] with the ids out[first:last] into a free slot."""
    used_bytes, used_ids = counts[NUM_BYTES], counts[NUM_IDS]
    for k in range(end - start):
        word_bytes[used_bytes + k] = data[start + k]
    for k in range(last - first):
        word_ids[used_ids + k] = out[first + k]
    words[slot, HASH], words[slot, SIZES] = h, (end - start) << _SIZE_BITS | (last - first)
    words[slot, BYTES_START], words[slot, IDS_START] = used_bytes, used_ids
    counts[NUM_BYTES] += end - start
    counts[NUM_IDS] += last - first
    counts[NUM_WORDS] += 1


@kernel(f"void({WORDS}, {INTS})")
def _remove_words_if_full(words: npt.NDArray[np.int64], counts: Int64Array) -> None:
    """Remove all words if there may be no space for another one."""
    used = max(counts[NUM_BYTES], counts[NUM_IDS])
    if counts[NUM_WORDS] >= NUM_SLOTS // 2 or used + MAX_WORD_BYTES > MEMORY:
        words[:] = 0
        counts[:] = 0


@kernel(
    f"void({BYTES}, {INTS}, {INTS}, {INTS}, {TABLE}, {RULES}, {IDS}, {KEYS}, {INTS}, {IDS}, "
    f"{WORDS}, {INTS}, {TABLE}, {IDS}, {IDS}, {INTS})"
)
def encode_texts(
    data: UInt8Array,
    offsets: Int64Array,
    num_before: Int64Array,
    num_after: Int64Array,
    table: UInt8Array,
    rules: Int64Array,
    byte_ids: UInt32Array,
    keys: UInt64Array,
    ranks: Int64Array,
    merged: UInt32Array,
    words: npt.NDArray[np.int64],
    counts: Int64Array,
    word_bytes: UInt8Array,
    word_ids: UInt32Array,
    out: UInt32Array,
    starts: Int64Array,
) -> None:
    """Encode text k, the bytes data[offsets[k] : offsets[k + 1]], to out[starts[k] : starts[k + 1]].

    num_before[k], num_after[k]: entries of `out` that are left free before and after the ids of text k. `out` needs
    space for one id for each byte, and for these entries. table, rules: of `patterns.Rules`. byte_ids: the token of
    each byte, [256]. keys, ranks, merged: see `merge_kernels`. words, counts, word_bytes, word_ids: the memory of
    words. starts: [number of texts + 1], which is written.
    """
    symbols, pair_ranks = np.empty(MAX_SCANNED, np.int64), np.empty(MAX_SCANNED, np.int64)
    count: Integer = 0
    for text in range(len(offsets) - 1):
        starts[text] = count
        count += num_before[text]
        i, end = offsets[text], offsets[text + 1]
        while i < end:
            start, i = i, match_end(data, i, end, table, rules)
            size, first = i - start, count
            h: Integer = 0
            slot: Integer = -1
            if size == 1:
                out[count] = byte_ids[data[start]]
                count += 1
                continue
            if size <= MAX_WORD_BYTES:
                h = _word_hash(data, start, i)
                slot = _find_slot(data, start, i, h, words, word_bytes)
                if words[slot, SIZES] != 0:
                    ids_start = words[slot, IDS_START]
                    for k in range(words[slot, SIZES] & _LOWER):
                        out[count] = word_ids[ids_start + k]
                        count += 1
                    continue
            if size <= MAX_SCANNED:
                count = encode_short(data, start, size, byte_ids, keys, ranks, merged, symbols, pair_ranks, out, count)
            else:
                count = encode_long(data, start, size, byte_ids, keys, ranks, merged, out, count)
            if slot >= 0:
                _keep_word(data, start, i, h, slot, words, counts, word_bytes, word_ids, out, first, count)
                _remove_words_if_full(words, counts)
        count += num_after[text]
    starts[len(offsets) - 1] = count
