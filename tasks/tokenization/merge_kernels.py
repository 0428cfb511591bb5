"""Kernels that encode one word by byte-pair merges: of all neighboring pairs, the one of lowest rank is merged first.

The merges are a hash table of pairs. `keys` holds first << 32 | second, or NO_PAIR for a free slot; `ranks` holds the
rank of the pair; and merged[rank] is the token that results. A slot is found from the key by multiplication.
"""

import numpy as np
import numpy.typing as npt

from tasks.compiled import kernel
from tasks.tokenization.patterns import Int64Array, Integer, UInt8Array
from tasks.tokenization.split_kernels import BYTES

UInt32Array = npt.NDArray[np.uint32]
UInt64Array = npt.NDArray[np.uint64]

IDS = "uint32[::1]"
INTS = "int64[::1]"
KEYS = "uint64[::1]"
NO_RANK = np.int64(1 << 62)
MULTIPLIER = np.uint64(0xD6E8FEB86659FD93)
MAX_SCANNED = 64  # bytes of a word in which the lowest rank is searched for by a pass over all pairs

_NO_PAIR, _SHIFT, _ONE = np.uint64((1 << 64) - 1), np.uint64(32), np.uint64(1)
_RANK_BITS = np.int64(32)  # an entry of the heap is rank << 32 | position, so that the leftmost of equal pairs is first
_POSITION = np.int64((1 << 32) - 1)


@kernel(f"void({INTS}, {INTS}, {KEYS}, {INTS})")
def fill_table(firsts: Int64Array, seconds: Int64Array, keys: UInt64Array, ranks: Int64Array) -> None:
    """Enter pair k of firsts and seconds with the rank k. `keys` has a power of 2 slots, more than there are pairs."""
    keys[:] = _NO_PAIR
    mask = np.uint64(len(keys) - 1)
    for k in range(len(firsts)):
        key = np.uint64(firsts[k]) << _SHIFT | np.uint64(seconds[k])
        slot = (key * MULTIPLIER) >> _SHIFT & mask
        while keys[slot] != _NO_PAIR and keys[slot] != key:
            slot = (slot + _ONE) & mask
        keys[slot] = key
        ranks[slot] = k


@kernel(f"int64(int64, int64, {KEYS}, {INTS})", inline="always")
def pair_rank(first: Integer, second: Integer, keys: UInt64Array, ranks: Int64Array) -> Integer:
    """Return the rank of a pair of tokens; NO_RANK if it is never merged."""
    key = np.uint64(first) << _SHIFT | np.uint64(second)
    mask = np.uint64(len(keys) - 1)
    slot = (key * MULTIPLIER) >> _SHIFT & mask
    while keys[slot] != key:
        if keys[slot] == _NO_PAIR:
            return NO_RANK
        slot = (slot + _ONE) & mask
    return np.int64(ranks[slot])


@kernel(f"int64({BYTES}, int64, int64, {IDS}, {KEYS}, {INTS}, {IDS}, {INTS}, {INTS}, {IDS}, int64)")
def encode_short(
    data: UInt8Array,
    start: Integer,
    size: Integer,
    byte_ids: UInt32Array,
    keys: UInt64Array,
    ranks: Int64Array,
    merged: UInt32Array,
    symbols: Int64Array,
    pair_ranks: Int64Array,
    out: UInt32Array,
    count: Integer,
) -> Integer:
    """Encode the word data[start : start + size] to out[count:]; return the new count.

    size: at most MAX_SCANNED, because the time grows with its square. symbols, pair_ranks: memory for the tokens and
    for the ranks of neighboring tokens, [MAX_SCANNED].
    """
    for k in range(size):
        symbols[k] = byte_ids[data[start + k]]
    for k in range(size - 1):
        pair_ranks[k] = pair_rank(symbols[k], symbols[k + 1], keys, ranks)
    while size > 1:
        lowest, at = NO_RANK, 0
        for k in range(size - 1):
            if pair_ranks[k] < lowest:
                lowest, at = pair_ranks[k], k
        if lowest == NO_RANK:
            break
        symbols[at] = merged[lowest]
        size -= 1
        for k in range(at + 1, size):
            symbols[k] = symbols[k + 1]
            pair_ranks[k - 1] = pair_ranks[k]
        if at > 0:
            pair_ranks[at - 1] = pair_rank(symbols[at - 1], symbols[at], keys, ranks)
        if at < size - 1:
            pair_ranks[at] = pair_rank(symbols[at], symbols[at + 1], keys, ranks)
    for k in range(size):
        out[count + k] = symbols[k]
    return count + size


