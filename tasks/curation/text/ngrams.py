"""List the token n-grams of texts by rolling hash, and find them in other texts with a hash table.

An n-gram here is a run of neighboring tokens that is long enough to prove that two texts share it: `words` tokens if at
least half of them are words, `characters` tokens if most of them are single characters (as in Chinese).
"""

from dataclasses import dataclass

import numpy as np

from tasks.compiled import kernel
from tasks.curation.arrays import Int64Array, UInt8Array, UInt32Array, UInt64Array
from tasks.curation.text import folding
from tasks.curation.text.shingles import BASE, FINISH
from tasks.curation.text.words import BYTES, HASHES, OFFSETS, TABLE, Texts, padded_buffers, token_hashes

_BASE, _FINISH, _U0, _U1, _U6 = np.uint64(BASE), np.uint64(FINISH), np.uint64(0), np.uint64(1), np.uint64(6)
_U63 = np.uint64(63)
_BITS_PER_ENTRY, _MIN_BITS = 16, 1 << 12


@dataclass(frozen=True, slots=True)
class NgramTable:
    """A hash table with open addressing from the hash of an n-gram to its entry, and a bit set in front of it.

    Almost all n-grams of a corpus are not in the table. The bit set answers this for most of them, and is small enough
    for the cache of a core (a Bloom filter with one hash function). The lengths of all arrays are powers of two.
    """

    bits: UInt64Array  # bit _slot(hash) is set for every hash in the table
    keys: UInt64Array
    entries: Int64Array  # -1 if the slot is free


def build_table(hashes: UInt64Array) -> NgramTable:
    """Return the table of distinct hashes; the entry of each hash is its index."""
    size = 1 << max(4, (2 * len(hashes)).bit_length())
    bits = np.zeros(max(_MIN_BITS, size * _BITS_PER_ENTRY // 2) // 64, np.uint64)
    table = NgramTable(bits, np.zeros(size, np.uint64), np.full(size, -1, np.int64))
    _fill(np.ascontiguousarray(hashes), table.bits, table.keys, table.entries)
    return table


def list_ngrams(texts: Texts, words: int, characters: int) -> tuple[UInt64Array, Int64Array]:
    """Return the hash of every n-gram [n], and its location [n, 4].

    A location is: row of the text, index of the first token, number of tokens, and 1 for the n-gram that is the whole
    text, which is listed last whatever its length.
    """
    hashes, locations = [np.empty(0, np.uint64)], [np.empty((0, 4), np.int64)]
    for first, data, offsets in padded_buffers(texts):
        # A token takes at least two bytes with its separator. At most one n-gram of each of the two kinds ends there.
        # The text as a whole is one more.
        capacity = int(offsets[-1] - offsets[0]) + 2 * len(offsets)
        buffer_hashes, buffer_locations = np.empty(capacity, np.uint64), np.empty((capacity, 4), np.int64)
        count = _list_ngrams(data, offsets, folding.fold_table(), words, characters, buffer_hashes, buffer_locations)
        buffer_locations[:count, 0] += first
        hashes.append(buffer_hashes[:count].copy())
        locations.append(buffer_locations[:count].copy())
    return np.concatenate(hashes), np.concatenate(locations)


def find_ngrams(data: UInt8Array, offsets: Int64Array, words: int, characters: int, table: NgramTable) -> Int64Array:
    """Return the n-grams of texts that are in the table, in order [n, 4]: row, first token, number of tokens, entry.

    data, offsets: of `words.padded_buffers`.
    """
    longest = int(np.diff(offsets).max(initial=0))
    parts, first = [], 0
    while first < len(offsets) - 1:
        matches = np.empty((longest + 1024, 4), np.int64)
        num_texts, count = _find_ngrams(
            data,
            offsets[first:],
            folding.fold_table(),
            words,
            characters,
            table.bits,
            table.keys,
            table.entries,
            matches,
        )
        matches[:count, 0] += first
        parts.append(matches[:count])
        first += num_texts
    return np.concatenate(parts) if parts else np.empty((0, 4), np.int64)


@kernel("uint64(uint64, int64)", inline="always")
def _slot(key: np.uint64, size: int) -> np.uint64:
    """Return the slot of a hash in a table of `size` slots, a power of two.

    The middle bits of a product depend on all lower bits of the hash; its lowest bits depend on few of them.
    """
    return ((key ^ (key >> np.uint64(32))) * _FINISH >> np.uint64(20)) & np.uint64(size - 1)


@kernel(f"void({HASHES}, {HASHES}, {HASHES}, int64[::1])")
def _fill(hashes: UInt64Array, bits: UInt64Array, keys: UInt64Array, entries: Int64Array) -> None:
    for entry in range(len(hashes)):
        bit = _slot(hashes[entry], 64 * len(bits))
        bits[bit >> _U6] |= _U1 << (bit & _U63)
        slot = _slot(hashes[entry], len(keys))
        while entries[slot] >= 0:
            slot = (slot + _U1) & np.uint64(len(keys) - 1)
        keys[slot], entries[slot] = hashes[entry], entry


@kernel(f"int64(uint64, {HASHES}, {HASHES}, int64[::1])", inline="always")
def _entry(key: np.uint64, bits: UInt64Array, keys: UInt64Array, entries: Int64Array) -> int:
    """Return the entry of a hash, or -1."""
    bit = _slot(key, 64 * len(bits))
    if bits[bit >> _U6] >> (bit & _U63) & _U1 == _U0:
        return -1
    slot = _slot(key, len(keys))
    while entries[slot] >= 0 and keys[slot] != key:
        slot = (slot + _U1) & np.uint64(len(keys) - 1)
    entry: int = entries[slot]
    return entry


@kernel(f"int64({HASHES}, int64, int64, boolean, {HASHES}, int64[:, ::1], int64)")
def _append_ngrams(
    tokens: UInt64Array,
    count: int,
    size: int,
    of_characters: bool,
    hashes: UInt64Array,
    locations: Int64Array,
    num_ngrams: int,
) -> int:
    """Append the n-grams of `size` tokens, and return the new number of n-grams.

    of_characters: append those of which most tokens are single characters; otherwise those of which at least half are
    words. The lowest bit of a token's hash is set for a single character.
    """
    # A rolling hash, as in shingles.py, and a rolling count of single characters.
    oldest_power = _U1
    for _ in range(size):
        oldest_power *= _BASE
    h, singles = _U0, np.int64(0)
    for i in range(count):
        h = h * _BASE + tokens[i]
        singles += np.int64(tokens[i] & _U1)
        if i >= size:
            h -= tokens[i - size] * oldest_power
            singles -= np.int64(tokens[i - size] & _U1)
        if i >= size - 1 and (2 * singles > size) == of_characters:
            hashes[num_ngrams] = h
            locations[num_ngrams, 1], locations[num_ngrams, 2], locations[num_ngrams, 3] = i - size + 1, size, 0
            num_ngrams += 1
    return num_ngrams


@kernel(f"int64({HASHES}, int64, int64, int64, {HASHES}, int64[:, ::1])")
def _list_text_ngrams(
    tokens: UInt64Array, count: int, words: int, characters: int, hashes: UInt64Array, locations: Int64Array
) -> int:
    """Write all n-grams of one text, and finally the text as a whole; return their number."""
    if count == 0:
        return 0
    whole, singles = _U0, np.int64(0)
    for i in range(count):
        whole = whole * _BASE + tokens[i]
        singles += np.int64(tokens[i] & _U1)
    num_ngrams = 0
    # A text with too few tokens of one kind cannot contain an n-gram of that kind.
    if 2 * (count - singles) >= words:
        num_ngrams = _append_ngrams(tokens, count, words, False, hashes, locations, num_ngrams)
    if 2 * singles > characters:
        num_ngrams = _append_ngrams(tokens, count, characters, True, hashes, locations, num_ngrams)
    hashes[num_ngrams] = whole
    locations[num_ngrams, 1], locations[num_ngrams, 2], locations[num_ngrams, 3] = 0, count, 1
    return num_ngrams + 1


@kernel(f"int64({BYTES}, {OFFSETS}, {TABLE}, int64, int64, {HASHES}, int64[:, ::1])")
def _list_ngrams(
    data: UInt8Array,
    offsets: Int64Array,
    fold_table: UInt32Array,
    words: int,
    characters: int,
    hashes: UInt64Array,
    locations: Int64Array,
) -> int:
    num_ngrams = 0
    for row in range(len(offsets) - 1):
        tokens = np.empty(offsets[row + 1] - offsets[row] + 1, np.uint64)
        count = token_hashes(data, offsets[row], offsets[row + 1], fold_table, tokens)
        num_new = _list_text_ngrams(tokens, count, words, characters, hashes[num_ngrams:], locations[num_ngrams:])
        for i in range(num_ngrams, num_ngrams + num_new):
            locations[i, 0] = row
        num_ngrams += num_new
    return num_ngrams


@kernel(f"UniTuple(int64, 2)({BYTES}, {OFFSETS}, {TABLE}, int64, int64, {HASHES}, {HASHES}, int64[::1], int64[:, ::1])")
def _find_ngrams(
    data: UInt8Array,
    offsets: Int64Array,
    fold_table: UInt32Array,
    words: int,
    characters: int,
    bits: UInt64Array,
    keys: UInt64Array,
    entries: Int64Array,
    matches: Int64Array,
) -> tuple[int, int]:
    """Find the n-grams of texts until `matches` might not have room for those of the next text.

    Returns the number of texts that were searched, and the number of matches. The caller continues with the next text.
    """
    longest = 0
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    tokens, hashes = np.empty(longest + 1, np.uint64), np.empty(longest + 2, np.uint64)
    locations = np.empty((longest + 2, 4), np.int64)
    num_matches = 0
    for row in range(len(offsets) - 1):
        if num_matches + offsets[row + 1] - offsets[row] + 2 > len(matches):
            return row, num_matches
        count = token_hashes(data, offsets[row], offsets[row + 1], fold_table, tokens)
        for i in range(_list_text_ngrams(tokens, count, words, characters, hashes, locations)):
            entry = _entry(hashes[i], bits, keys, entries)
            if entry >= 0:
                matches[num_matches, 0], matches[num_matches, 1] = row, locations[i, 1]
                matches[num_matches, 2], matches[num_matches, 3] = locations[i, 2], entry
                num_matches += 1
    return len(offsets) - 1, num_matches