@kernel(f"void({INTS}, int64, int64)")
def _sift_up(heap: Int64Array, size: Integer, entry: Integer) -> None:
    """Insert `entry` into a binary heap of `size` entries, whose smallest is heap[0]."""
    place = size
    while place > 0 and heap[(place - 1) >> 1] > entry:
        heap[place] = heap[(place - 1) >> 1]
        place = (place - 1) >> 1
    heap[place] = entry


@kernel(f"void({INTS}, int64)")
def _remove_first(heap: Int64Array, size: Integer) -> None:
    """Remove heap[0] from a binary heap of `size` entries."""
    entry, place = heap[size - 1], 0
    while 2 * place + 1 < size - 1:
        child = 2 * place + 1
        if child + 1 < size - 1 and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= entry:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = entry


@kernel(f"int64({INTS}, {INTS}, int64, {KEYS}, {INTS}, {INTS}, int64)")
def _push_pair(
    symbols: Int64Array,
    following: Int64Array,
    position: Integer,
    keys: UInt64Array,
    ranks: Int64Array,
    heap: Int64Array,
    size: Integer,
) -> Integer:
    """Insert the pair that begins at `position`, if it can be merged; return the new size of the heap."""
    rank = pair_rank(symbols[position], symbols[following[position]], keys, ranks)
    if rank == NO_RANK:
        return size
    _sift_up(heap, size, rank << _RANK_BITS | position)
    return size + 1


@kernel(f"int64({BYTES}, int64, int64, {IDS}, {KEYS}, {INTS}, {IDS}, {IDS}, int64)")
def encode_long(
    data: UInt8Array,
    start: Integer,
    size: Integer,
    byte_ids: UInt32Array,
    keys: UInt64Array,
    ranks: Int64Array,
    merged: UInt32Array,
    out: UInt32Array,
    count: Integer,
) -> Integer:
    """As `encode_short`, for words of any size, in O(size log size): the pairs are in a heap, the tokens in a list.

    following, preceding: positions of the neighbors of a token, which is at the position of its first byte. An entry of
    the heap is obsolete if the pair at its position has another rank, because one of its tokens was merged since.
    """
    symbols, heap = np.empty(size, np.int64), np.empty(3 * size, np.int64)
    following, preceding = np.arange(1, size + 1), np.arange(-1, size - 1)
    for k in range(size):
        symbols[k] = byte_ids[data[start + k]]
    num_entries: Integer = 0
    for k in range(size - 1):
        num_entries = _push_pair(symbols, following, k, keys, ranks, heap, num_entries)
    while num_entries > 0:
        rank, at = heap[0] >> _RANK_BITS, heap[0] & _POSITION
        _remove_first(heap, num_entries)
        num_entries -= 1
        second = following[at]
        if symbols[at] < 0 or second >= size or pair_rank(symbols[at], symbols[second], keys, ranks) != rank:
            continue
        symbols[at], symbols[second] = merged[rank], -1
        following[at] = following[second]
        if following[at] < size:
            preceding[following[at]] = at
            num_entries = _push_pair(symbols, following, at, keys, ranks, heap, num_entries)
        if preceding[at] >= 0:
            num_entries = _push_pair(symbols, following, preceding[at], keys, ranks, heap, num_entries)
    for k in range(size):
        if symbols[k] >= 0:
            out[count] = symbols[k]
            count += 1
    return count
